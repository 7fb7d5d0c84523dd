"""Who has a slot of the tables, and which rows are whose."""

import numpy as np
import torch

from core.steerer.request import Program, Step, pack
from tests.unit.steerer.steps import SIZES, Sequence, Worker, operators

OPERATORS = operators(np.random.default_rng(0))


def steered(start: int = 0, count: int = 1) -> Sequence:
    return Sequence(4, start, count, [(1, OPERATORS[0])])


def test_rows_of_a_step_name_their_slot_and_all_others_none() -> None:
    worker = Worker()
    worker.admit("a", steered())
    worker.admit("b", steered())
    worker.lay_out({"x": Sequence(4, 0, 2), "a": steered(0, 3), "b": steered(0, 1)})
    slots = worker.tables.row_slot.tolist()
    assert slots[:2] == [-1, -1]
    assert len(set(slots[2:5])) == 1
    assert slots[5] not in (-1, slots[2])
    assert set(slots[6:]) == {-1}


def test_rows_of_the_step_before_are_forgotten() -> None:
    worker = Worker()
    worker.admit("a", steered())
    worker.lay_out({"a": steered(0, 4)})
    worker.lay_out({"x": Sequence(4, 0, 1)})
    assert set(worker.tables.row_slot.tolist()) == {-1}


def test_a_sequence_that_left_is_not_steered_any_more_and_its_slot_is_free() -> None:
    worker = Worker()
    for number in range(3 * SIZES.slots):
        worker.admit(f"n{number}", steered())
        worker.lay_out({f"n{number}": steered()})
        assert worker.tables.row_slot[0] >= 0
        worker.roster.release(f"n{number}")
    worker.lay_out({"n0": steered()})
    assert worker.tables.row_slot[0] == -1
    assert worker.roster.sequences == ()


def test_more_sequences_than_slots_share_them_as_steps_need_them() -> None:
    worker = Worker()
    names = [f"n{number}" for number in range(2 * SIZES.slots)]
    for number, name in enumerate(names):
        operator = OPERATORS[number % 4]
        worker.admit(name, Sequence(4 + number, 0, 1, [(1, operator)]))
    for turn in range(4):
        chosen = names[turn::2][: SIZES.slots]
        worker.lay_out({name: Sequence(0, 0, 1) for name in chosen})
        slots = worker.tables.row_slot[: len(chosen)].long()
        assert len(set(slots.tolist())) == len(chosen)
        assert worker.tables.prompt_lengths[slots].tolist() == [4 + names.index(name) for name in chosen]


def test_an_idle_worker_writes_nothing() -> None:
    worker = Worker()
    worker.lay_out({"x": Sequence(4, 0, 3)})
    assert worker.tables.version == 0


def test_a_request_that_can_not_be_steered_is_counted_and_raises_nothing() -> None:
    worker = Worker()
    unknown = Program((Step(1, "00", "00", (1.0, 0.0, 0.0, 0.0, 0.0)),))
    worker.roster.admit("a", 4, pack(unknown, None))
    worker.admit("b", Sequence(4, 0, 1, [(1, OPERATORS[0])] * (SIZES.operators + 1)))
    worker.admit("c", Sequence(4, 0, 1, [(SIZES.sites, OPERATORS[0])]))
    worker.roster.admit("d", 4, {"rayscope": {"program": 3}})
    worker.lay_out({name: Sequence(4, 0, 1) for name in "abcd"})
    assert worker.roster.faults == 4
    assert set(worker.tables.row_slot.tolist()) == {-1}


def test_a_vector_that_moved_to_another_row_is_found_there() -> None:
    worker = Worker()
    first, second, third = (np.full(SIZES.width, value, dtype=np.float32) for value in (1, 2, 3))
    put = worker.roster.put_vector
    put(0, "aa", first.tobytes())
    put(0, "bb", second.tobytes())
    put(1, "aa", first.tobytes())
    put(0, "cc", third.tobytes())
    worker.roster.admit("s", 4, pack(Program((Step(0, "aa", "aa", (1.0, 0.0, 0.0, 0.0, 0.0)),)), None))
    worker.lay_out({"s": Sequence(4, 0, 1)})
    row = worker.tables.vector_rows[worker.tables.row_slot[0].long(), 0, 0, 0].long()
    assert torch.equal(worker.tables.vectors[row], torch.from_numpy(first))
    assert worker.roster.faults == 0
