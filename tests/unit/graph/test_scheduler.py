"""Promises of `core.graph.scheduler`."""

import asyncio
import gc
import threading
import weakref
from collections.abc import AsyncGenerator, Callable, Coroutine, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from core.deadline import Deadline
from core.device import DeviceExecutor
from core.errors import DeadlineExceeded, Overloaded, RayscopeError, TooLarge, Unavailable
from core.graph.admission import SchedulerLimits
from core.graph.attribution import Attribution, Choice, Scoring, Selecting, attribute
from core.graph.cost import CostModel, GraphCost, GraphSize
from core.graph.effects import Effects, LogitNodes
from core.graph.linear.weights import LinearWeights
from core.graph.linearised import Linearised, TargetRows
from core.graph.plan import Plan, Progress, run
from core.graph.replay import Replay, replay_rows
from core.graph.scheduler import RowScheduler
from core.graph.selection import assemble, shards
from core.graph.tracing import trace
from tests.unit.engine.families import D_MODEL, eager_model, hf_model
from tests.unit.graph.dense import World, world
from tests.unit.graph.sets import random_set

PATIENCE_S = 20.0
SMALL = SchedulerLimits(block_rows=4, step_rows=8)


class FakeClock:
    def __init__(self) -> None:
        self.now = 1_000.0

    def time(self) -> float:
        return self.now

    def monotonic(self) -> float:
        return self.now


class Device:
    """Looks rows up, one step at a time, and stops before a step when the test says so."""

    def __init__(self) -> None:
        self.steps: list[list[tuple[int, int]]] = []
        self.layers: list[list[int]] = []
        self.threads: set[int] = set()
        self.poison: dict[int, Exception] = {}
        self.before_step: Callable[[], None] = lambda: None
        self.open = threading.Event()
        self.open.set()
        self.begun = threading.Semaphore(0)

    def step(self, packed: list[tuple[Linearised, TargetRows]]) -> Sequence[torch.Tensor]:
        self.threads.add(threading.get_ident())
        self.begun.release()
        assert self.open.wait(PATIENCE_S)
        self.before_step()
        self.steps.append([(name(linearised), len(targets)) for linearised, targets in packed])
        self.layers.append([int(layer) for _, targets in packed for layer in targets.layer])
        for linearised, _ in packed:
            if name(linearised) in self.poison:
                raise self.poison[name(linearised)]
        return [linearised.rows(targets) for linearised, targets in packed]

    async def has_begun(self, steps: int = 1) -> None:
        for _ in range(steps):
            assert await asyncio.to_thread(self.begun.acquire, True, PATIENCE_S)


def name(linearised: Linearised) -> int:
    return linearised.token_ids[0]


def graph(number: int, n: int = 12, **sizes: int) -> World:
    """A world that the device can tell from others."""
    made = world(number, n, **sizes)
    object.__setattr__(made.linearised, "token_ids", (number, *made.linearised.token_ids[1:]))
    return made


def plan(there: World, choice: Choice | None = None) -> Attribution:
    return Attribution(there.linearised, there.logits, there.targets, choice or Choice())


def cost(there: World, choice: Choice | None = None) -> GraphCost:
    n_layers, n_tokens = there.linearised.n_layers, len(there.linearised.token_ids)
    count = (choice or Choice()).count(there.n)
    return CostModel(8.0, 24.0).predict(GraphSize(n_layers, n_tokens, 16, there.n, count, there.m))


def alone(there: World, choice: Choice | None = None) -> Effects:
    return attribute(there.linearised, there.logits, there.targets, choice or Choice(), 1)


class Bench:
    """A scheduler on a device that looks rows up."""

    def __init__(self, limits: SchedulerLimits) -> None:
        self.device = Device()
        self.clock = FakeClock()
        self.executor = DeviceExecutor()
        self.scheduler = RowScheduler(self.device.step, self.executor, limits, clock=self.clock)

    def submit(
        self,
        there: World,
        choice: Choice | None = None,
        report: Callable[[Progress], None] | None = None,
        seconds: float = 60.0,
    ) -> asyncio.Task[Effects]:
        return asyncio.create_task(
            self.scheduler.submit(plan(there, choice), cost(there, choice), Deadline.after(seconds, self.clock), report)
        )


@asynccontextmanager
async def bench(limits: SchedulerLimits = SMALL) -> AsyncGenerator[Bench]:
    there = Bench(limits)
    try:
        yield there
    finally:
        there.device.open.set()
        await there.scheduler.aclose()
        await there.executor.aclose()


