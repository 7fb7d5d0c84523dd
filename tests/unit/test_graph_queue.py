"""Promises of `core.graph.queue`: how many graphs are made at once, how many wait, and what the others are told."""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from core.deadline import Deadline
from core.errors import DeadlineExceeded, Overloaded, Unavailable
from core.graph.queue import BUSY, GraphQueue, Place


def later() -> Deadline:
    return Deadline.after(600)


class HeldClock:
    def __init__(self) -> None:
        self.now = 1_000.0

    def time(self) -> float:
        return self.now

    def monotonic(self) -> float:
        return self.now


def running(test: Callable[[], Coroutine[Any, Any, None]]) -> Callable[[], None]:
    def run() -> None:
        asyncio.run(asyncio.wait_for(test(), 20))

    run.__name__ = test.__name__
    return run


class Graph:
    """A graph that is made until it is told that it is done."""

    def __init__(self, place: Place, deadline: Deadline | None = None) -> None:
        self.begun, self.done = asyncio.Event(), asyncio.Event()
        self.task = asyncio.create_task(self._make(place, deadline or later()))

    async def finish(self) -> None:
        self.done.set()
        await self.task

    async def _make(self, place: Place, deadline: Deadline) -> None:
        with place:
            await place.turn(deadline)
            self.begun.set()
            await self.done.wait()


async def settled() -> None:
    """Lets everybody who can go on go on."""
    for _ in range(5):
        await asyncio.sleep(0)


@running
async def test_so_many_graphs_are_made_at_once_and_the_others_in_turn() -> None:
    queue = GraphQueue(2, 3)
    graphs = [Graph(queue.reserve()) for _ in range(5)]
    await settled()
    assert [graph.begun.is_set() for graph in graphs] == [True, True, False, False, False]
    await graphs[1].finish()
    await settled()
    assert [graph.begun.is_set() for graph in graphs] == [True, True, True, False, False]
    for graph in (graphs[0], *graphs[2:]):
        await graph.finish()
    assert not queue.busy


@running
async def test_whoever_finds_the_queue_full_is_told_when_to_come_back() -> None:
    clock = HeldClock()
    queue = GraphQueue(2, 1, clock)
    graphs = [Graph(queue.reserve()) for _ in range(2)]
    await settled()
    assert not queue.busy
    clock.now += 30
    for graph in graphs:
        await graph.finish()  # two graphs of 30 seconds
    graphs = [Graph(queue.reserve()) for _ in range(3)]
    assert queue.busy
    with pytest.raises(Overloaded, match="2 graphs are in progress and 1 wait") as refused:
        queue.reserve()
    # Two must end until there is room for one more to be made, and two are made at once.
    assert refused.value.retry_after_s == pytest.approx(30)
    with pytest.raises(Overloaded):
        queue.check()
    for graph in graphs:
        await graph.finish()
    queue.check()


@running
async def test_before_any_graph_was_made_the_time_to_wait_is_a_second() -> None:
    queue = GraphQueue(1, 1)
    for _ in range(2):
        queue.reserve()
    with pytest.raises(Overloaded) as refused:
        queue.check()
    assert refused.value.retry_after_s == 1


@running
async def test_with_no_room_to_wait_it_is_the_peers_lock() -> None:
    queue = GraphQueue(8, 0)
    queue.check()
    graph = Graph(queue.reserve())
    assert queue.busy  # from the moment that a place is taken, not only when the work begins
    with pytest.raises(Unavailable, match=BUSY):
        queue.reserve()
    assert BUSY == "Server busy, please try again later."
    await graph.finish()
    await Graph(queue.reserve()).finish()


@running
async def test_a_graph_that_gives_up_waiting_leaves_its_place() -> None:
    queue = GraphQueue(1, 2)
    first, second, third = (Graph(queue.reserve()) for _ in range(3))
    await settled()
    second.task.cancel()
    await asyncio.gather(second.task, return_exceptions=True)
    assert not queue.busy
    await first.finish()
    await settled()
    assert third.begun.is_set()
    await third.finish()


@running
async def test_a_graph_in_progress_that_is_stopped_or_fails_makes_room_for_the_next() -> None:
    queue = GraphQueue(1, 1)
    first, second = Graph(queue.reserve()), Graph(queue.reserve())
    await settled()
    first.task.cancel()
    await settled()
    assert second.begun.is_set()
    second.done.set()
    await second.task
    with pytest.raises(ValueError, match="broken"), queue.reserve() as place:
        await place.turn(later())
        raise ValueError("broken")
    third = Graph(queue.reserve())
    await settled()
    assert third.begun.is_set()
    await third.finish()


@running
async def test_only_finished_graphs_tell_how_long_graphs_take() -> None:
    clock = HeldClock()
    queue = GraphQueue(1, 1, clock)
    stopped = Graph(queue.reserve())
    await settled()
    clock.now += 500
    stopped.task.cancel()
    await asyncio.gather(stopped.task, return_exceptions=True)
    done = Graph(queue.reserve())
    await settled()
    clock.now += 7
    await done.finish()
    queue.reserve()
    assert queue.queue_time_s() == pytest.approx(7)


@running
async def test_waiting_ends_with_the_deadline() -> None:
    queue = GraphQueue(1, 1)
    first = Graph(queue.reserve())
    late = Graph(queue.reserve(), Deadline.after(0.01))
    with pytest.raises(DeadlineExceeded):
        await late.task
    assert not queue.busy
    await first.finish()


@running
async def test_a_place_is_given_back_once() -> None:
    queue = GraphQueue(1, 1)
    place = queue.reserve()
    for _ in range(2):
        with place:
            pass
    queue.reserve()
    queue.reserve()
    with pytest.raises(Overloaded):
        queue.reserve()
