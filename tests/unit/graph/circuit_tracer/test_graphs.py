"""circuit-tracer behind the question that all engines are asked: by turns, with deadlines, and stopped when left."""

import asyncio
import threading
from typing import Any

import pytest

from core.deadline import Deadline
from core.errors import DeadlineExceeded, InvalidRequest, Unavailable
from core.graph.circuit_tracer.engine import Settings
from core.graph.circuit_tracer.graphs import CircuitTracerGraphs
from core.graph.requests import AttributionOptions, GraphPrompt

UPDATE_INTERVAL = 7
OPTIONS = AttributionOptions(max_n_logits=3, desired_logit_prob=0.5, batch_size=9, max_feature_nodes=11, targets=(4,))
PROMPT = GraphPrompt((0, 5), 1)


class Fake:
    """Answers when it is let, as long as it is alive."""

    def __init__(self) -> None:
        self.alive = True
        self.asked: list[tuple[tuple[int, ...], Settings]] = []
        self.begun = threading.Event()
        self.let = threading.Event()
        self.closed = threading.Event()
        self.at_once = 0

    def attribute(self, token_ids: tuple[int, ...], settings: Settings) -> tuple[Any, None]:
        self.at_once += 1
        assert self.at_once == 1
        self.asked.append((token_ids, settings))
        self.begun.set()
        self.let.wait(60)
        self.at_once -= 1
        if not self.alive:
            raise Unavailable("it ended")
        return ("a graph of", token_ids), None

    def close(self) -> None:
        self.alive = False
        self.let.set()
        self.closed.set()


class Starts:
    """Starts fakes, the first of which wait and the others do not."""

    def __init__(self, *, waiting: int = 0) -> None:
        self.fakes: list[Fake] = []
        self._waiting = waiting
        self.started = asyncio.Event()
        self._loop = asyncio.get_running_loop()

    def __call__(self) -> Any:
        fake = Fake()
        if len(self.fakes) >= self._waiting:
            fake.let.set()
        self.fakes.append(fake)
        self._loop.call_soon_threadsafe(self.started.set)
        return fake


def soon() -> Deadline:
    return Deadline.after(60)


def test_a_question_becomes_circuit_tracers_settings():
    async def scenario() -> None:
        starts = Starts()
        graphs = CircuitTracerGraphs(starts, UPDATE_INTERVAL)
        assert await graphs.attribute(PROMPT, OPTIONS, soon()) == ("a graph of", (0, 5))
        assert starts.fakes[0].asked == [((0, 5), Settings(3, 0.5, 11, 9, 7, (4,)))]
        graphs.close()
        assert not starts.fakes[0].alive

    asyncio.run(scenario())


def test_graphs_take_turns_in_one_process():
    async def scenario() -> None:
        starts = Starts()
        graphs = CircuitTracerGraphs(starts, UPDATE_INTERVAL)
        found = await asyncio.gather(*(graphs.attribute(GraphPrompt((0, n), 1), OPTIONS, soon()) for n in range(4)))
        assert found == [("a graph of", (0, n)) for n in range(4)]
        assert len(starts.fakes) == 1
        graphs.close()

    asyncio.run(scenario())


def test_a_graph_that_nobody_waits_for_ends_with_its_process():
    async def scenario() -> None:
        starts = Starts(waiting=1)
        graphs = CircuitTracerGraphs(starts, UPDATE_INTERVAL)
        left = asyncio.create_task(graphs.attribute(PROMPT, OPTIONS, soon()))
        await starts.started.wait()
        await asyncio.to_thread(starts.fakes[0].begun.wait, 60)
        left.cancel()
        with pytest.raises(asyncio.CancelledError):
            await left
        assert not starts.fakes[0].alive
        assert await graphs.attribute(PROMPT, OPTIONS, soon()) == ("a graph of", (0, 5))
        assert len(starts.fakes) == 2
        graphs.close()

    asyncio.run(scenario())


def test_a_deadline_ends_a_graph_and_its_process():
    async def scenario() -> None:
        starts = Starts(waiting=1)
        graphs = CircuitTracerGraphs(starts, UPDATE_INTERVAL)
        await graphs._ready()
        with pytest.raises(DeadlineExceeded):
            await graphs.attribute(PROMPT, OPTIONS, Deadline.after(0.05))
        assert not starts.fakes[0].alive

    asyncio.run(scenario())


def test_a_process_that_died_is_replaced():
    async def scenario() -> None:
        starts = Starts()
        graphs = CircuitTracerGraphs(starts, UPDATE_INTERVAL)
        await graphs.attribute(PROMPT, OPTIONS, soon())
        starts.fakes[0].close()
        assert graphs.alive
        assert await graphs.attribute(PROMPT, OPTIONS, soon()) == ("a graph of", (0, 5))
        assert len(starts.fakes) == 2
        graphs.close()

    asyncio.run(scenario())


def test_a_start_that_nobody_waits_for_is_not_wasted_and_not_forgotten():
    async def scenario(*, closes: bool) -> None:
        release, starts = threading.Event(), Starts()

        def slow() -> Any:
            release.wait(60)
            return starts()

        graphs = CircuitTracerGraphs(slow, UPDATE_INTERVAL)
        with pytest.raises(DeadlineExceeded):
            await graphs.attribute(PROMPT, OPTIONS, Deadline.after(0.05))
        if closes:
            graphs.close()
            release.set()
            await starts.started.wait()
            await asyncio.to_thread(starts.fakes[0].closed.wait, 60)
        else:
            release.set()
            await graphs.attribute(PROMPT, OPTIONS, soon())
            graphs.close()
        assert [fake.alive for fake in starts.fakes] == [False]

    asyncio.run(scenario(closes=False))
    asyncio.run(scenario(closes=True))


def test_a_process_that_does_not_start_any_more_is_told():
    def fails() -> Any:
        raise Unavailable("no such interpreter")

    async def scenario() -> None:
        graphs = CircuitTracerGraphs(fails, UPDATE_INTERVAL)
        assert graphs.alive
        with pytest.raises(Unavailable, match="no such interpreter"):
            await graphs.attribute(PROMPT, OPTIONS, soon())
        assert not graphs.alive

    asyncio.run(scenario())


def test_a_prompt_of_one_token_is_refused():
    async def scenario() -> None:
        with pytest.raises(InvalidRequest, match="single token"):
            await CircuitTracerGraphs(Starts(), UPDATE_INTERVAL).attribute(GraphPrompt((0,), 1), OPTIONS, soon())

    asyncio.run(scenario())