def running(test: Callable[..., Coroutine[Any, Any, None]]) -> Callable[..., None]:
    def drive(*args: Any, **named: Any) -> None:
        asyncio.run(asyncio.wait_for(test(*args, **named), 2 * PATIENCE_S))

    drive.__name__ = test.__name__
    return drive


async def settle() -> None:
    """Let every task run until it waits for something that only the test can give."""
    for _ in range(30):
        await asyncio.sleep(0)


def equal(one: Effects, other: Effects) -> bool:
    return torch.equal(one.weights, other.weights) and torch.equal(one.features.index, other.features.index)


CHOICES = st.builds(Choice, st.one_of(st.none(), st.integers(1, 15)), st.one_of(st.none(), st.integers(1, 6)))


@given(
    st.lists(st.tuples(st.integers(0, 30), st.integers(1, 3), st.integers(1, 3), CHOICES), min_size=1, max_size=6),
    st.integers(1, 40),
    st.integers(1, 10),
    st.integers(1, 6),
    st.one_of(st.none(), st.integers(9_000, 60_000)),
)
@settings(deadline=None, max_examples=60)
def test_graphs_computed_together_are_bit_equal_to_graphs_computed_alone(
    sizes: list[tuple[int, int, int, Choice]], step_rows: int, block_rows: int, max_running: int, budget: int | None
) -> None:
    graphs = [
        (graph(number, n, n_layers=n_layers, n_tokens=n_tokens), choice)
        for number, (n, n_layers, n_tokens, choice) in enumerate(sizes)
    ]
    limits = SchedulerLimits(block_rows, step_rows, max_running, 10, budget)

    async def together() -> None:
        async with bench(limits) as there:
            answers = await asyncio.gather(*(there.submit(*given) for given in graphs), return_exceptions=True)
            for answer, (given, choice) in zip(answers, graphs, strict=True):
                if isinstance(answer, TooLarge):
                    assert budget is not None
                    needed = cost(given, choice)
                    assert needed.held_bytes + needed.row_bytes > budget
                else:
                    assert isinstance(answer, Effects), answer
                    assert equal(answer, alone(given, choice))
            assert all(len(step) == 1 or sum(rows for _, rows in step) <= step_rows for step in there.device.steps)
            assert all(rows <= block_rows for step in there.device.steps for _, rows in step)
            assert there.scheduler.running == there.scheduler.waiting == there.scheduler.held_bytes == 0

    asyncio.run(asyncio.wait_for(together(), PATIENCE_S))


@running
async def test_a_step_has_rows_of_several_graphs_sorted_by_layer_on_the_device_thread() -> None:
    async with bench() as there:
        answers = [there.submit(graph(number, 40)) for number in (1, 2, 3)]
        await asyncio.gather(*answers)
        assert max(len(step) for step in there.device.steps) > 1
        assert all(last == sorted(last) for last in deepest(there.device))
        assert len(there.device.threads) == 1
        assert threading.get_ident() not in there.device.threads


def deepest(device: Device) -> list[list[int]]:
    """Layer of the last row of each graph, step by step."""
    found: list[list[int]] = []
    for step, layers in zip(device.steps, device.layers, strict=True):
        ends, last = 0, list[int]()
        for _, rows in step:
            ends += rows
            last.append(layers[ends - 1])
        found.append(last)
    return found


@running
async def test_a_graph_has_the_same_blocks_whoever_is_beside_it() -> None:
    async with bench() as there:
        for neighbours in (0, 1, 2, 5):
            there.device.steps.clear()
            await asyncio.gather(*(there.submit(graph(number, 17 + number)) for number in range(neighbours + 1)))
            assert [rows for step in there.device.steps for who, rows in step if who == 0] == [3, 4, 4, 4, 4, 1]


@running
async def test_a_caller_may_want_smaller_blocks_but_not_larger_ones() -> None:
    async with bench() as there:
        for wanted, largest in ((2, 2), (100, 4)):
            there.device.steps.clear()
            given, deadline = graph(1, 17), Deadline.after(60.0, there.clock)
            await there.scheduler.submit(plan(given), cost(given), deadline, block_rows=wanted)
            assert max(rows for step in there.device.steps for _, rows in step) == largest


