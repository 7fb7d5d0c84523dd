"""Promises of `core.graph.turns`."""

from hypothesis import given, settings
from hypothesis import strategies as st

from core.graph.turns import Turns, Want

BLOCKS = st.tuples(st.integers(1, 40), st.integers(1, 50))


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(1, 40), st.integers(1, 50), st.booleans()), max_size=8), st.integers(1, 60))
def test_a_step_has_somebody_and_no_more_rows_than_there_is_room_for(
    wishes: list[tuple[int, int, bool]], room: int
) -> None:
    wants = {number: Want(*wish) for number, wish in enumerate(wishes)}
    turns: Turns[int] = Turns()
    for _ in range(4):
        taken = turns.take(wants, room)
        assert bool(taken) == bool(wants)
        assert len(set(taken)) == len(taken)
        assert len(taken) <= 1 or sum(wants[key].rows for key in taken) <= room
        assert not taken or wants[taken[0]].urgent == any(want.urgent for want in wants.values())


@settings(deadline=None)
@given(st.lists(BLOCKS, min_size=1, max_size=6), st.integers(1, 100), st.integers(1, 60))
def test_graphs_that_always_have_rows_get_the_same_work_to_within_two_blocks(
    blocks: list[tuple[int, int]], room: int, steps: int
) -> None:
    turns: Turns[int] = Turns()
    wants = {number: Want(*block) for number, block in enumerate(blocks)}
    done = dict.fromkeys(wants, 0)
    for _ in range(steps):
        for key in turns.take(wants, room):
            done[key] += wants[key].work
        assert max(done.values()) - min(done.values()) <= 2 * max(want.work for want in wants.values())


@settings(deadline=None)
@given(st.lists(BLOCKS, min_size=1, max_size=6), BLOCKS, st.integers(1, 10), st.integers(1, 100), st.integers(0, 20))
def test_a_small_graph_waits_for_its_own_rows_and_not_for_those_of_others(
    large: list[tuple[int, int]], small: tuple[int, int], n_blocks: int, room: int, head_start: int
) -> None:
    turns: Turns[int] = Turns()
    others = {number: Want(*block) for number, block in enumerate(large)}
    for _ in range(head_start):
        turns.take(others, room)
    own = Want(*small)
    largest = max(want.work for want in (own, *others.values()))
    before, left = 0, n_blocks
    while left:
        taken = turns.take({**others, -1: own}, room)
        left -= -1 in taken
        before += sum(others[key].work for key in taken if key != -1)
    assert before <= len(others) * (n_blocks * own.work + 3 * largest)


def test_who_comes_late_is_level_with_who_is_furthest_behind() -> None:
    turns: Turns[str] = Turns()
    old = {"a": Want(4, 1), "b": Want(4, 1)}
    for _ in range(5):
        assert turns.take(old, 8) == ["a", "b"]
    wants = {**old, "new": Want(4, 1)}
    assert [turns.take(wants, 4) for _ in range(6)] == [["a"], ["b"], ["new"]] * 2


def test_urgent_blocks_come_before_all_others() -> None:
    turns: Turns[str] = Turns()
    wants = {"old": Want(4, 1), "young": Want(4, 1, urgent=True)}
    assert [turns.take(wants, 4) for _ in range(3)] == [["young"]] * 3
    assert turns.take(wants, 8) == ["young", "old"]


def test_short_prompts_have_more_rows_for_the_same_work() -> None:
    turns: Turns[str] = Turns()
    wants = {"long": Want(4, 30), "short": Want(4, 3)}
    rows = dict.fromkeys(wants, 0)
    for _ in range(110):
        for key in turns.take(wants, 8):
            rows[key] += 4
    assert 9 <= rows["short"] / rows["long"] <= 10


def test_a_block_that_does_not_fit_lets_a_smaller_one_into_the_step_and_comes_next() -> None:
    turns: Turns[str] = Turns()
    wants = {"a": Want(4, 1), "big": Want(6, 1), "c": Want(3, 1)}
    assert turns.take(wants, 8) == ["a", "c"]
    assert turns.take(wants, 8) == ["big"]


def test_who_left_is_forgotten() -> None:
    turns: Turns[str] = Turns()
    one, other = {"a": Want(4, 1)}, {"b": Want(4, 1)}
    for _ in range(9):
        turns.take(one, 4)
    assert turns.take(other, 4) == ["b"]
    assert turns.take({}, 4) == []
    assert turns.take({**one, **other}, 4) == ["a"]
    assert turns.take({**one, **other}, 4) == ["b"]
