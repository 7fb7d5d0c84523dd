"""Which sequences may share cached keys and values."""

from dataclasses import replace

import pytest

from core.steerer.request import Program, Step
from core.steerer.salt import cache_salt

STEP = Step(3, "aa", "bb", (1.0, 0.0, 0.0, -1.0, 1.0))
PROGRAM = Program((STEP,), "all", (0, 5))


def test_an_unsteered_sequence_has_no_salt() -> None:
    assert cache_salt(None, 7) is None


@pytest.mark.parametrize(
    "other",
    [
        replace(PROGRAM, steps=(replace(STEP, site=4),)),
        replace(PROGRAM, steps=(replace(STEP, read="ab"),)),
        replace(PROGRAM, steps=(replace(STEP, write="ab"),)),
        replace(PROGRAM, steps=(replace(STEP, coefficients=(1.5, 0.0, 0.0, -1.0, 1.0)),)),
        replace(PROGRAM, steps=(STEP, STEP)),
        replace(PROGRAM, steps=()),
        replace(PROGRAM, spared=()),
        replace(PROGRAM, spared=(0, 6)),
        replace(PROGRAM, positions="prompt"),
        replace(PROGRAM, positions="generated"),
    ],
)
def test_whatever_changes_what_is_left_behind_changes_the_salt(other: Program) -> None:
    assert cache_salt(other, 7) != cache_salt(PROGRAM, 7)


def test_the_order_of_operators_counts() -> None:
    other = replace(STEP, site=4)
    assert cache_salt(Program((STEP, other)), 7) != cache_salt(Program((other, STEP)), 7)


def test_the_prompts_length_counts_only_where_it_decides_what_is_steered() -> None:
    assert cache_salt(PROGRAM, 7) == cache_salt(PROGRAM, 8)
    for positions in ("prompt", "generated"):
        program = replace(PROGRAM, positions=positions)
        assert cache_salt(program, 7) != cache_salt(program, 8)


def test_the_salt_is_the_same_in_every_process() -> None:
    assert cache_salt(PROGRAM, 7) == "0777a81c537b9c1106d934c6d6eab255"