@running
async def test_a_small_graph_does_not_wait_for_a_large_one() -> None:
    async with bench() as there:
        there.device.open.clear()
        large = there.submit(graph(1, 2_000))
        await there.device.has_begun()
        small = there.submit(graph(2, 12))
        await settle()
        there.device.open.set()
        await small
        assert not large.done()
        small_steps = [number for number, step in enumerate(there.device.steps) if any(who == 2 for who, _ in step)]
        assert small_steps[0] == 1, "its logit rows are in the first step after it came"
        assert (2, 3) in there.device.steps[1]
        assert small_steps[-1] <= 1 + 3 + 1, "four rows of twelve in every step or nearly"
        large.cancel()


@running
async def test_graphs_join_and_leave_while_others_are_in_progress() -> None:
    async with bench() as there:
        first = there.submit(graph(1, 60))
        await there.device.has_begun(3)
        others = [there.submit(graph(number, 20), Choice(15, 4)) for number in range(2, 8)]
        assert equal(await first, alone(graph(1, 60)))
        for number, answer in enumerate(others, 2):
            assert equal(await answer, alone(graph(number, 20), Choice(15, 4)))


@running
async def test_the_two_halves_of_a_graph_can_be_computed_apart_and_in_shards() -> None:
    async with bench() as tracer, bench() as attributor:
        given = graph(1, 40)
        deadline = Deadline.after(60.0, tracer.clock)
        selecting = Selecting(given.linearised, given.logits, given.targets, 25)
        selected = await tracer.scheduler.submit(selecting, cost(given), deadline)
        runs = shards(selected.linearised.features, 3)
        scorings = [Scoring(selected.linearised, part) for part in runs]
        rows = await asyncio.gather(*(attributor.scheduler.submit(part, cost(given), deadline) for part in scorings))
        assert equal(assemble(selected, zip(runs, rows, strict=True)), alone(given, Choice(25)))
        nothing = Scoring(selected.linearised, range(0))
        assert (await attributor.scheduler.submit(nothing, cost(given), deadline)).shape == (0, 25 + 8)


@running
async def test_eight_replayed_graphs_at_once_and_in_shards_have_the_bits_of_each_alone() -> None:
    transcoders = random_set("plt_skip")
    weights = LinearWeights.of_model(hf_model("llama")).with_skips(transcoders)
    graphs: list[World] = []
    for number in range(8):
        ids = [(7 * number + 3 * place) % 61 for place in range(1 + 2 * number)]
        prompt = trace(eager_model("llama"), transcoders, ids).with_encoders(transcoders)
        graphs.append(explained(Replay(weights, prompt), number))
    choices = [Choice(20 + 9 * number, None if number % 3 else 25) for number in range(8)]
    limits = SchedulerLimits(block_rows=16, step_rows=40)
    expected = [
        attribute(given.linearised, given.logits, given.targets, choice, 16)
        for given, choice in zip(graphs, choices, strict=True)
    ]
    assert len({len(effects.features) for effects in expected}) == 8
    async with bench(limits) as there:
        scheduler = RowScheduler(replay_rows, there.executor, limits)
        deadline = Deadline.after(60.0)
        pairs = list(zip(graphs, choices, strict=True))
        found = await asyncio.gather(*(scheduler.submit(plan(*pair), cost(*pair), deadline) for pair in pairs))
        assert all(equal(one, other) for one, other in zip(found, expected, strict=True))
        given, choice = pairs[7]
        selecting = Selecting(given.linearised, given.logits, given.targets, choice.max_features)
        selected = await scheduler.submit(selecting, cost(given), deadline)
        runs = shards(selected.linearised.features, 3, 16)
        scorings = [Scoring(selected.linearised, part) for part in runs]
        rows = await asyncio.gather(*(scheduler.submit(part, cost(given), deadline) for part in scorings))
        assert equal(assemble(selected, zip(runs, rows, strict=True)), expected[7])
        await scheduler.aclose()


def explained(replay: Replay, seed: int) -> World:
    """A replayed prompt with two random targets."""
    directions = torch.randn(2, D_MODEL, generator=torch.Generator().manual_seed(seed))
    last = torch.full((2,), len(replay.token_ids) - 1)
    targets = TargetRows(torch.full((2,), replay.n_layers), last, directions)
    return World(replay, LogitNodes((0, 1), ("a", "b"), torch.tensor([0.5, 0.3])), targets)


