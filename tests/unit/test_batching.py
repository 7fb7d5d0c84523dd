"""Promises of `core.batching`."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from core.batching import RETRY_FLOOR_S, Batcher, BatchLimits, padded_cost
from core.deadline import Deadline
from core.device import DeviceExecutor
from core.errors import DeadlineExceeded, NotFound, Overloaded, RayscopeError, TooLarge, Unavailable
from core.metrics import (
    BATCH_COST,
    BATCH_ENTRIES,
    BATCH_OUTCOMES,
    BATCH_QUEUED_TOKENS,
    BATCH_RETRIES,
    BATCH_STEP,
    BATCH_WAIT,
    METRICS,
    Counter,
    Gauge,
    Histogram,
)
from core.throughput import Throughput

pytestmark = pytest.mark.anyio

LIMITS = BatchLimits(budget_tokens=100, max_entries=8, max_queued_tokens=1_000)


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


class FakeClock:
    def __init__(self) -> None:
        self.now = 1_000.0

    def time(self) -> float:
        return self.now

    def monotonic(self) -> float:
        return self.now


@dataclass(frozen=True)
class Item:
    name: str
    tokens: int = 10


class Recorder:
    def __init__(self) -> None:
        self.samples: dict[str, list[float]] = {metric.name: [] for metric in METRICS}
        self.outcomes: list[str] = []

    def count(self, metric: Counter, amount: float = 1.0, /, **tags: str) -> None:
        assert set(tags) == set(metric.tags)
        self.samples[metric.name].append(amount)
        self.outcomes.extend(tags.values())

    def set(self, metric: Gauge, value: float, /, **tags: str) -> None:
        assert set(tags) == set(metric.tags)
        self.samples[metric.name].append(value)

    def observe(self, metric: Histogram, value: float, /, **tags: str) -> None:
        assert set(tags) == set(metric.tags)
        self.samples[metric.name].append(value)


@dataclass
class FakeDevice:
    """A device whose steps end when the test says so; item `x` gives `X`."""

    steps: list[list[str]] = field(default_factory=list)
    under_way: asyncio.Future[Sequence[str | Exception] | None] | None = None

    async def step(self, items: list[Item]) -> Sequence[str | Exception]:
        assert self.under_way is None, "two steps at once"
        self.steps.append([item.name for item in items])
        self.under_way = asyncio.get_running_loop().create_future()
        try:
            outcomes = await self.under_way
        finally:
            self.under_way = None
        return [item.name.upper() for item in items] if outcomes is None else outcomes

    async def finish(self, outcomes: Sequence[str | Exception] | None = None) -> None:
        assert self.under_way is not None, "no step is under way"
        self.under_way.set_result(outcomes)
        await settle()

    async def fail(self, error: BaseException) -> None:
        assert self.under_way is not None, "no step is under way"
        self.under_way.set_exception(error)
        await settle()


@dataclass
class Bench:
    """A batcher on a fake device."""

    limits: BatchLimits = LIMITS
    device: FakeDevice = field(default_factory=FakeDevice)
    clock: FakeClock = field(default_factory=FakeClock)
    metrics: Recorder = field(default_factory=Recorder)

    def __post_init__(self) -> None:
        self.batcher: Batcher[Item, str] = Batcher(
            self.device.step, lambda item: item.tokens, self.limits, clock=self.clock, metrics=self.metrics
        )

    def submit(self, name: str, tokens: int = 10, seconds: float = 60.0) -> asyncio.Task[str]:
        deadline = Deadline.after(seconds, self.clock)
        return asyncio.create_task(self.batcher.submit(Item(name, tokens), deadline))

    async def occupy(self) -> asyncio.Task[str]:
        """Put a step on the device, so that what follows has to queue."""
        task = self.submit("first")
        await settle()
        assert self.device.steps == [["first"]]
        return task


async def settle() -> None:
    """Let every task run until it waits for something that only the test can give."""
    for _ in range(30):
        await asyncio.sleep(0)


async def refused(task: asyncio.Task[str], error: type[Exception]) -> str:
    with pytest.raises(error) as caught:
        await task
    return str(caught.value)


async def test_an_idle_device_starts_a_lone_request_at_once() -> None:
    bench = Bench()
    answer = bench.submit("a")
    turns = 0
    while not bench.device.steps:
        await asyncio.sleep(0)
        turns += 1
        assert turns < 6, "something makes a lone request wait"
    await bench.device.finish()
    assert await answer == "A"


async def test_what_arrives_in_one_turn_of_the_loop_shares_the_first_step() -> None:
    bench = Bench()
    answers = [bench.submit(name) for name in "abcd"]
    await settle()
    assert bench.device.steps == [["a", "b", "c", "d"]]
    await bench.device.finish()
    assert await asyncio.gather(*answers) == ["A", "B", "C", "D"]


async def test_what_arrives_while_the_device_works_is_the_next_step() -> None:
    bench = Bench()
    await bench.occupy()
    for name in "abc":
        bench.submit(name)
        await settle()
    assert len(bench.device.steps) == 1
    await bench.device.finish()
    assert bench.device.steps[1:] == [["a", "b", "c"]]


async def test_the_budget_counts_padding() -> None:
    assert padded_cost([3, 10, 2]) == 30
    assert padded_cost([]) == 0
    bench = Bench()
    await bench.occupy()
    for name, tokens in (("a", 10), ("b", 10), ("c", 40), ("d", 1)):
        bench.submit(name, tokens)
    await settle()
    await bench.device.finish()
    await bench.device.finish()
    # a and b with c would be 3 x 40, c with d is 2 x 40
    assert bench.device.steps[1:] == [["a", "b"], ["c", "d"]]


async def test_another_cost_model_can_be_given() -> None:
    device = FakeDevice()
    batcher: Batcher[Item, str] = Batcher(device.step, lambda item: item.tokens, LIMITS, cost=sum)
    answers = [
        asyncio.create_task(batcher.submit(Item(name, tokens), Deadline.after(60.0)))
        for name, tokens in (("a", 10), ("b", 10), ("c", 40), ("d", 40), ("e", 1))
    ]
    await settle()
    await device.finish()
    await device.finish()
    assert device.steps == [["a", "b", "c", "d"], ["e"]]
    await asyncio.gather(*answers)


async def test_a_step_takes_no_more_entries_than_allowed() -> None:
    bench = Bench(BatchLimits(budget_tokens=100, max_entries=3, max_queued_tokens=1_000))
    for name in "abcdefg":
        bench.submit(name, 1)
    await settle()
    await bench.device.finish()
    await bench.device.finish()
    assert bench.device.steps == [["a", "b", "c"], ["d", "e", "f"], ["g"]]


async def test_an_entry_that_does_not_fit_is_not_overtaken() -> None:
    bench = Bench()
    await bench.occupy()
    bench.submit("small", 10)
    bench.submit("big", 100)
    late = [bench.submit(f"late{i}", 10) for i in range(3)]
    await settle()
    await bench.device.finish()
    assert bench.device.steps[-1] == ["small"]
    late += [bench.submit(f"later{i}", 10) for i in range(3)]
    await settle()
    await bench.device.finish()
    assert bench.device.steps[-1] == ["big"]
    await bench.device.finish()
    assert bench.device.steps[-1] == ["late0", "late1", "late2", "later0", "later1", "later2"]


async def test_an_entry_over_the_budget_runs_alone_within_the_hard_limit() -> None:
    bench = Bench(BatchLimits(budget_tokens=100, max_entries=8, max_queued_tokens=1_000, max_entry_tokens=250))
    for name, tokens in (("a", 10), ("huge", 250), ("b", 10)):
        bench.submit(name, tokens)
    too_long = bench.submit("endless", 251)
    await settle()
    for _ in range(2):
        await bench.device.finish()
    assert bench.device.steps == [["a"], ["huge"], ["b"]]
    message = await refused(too_long, TooLarge)
    assert "251" in message
    assert "250" in message


async def test_without_a_hard_limit_the_budget_is_one() -> None:
    bench = Bench()
    await refused(bench.submit("a", 101), TooLarge)
    assert bench.device.steps == []


@pytest.mark.parametrize(
    "numbers",
    [
        {"budget_tokens": 0, "max_entries": 1, "max_queued_tokens": 10},
        {"budget_tokens": 10, "max_entries": 0, "max_queued_tokens": 10},
        {"budget_tokens": 10, "max_entries": 1, "max_queued_tokens": 9},
        {"budget_tokens": 10, "max_entries": 1, "max_queued_tokens": 19, "max_entry_tokens": 20},
    ],
)
def test_limits_that_could_never_serve_are_refused(numbers: dict[str, int]) -> None:
    with pytest.raises(ValueError, match=r"room for at least|must hold the longest"):
        BatchLimits(**numbers)


async def test_a_cancelled_request_leaves_the_queue_at_once() -> None:
    bench = Bench()
    await bench.occupy()
    keep, leave = bench.submit("keep"), bench.submit("leave", 20)
    await settle()
    assert bench.batcher.queued_tokens == 30
    leave.cancel()
    await settle()
    assert bench.batcher.queued_tokens == 10
    await bench.device.finish()
    await bench.device.finish()
    assert bench.device.steps[1:] == [["keep"]]
    assert await keep == "KEEP"


async def test_a_request_cancelled_as_the_step_is_formed_never_reaches_the_device() -> None:
    bench = Bench()
    await bench.occupy()
    bench.submit("keep")
    leave = bench.submit("leave")
    await settle()
    assert bench.device.under_way is not None
    bench.device.under_way.set_result(None)
    leave.cancel()
    await settle()
    assert bench.device.steps[1:] == [["keep"]]


async def test_when_everybody_left_the_device_stays_idle_and_the_next_request_is_served() -> None:
    bench = Bench()
    await bench.occupy()
    for task in [bench.submit("a"), bench.submit("b")]:
        await settle()
        task.cancel()
    await settle()
    await bench.device.finish()
    assert bench.device.steps == [["first"]]
    answer = bench.submit("c")
    await settle()
    await bench.device.finish()
    assert await answer == "C"


async def test_cancelling_a_request_on_the_device_disturbs_nobody() -> None:
    bench = Bench()
    leave, keep = bench.submit("leave"), bench.submit("keep")
    await settle()
    leave.cancel()
    await settle()
    await bench.device.finish()
    assert await keep == "KEEP"
    bench.batcher.check()


async def test_an_expired_entry_is_dropped_before_the_device() -> None:
    bench = Bench()
    await bench.occupy()
    expired, alive = bench.submit("expired", seconds=30.0), bench.submit("alive", seconds=90.0)
    await settle()
    bench.clock.now += 30.0
    await bench.device.finish()
    assert bench.device.steps[1:] == [["alive"]]
    await refused(expired, DeadlineExceeded)
    await bench.device.finish()
    assert await alive == "ALIVE"
    assert bench.batcher.queued_tokens == 0


async def test_a_caller_hears_of_its_deadline_while_the_device_is_busy() -> None:
    bench = Bench()
    await bench.occupy()
    await refused(bench.submit("queued", seconds=0.01), DeadlineExceeded)
    assert bench.batcher.queued_tokens == 0
    await bench.device.finish()
    await refused(bench.submit("working", seconds=0.01), DeadlineExceeded)
    assert bench.device.steps == [["first"], ["working"]]


async def test_a_late_request_is_refused_and_never_queued() -> None:
    bench = Bench()
    await refused(bench.submit("late", seconds=0.0), DeadlineExceeded)
    await settle()
    assert bench.device.steps == []


async def test_an_entrys_error_is_its_own_callers() -> None:
    bench = Bench()
    answers = [bench.submit(name) for name in "abc"]
    await settle()
    await bench.device.finish(["A", NotFound("no feature 9"), "C"])
    assert await answers[0] == "A"
    assert await answers[2] == "C"
    assert await refused(answers[1], NotFound) == "no feature 9"


async def test_a_poisonous_entry_cannot_fail_its_neighbours() -> None:
    bench = Bench()
    answers = [bench.submit(name) for name in ("a", "poison", "c")]
    await settle()
    await bench.device.fail(ValueError("whole step"))
    await bench.device.finish()
    late = bench.submit("late")
    await settle()
    await bench.device.fail(ValueError("poison alone"))
    await bench.device.finish()
    assert bench.device.steps == [["a", "poison", "c"], ["a"], ["poison"], ["c"], ["late"]]
    assert [await answers[0], await answers[2]] == ["A", "C"]
    assert await refused(answers[1], ValueError) == "poison alone"
    await bench.device.finish()
    assert await late == "LATE"


async def test_an_entry_alone_is_not_repeated() -> None:
    bench = Bench()
    answer = bench.submit("a")
    await settle()
    await bench.device.fail(ValueError("bad"))
    assert await refused(answer, ValueError) == "bad"
    assert bench.device.steps == [["a"]]


async def test_who_left_or_expired_is_not_repeated_alone() -> None:
    bench = Bench()
    stay, leave, expire = bench.submit("stay"), bench.submit("leave"), bench.submit("expire", seconds=30.0)
    await settle()
    leave.cancel()
    bench.clock.now += 30.0
    await bench.device.fail(ValueError("whole step"))
    await bench.device.finish()
    assert bench.device.steps == [["stay", "leave", "expire"], ["stay"]]
    assert await stay == "STAY"
    await refused(expire, DeadlineExceeded)


async def test_a_step_that_miscounts_fails_instead_of_mixing_up_answers() -> None:
    bench = Bench()
    answers = [bench.submit(name) for name in "ab"]
    await settle()
    await bench.device.finish(["only one"])
    await bench.device.finish(["A", "and one more"])
    await bench.device.finish()
    assert "2 results for 1 items" in await refused(answers[0], RayscopeError)
    assert await answers[1] == "B"


async def test_a_step_cancelled_from_within_does_not_stop_the_batcher() -> None:
    bench = Bench()
    answer = bench.submit("a")
    await settle()
    await bench.device.fail(asyncio.CancelledError())
    await refused(answer, Unavailable)
    bench.batcher.check()
    again = bench.submit("b")
    await settle()
    await bench.device.finish()
    assert await again == "B"


async def test_a_full_queue_refuses_with_the_measured_queue_time() -> None:
    bench = Bench(BatchLimits(budget_tokens=100, max_entries=8, max_queued_tokens=200))
    bench.submit("measured", 100)
    await settle()
    bench.clock.now += 4.0  # 25 tokens a second
    await bench.device.finish()
    bench.submit("working", 100)
    await settle()
    bench.clock.now += 1.0
    queued = [bench.submit("a", 100), bench.submit("b", 100)]
    await settle()
    assert bench.batcher.queue_time_s() == pytest.approx(3.0 + 8.0)
    with pytest.raises(Overloaded) as caught:
        await bench.submit("c", 1)
    assert caught.value.retry_after_s == pytest.approx(11.0)
    assert not any(task.done() for task in queued)
    bench.clock.now += 100.0  # a step that takes too long promises nothing about itself
    assert bench.batcher.queue_time_s() == pytest.approx(8.0)


async def test_before_any_measurement_retry_after_is_the_floor() -> None:
    bench = Bench(BatchLimits(budget_tokens=100, max_entries=8, max_queued_tokens=100))
    await bench.occupy()
    bench.submit("a", 100)
    await settle()
    with pytest.raises(Overloaded) as caught:
        await bench.submit("b", 1)
    assert caught.value.retry_after_s == RETRY_FLOOR_S
    assert bench.batcher.queue_time_s() == 0.0


async def test_an_idle_batcher_has_no_queue_time() -> None:
    bench = Bench()
    bench.submit("a", 100)
    await settle()
    bench.clock.now += 4.0
    await bench.device.finish()
    assert bench.batcher.queue_time_s() == 0.0


def test_recent_steps_weigh_more_and_short_steps_less() -> None:
    throughput = Throughput()
    assert throughput.seconds_for(100) == 0.0
    throughput.record(100, 1.0)
    assert throughput.seconds_for(100) == pytest.approx(1.0)
    throughput.record(1, 0.001)  # a tiny fast step does not swing it
    assert throughput.seconds_for(100) == pytest.approx(1.0, rel=0.02)
    for _ in range(20):
        throughput.record(100, 10.0)
    assert throughput.seconds_for(100) == pytest.approx(10.0, rel=0.02)


async def test_tokenless_entries_count_towards_the_queue_bound() -> None:
    bench = Bench(BatchLimits(budget_tokens=10, max_entries=8, max_queued_tokens=10))
    await bench.occupy()
    for i in range(10):
        bench.submit(f"e{i}", 0)
    await settle()
    await refused(bench.submit("one more", 0), Overloaded)


async def test_closing_fails_what_waits_and_lets_the_step_answer() -> None:
    bench = Bench()
    first = await bench.occupy()
    queued = [bench.submit(name) for name in "ab"]
    await settle()
    closing = asyncio.create_task(bench.batcher.aclose())
    await settle()
    for task in queued:
        await refused(task, Unavailable)
    await refused(bench.submit("late"), Unavailable)
    assert not closing.done()
    await bench.device.finish()
    assert await first == "FIRST"
    await closing
    assert bench.device.steps == [["first"]]
    with pytest.raises(Unavailable):
        bench.batcher.check()
    await bench.batcher.aclose()


async def test_closing_an_idle_or_unused_batcher_ends() -> None:
    unused = Bench()
    await unused.batcher.aclose()
    used = Bench()
    await used.occupy()
    await used.device.finish()
    await used.batcher.aclose()


async def test_an_impatient_close_fails_the_step_too() -> None:
    bench = Bench()
    first = await bench.occupy()
    closing = asyncio.create_task(bench.batcher.aclose())
    await settle()
    closing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await closing
    await refused(first, Unavailable)


async def test_a_dead_worker_is_noticed_and_leaves_nobody_waiting() -> None:
    clock = FakeClock()
    calls = 0

    def cost(tokens: Sequence[int]) -> int:
        nonlocal calls
        calls += 1
        raise ZeroDivisionError

    async def step(items: list[Item]) -> list[str]:
        raise AssertionError("never reached")

    batcher: Batcher[Item, str] = Batcher(step, lambda item: item.tokens, LIMITS, cost=cost, clock=clock)
    deadline = Deadline.after(60.0, clock)
    tasks = [asyncio.create_task(batcher.submit(Item(name), deadline)) for name in "ab"]
    for task in tasks:
        await refused(task, Unavailable)
    assert calls == 1
    with pytest.raises(Unavailable):
        batcher.check()
    with pytest.raises(Unavailable):
        await batcher.submit(Item("c"), deadline)
    await batcher.aclose()


async def test_the_batcher_measures_what_it_does() -> None:
    bench = Bench(BatchLimits(budget_tokens=100, max_entries=8, max_queued_tokens=100))
    await bench.occupy()
    tasks = [bench.submit("served", 20), bench.submit("failed", 30), bench.submit("gone", 40)]
    tasks += [bench.submit("expired", 1, seconds=2.0), bench.submit("refused", 90)]
    await settle()
    tasks[2].cancel()
    await settle()
    bench.clock.now += 2.0
    await bench.device.finish()
    bench.clock.now += 3.0
    await bench.device.fail(ValueError())
    await bench.device.finish()
    await bench.device.fail(ValueError())
    await asyncio.gather(*tasks, return_exceptions=True)
    assert sorted(bench.metrics.outcomes) == ["cancelled", "expired", "failed", "refused", "served", "served"]
    samples = bench.metrics.samples
    assert samples[BATCH_ENTRIES.name] == [1, 2, 1, 1]
    assert samples[BATCH_COST.name] == [10, 60, 20, 30]
    assert samples[BATCH_STEP.name] == [2.0, 0.0]
    assert samples[BATCH_WAIT.name] == [0.0, 2.0, 2.0, 5.0, 5.0]
    assert samples[BATCH_RETRIES.name] == [1, 1]
    assert max(samples[BATCH_QUEUED_TOKENS.name]) == 91
    assert samples[BATCH_QUEUED_TOKENS.name][-1] == 0
    assert len(samples[BATCH_OUTCOMES.name]) == 6


Plan = list[tuple[int, bool]]


@given(st.lists(st.tuples(st.integers(1, 60), st.booleans()), min_size=1, max_size=40), st.integers(1, 6))
@settings(max_examples=80, deadline=None)
def test_steps_are_maximal_runs_of_the_queue_in_its_order(plan: Plan, max_entries: int) -> None:
    async def scenario() -> None:
        bench = Bench(BatchLimits(budget_tokens=100, max_entries=max_entries, max_queued_tokens=10_000))
        await bench.occupy()
        tasks = [bench.submit(str(i), tokens) for i, (tokens, _) in enumerate(plan)]
        await settle()
        for task, (_, leaves) in zip(tasks, plan, strict=True):
            if leaves:
                task.cancel()
        await settle()
        await bench.device.finish()
        while bench.device.under_way is not None:
            await bench.device.finish()

        steps = [[int(name) for name in step] for step in bench.device.steps[1:]]
        staying = [i for i, (_, leaves) in enumerate(plan) if not leaves]
        assert [i for step in steps for i in step] == staying
        for step in steps:
            assert padded_cost([plan[i][0] for i in step]) <= 100
        for step, following in pairwise(steps):
            with_next = [plan[i][0] for i in (*step, following[0])]
            assert len(step) == max_entries or padded_cost(with_next) > 100
        assert [await tasks[i] for i in staying] == [str(i) for i in staying]

    asyncio.run(scenario())


async def test_hundreds_of_callers_share_one_real_device() -> None:
    executor = DeviceExecutor()
    inside = 0
    widths: list[int] = []

    def compute(items: list[Item]) -> list[str | Exception]:
        nonlocal inside
        inside += 1
        assert inside == 1
        widths.append(len(items))
        answers: list[str | Exception] = [
            NotFound(item.name) if item.name.endswith("7") else item.name.upper() for item in items
        ]
        inside -= 1
        return answers

    async def step(items: list[Item]) -> list[str | Exception]:
        return await executor.run(compute, items)

    limits = BatchLimits(budget_tokens=640, max_entries=32, max_queued_tokens=100_000)
    batcher: Batcher[Item, str] = Batcher(step, lambda item: item.tokens, limits)

    async def call(i: int) -> int:
        for j in range(3):
            name = f"item-{j}-{i}"
            try:
                assert await batcher.submit(Item(name, 1 + i % 20), Deadline.after(60.0)) == name.upper()
            except NotFound as error:
                assert str(error) == name
                assert i % 10 == 7
        return i

    tasks = [asyncio.create_task(call(i)) for i in range(400)]
    await asyncio.sleep(0)
    for task in tasks[::5]:
        task.cancel()
    results = await asyncio.gather(*tasks, return_exceptions=True)
    for i, result in enumerate(results):
        assert isinstance(result, asyncio.CancelledError) if i % 5 == 0 else result == i
    assert batcher.queued_tokens == 0
    assert max(widths) == 32
    await batcher.aclose()
    await executor.aclose()