@running
async def test_progress_is_told_on_the_event_loop_from_none_to_all() -> None:
    async with bench(SchedulerLimits(block_rows=4, step_rows=4)) as there:
        told: list[Progress] = []
        threads: set[int] = set()

        def report(progress: Progress) -> None:
            told.append(progress)
            threads.add(threading.get_ident())

        await there.submit(graph(1, 20), Choice(17), report)
        assert told == [Progress(done, 17) for done in (0, 0, 4, 8, 12, 16, 17)]
        assert threads == {threading.get_ident()}


@running
async def test_a_graph_without_neighbours_has_as_many_blocks_in_a_step_as_there_is_room_for() -> None:
    async with bench(SchedulerLimits(block_rows=4, step_rows=13)) as there:
        assert equal(await there.submit(graph(1, 30), Choice(27)), alone(graph(1, 30), Choice(27)))
        steps = [[rows for _, rows in step] for step in there.device.steps]
        assert steps == [[3], [4, 4, 4], [4, 4, 4], [3]]  # the targets decide what comes next
        together = there.submit(graph(2, 30)), there.submit(graph(3, 30))
        await asyncio.gather(*together)
        shared = [[who for who, _ in step] for step in there.device.steps[len(steps) :] if len({*dict(step)}) > 1]
        assert shared
        assert all(len({*step}) == len(step) for step in shared)


@running
async def test_a_report_that_fails_ends_its_own_graph_only() -> None:
    async with bench() as there:

        def report(progress: Progress) -> None:
            if progress.done:
                raise KeyError("the listener")

        bad, good = there.submit(graph(1), report=report), there.submit(graph(2))
        with pytest.raises(KeyError, match="the listener"):
            await bad
        assert equal(await good, alone(graph(2)))


def watched(there: World) -> "weakref.ref[Any]":
    return weakref.ref(there.linearised)


@running
async def test_a_cancelled_graph_is_let_go_of_at_once() -> None:
    async with bench(SchedulerLimits(block_rows=4, step_rows=4, max_running=2)) as there:
        there.device.open.clear()
        held = {number: graph(number, 50) for number in (1, 2, 3)}
        answers = {number: there.submit(given) for number, given in held.items()}
        refs = {number: watched(given) for number, given in held.items()}
        held.clear()
        await there.device.has_begun()
        assert there.device.begun.acquire(blocking=False) is False
        assert (there.scheduler.running, there.scheduler.waiting) == (2, 1)
        # In a step that is under way: when that ends. In progress beside it, or waiting: now.
        for number in (1, 2, 3):
            answers[number].cancel()
        await settle()
        gc.collect()
        assert {number for number, ref in refs.items() if ref() is not None} <= {1, 2}
        assert refs[3]() is None
        assert (there.scheduler.running, there.scheduler.waiting, there.scheduler.held_bytes) == (0, 0, 0)
        after = there.submit(graph(4))
        there.device.open.set()
        await after
        gc.collect()
        assert [number for number, ref in refs.items() if ref() is not None] == []
        assert all(who == 4 for step in there.device.steps[1:] for who, _ in step), "no row of theirs after that"
        assert all(answer.cancelled() for answer in answers.values())


@running
async def test_an_idle_scheduler_keeps_nothing_of_the_graphs_it_has_done() -> None:
    async with bench() as there:
        given = graph(1, 30)
        answer = await there.submit(given)
        refs = [watched(given), weakref.ref(answer.weights)]
        del given, answer
        async with asyncio.timeout(PATIENCE_S):
            while any(ref() is not None for ref in refs):
                await settle()
                gc.collect()


@running
async def test_an_error_does_not_keep_the_graph() -> None:
    async with bench() as there:
        for error in (ValueError("rows"), RayscopeError("rows")):
            given, neighbour = graph(1, 30), graph(2, 30)
            there.device.poison = {1: error}
            refs = [watched(given), watched(neighbour)]
            answers = [there.submit(given), there.submit(neighbour)]
            del given, neighbour
            (failed, _) = await asyncio.gather(*answers, return_exceptions=True)
            del answers, _
            assert failed is error
            await settle()
            gc.collect()
            assert [ref() for ref in refs] == [None, None]


@running
async def test_a_graph_whose_rows_fail_does_not_harm_others() -> None:
    async with bench() as there:
        there.device.poison = {2: ValueError("poisonous")}
        answers = [there.submit(graph(number, 30)) for number in (1, 2, 3)]
        with pytest.raises(ValueError, match="poisonous"):
            await answers[1]
        for number, answer in ((1, answers[0]), (3, answers[2])):
            assert equal(await answer, alone(graph(number, 30)))
        assert there.scheduler.running == 0


@running
async def test_a_graph_whose_plan_fails_does_not_harm_others() -> None:
    async with bench() as there:
        bad = graph(2, 30)
        bad.linearised.table[-1, 0] = torch.inf
        answers = [there.submit(graph(1, 30)), there.submit(bad), there.submit(graph(3, 30))]
        with pytest.raises(RayscopeError, match="not finite"):
            await answers[1]
        assert equal(await answers[0], alone(graph(1, 30)))
        assert equal(await answers[2], alone(graph(3, 30)))


@running
async def test_too_few_rows_from_a_step_are_an_error_and_not_a_graph() -> None:
    async with bench() as there:
        short = RowScheduler(lambda packed: [linear.rows(rows[:1]) for linear, rows in packed], there.executor, SMALL)
        with pytest.raises(RayscopeError, match="1 rows for 3 targets"):
            await short.submit(plan(graph(1)), cost(graph(1)), Deadline.after(60.0))
        with pytest.raises(ValueError, match="shorter"):
            none = RowScheduler(lambda _: [], there.executor, SMALL)
            await none.submit(plan(graph(1)), cost(graph(1)), Deadline.after(60.0))
        await short.aclose()
        await none.aclose()


class Stuck(Attribution):
    """A plan that wants nothing and never ends."""

    @property
    def ready(self) -> int:
        return 0


@running
async def test_a_plan_that_wants_nothing_and_has_nothing_is_an_error_and_not_a_wait() -> None:
    async with bench() as there:
        given = graph(1)
        stuck: Plan[Effects] = Stuck(given.linearised, given.logits, given.targets, Choice())
        with pytest.raises(RayscopeError, match="no more rows"):
            await there.scheduler.submit(stuck, cost(given), Deadline.after(60.0, there.clock))


@running
async def test_a_step_that_runs_out_of_memory_is_repeated_graph_by_graph() -> None:
    async with bench() as there:
        worst: list[int] = []

        def check(packed: list[tuple[Linearised, TargetRows]]) -> Sequence[torch.Tensor]:
            if len(packed) > 1:
                worst.append(len(packed))
                raise MemoryError
            return there.device.step(packed)

        scheduler = RowScheduler(check, there.executor, SMALL)
        deadline = Deadline.after(60.0)
        graphs = [graph(number, 20) for number in (1, 2)]
        found = await asyncio.gather(*(scheduler.submit(plan(one), cost(one), deadline) for one in graphs))
        assert worst
        assert all(equal(effects, alone(one)) for effects, one in zip(found, graphs, strict=True))
        there.device.poison = {1: MemoryError()}
        with pytest.raises(Unavailable, match="ran out of memory"):
            await scheduler.submit(plan(graphs[0]), cost(graphs[0]), deadline)
        await scheduler.aclose()


@running
async def test_a_broken_device_fails_every_graph_and_takes_no_more() -> None:
    async with bench() as there:
        there.device.poison = {1: RuntimeError("CUDA error: device-side assert triggered")}
        answers = [there.submit(graph(number)) for number in (1, 2)]
        for answer in answers:
            with pytest.raises(Unavailable, match="must be replaced"):
                await answer
        with pytest.raises(Unavailable):
            await there.submit(graph(3))


@running
async def test_a_graph_that_is_late_leaves_whether_it_waits_or_not() -> None:
    async with bench(SchedulerLimits(block_rows=4, step_rows=4, max_running=1)) as there:
        first, second = there.submit(graph(1, 400), seconds=10.0), there.submit(graph(2), seconds=5.0)
        third = there.submit(graph(3), seconds=500.0)
        await there.device.has_begun(2)

        def later() -> None:
            there.clock.now += 1.0

        there.device.before_step = later
        for late in (first, second):
            with pytest.raises(DeadlineExceeded):
                await late
        assert equal(await third, alone(graph(3)))
        assert all(who != 2 for step in there.device.steps for who, _ in step), "nothing was computed for it"
        with pytest.raises(DeadlineExceeded):
            await there.submit(graph(4), seconds=0.0)


@running
async def test_a_caller_is_freed_at_its_deadline_while_a_step_is_under_way() -> None:
    async with bench() as there:
        there.device.open.clear()
        late = there.submit(graph(1, 30), seconds=0.05)
        with pytest.raises(DeadlineExceeded):
            await late
        assert there.scheduler.running == 0
        assert not there.device.steps, "the step is still under way"


@running
async def test_a_full_queue_refuses_with_the_measured_time() -> None:
    async with bench(SchedulerLimits(block_rows=4, step_rows=4, max_running=1, max_queue=1)) as there:

        def takes_a_second() -> None:
            there.clock.now += 1.0
            if len(there.device.steps) == 11:
                there.device.open.clear()  # the next step waits

        there.device.before_step = takes_a_second
        assert there.scheduler.seconds_for(cost(graph(1, 60))) == 0.0
        first = there.submit(graph(1, 60), seconds=5_000.0)
        await there.device.has_begun(13)
        second = there.submit(graph(2, 60), seconds=5_000.0)
        await settle()
        assert there.scheduler.busy
        with pytest.raises(Overloaded) as refused:
            await there.submit(graph(3))
        # A step of four rows takes a second; each graph has 63 rows.
        done = sum(rows for step in there.device.steps for _, rows in step)
        assert done > 30
        assert 0.95 <= refused.value.retry_after_s / ((126 - done) / 4) <= 1.05
        assert refused.value.retry_after_s == there.scheduler.queue_time_s()
        assert 0.9 * 63 / 4 < there.scheduler.seconds_for(cost(graph(1, 60))) < 1.1 * 63 / 4
        there.device.open.set()
        await asyncio.gather(first, second)
        assert not there.scheduler.busy
        assert there.scheduler.queue_time_s() == 0.0


@running
async def test_without_a_queue_the_scheduler_is_busy_unless_idle() -> None:
    async with bench(SchedulerLimits(max_queue=0)) as there:
        assert not there.scheduler.busy
        there.device.open.clear()
        first = there.submit(graph(1, 200))
        await there.device.has_begun()
        assert there.scheduler.busy
        with pytest.raises(Overloaded):
            await there.submit(graph(2))
        there.device.open.set()
        await first
        assert not there.scheduler.busy
        await there.submit(graph(2))


@running
async def test_a_graph_that_can_not_fit_is_refused_and_one_that_can_waits_for_room() -> None:
    small, large = graph(1, 12), graph(2, 60)
    needed = cost(small)
    budget = needed.held_bytes + 8 * needed.row_bytes
    async with bench(SchedulerLimits(budget_bytes=budget)) as there:
        with pytest.raises(TooLarge):
            await there.submit(large)
        there.device.open.clear()
        answers = [there.submit(small), there.submit(graph(3, 12))]
        await there.device.has_begun()
        assert (there.scheduler.running, there.scheduler.waiting) == (1, 1)
        there.device.open.set()
        await asyncio.gather(*answers)
        assert max(sum(rows for _, rows in step) for step in there.device.steps) == 8


@running
async def test_closing_ends_what_is_there_and_refuses_what_comes() -> None:
    async with bench(SchedulerLimits(block_rows=4, max_running=1)) as there:
        there.device.open.clear()
        answers = [there.submit(graph(number, 50)) for number in (1, 2)]
        await there.device.has_begun()
        closing = asyncio.create_task(there.scheduler.aclose())
        for answer in answers:
            with pytest.raises(Unavailable, match="stopped"):
                await answer
        assert not closing.done(), "the step under way is waited for"
        with pytest.raises(Unavailable):
            await there.submit(graph(3))
        there.device.open.set()
        await closing
        assert len(there.device.steps) == 1


@running
async def test_many_callers_come_and_go_and_every_answer_is_right() -> None:
    async with bench(SchedulerLimits(block_rows=4, step_rows=16, max_running=4, max_queue=100)) as there:

        async def call(number: int) -> None:
            given = graph(number, 10 + number % 30)
            choice = Choice(5 + number % 11, None if number % 3 else 4)
            answer = there.submit(given, choice)
            if number % 5 == 0:
                for _ in range(number % 7):
                    await asyncio.sleep(0)
                answer.cancel()
                with suppress(asyncio.CancelledError):
                    await answer
                return
            assert equal(await answer, alone(given, choice))

        await asyncio.gather(*(call(number) for number in range(60)))
        assert there.scheduler.running == there.scheduler.waiting == 0


def test_a_plan_driven_by_hand_and_by_the_scheduler_are_the_same_plan() -> None:
    given = graph(1, 20)
    by_hand = run(plan(given, Choice(9, 2)), 3)

    async def scheduled() -> Effects:
        async with bench() as there:
            return await there.submit(given, Choice(9, 2))

    assert equal(asyncio.run(scheduled()), by_hand)
