"""Promises of the rate gates: no limit is passed, everybody gets a turn, a 429 slows, and who left is not counted."""

import asyncio
import random

import pytest

from core.autointerp.providers.rate import RateGate, RateGates, RateLimits
from core.deadline import Deadline
from core.errors import DeadlineExceeded
from tests.unit.autointerp.providers.quick_time import LoopClock, in_quick_time


def gate(rpm: float | None = None, tpm: float | None = None, in_flight: int = 1000) -> RateGate:
    return RateGate(RateLimits(rpm, tpm, in_flight), LoopClock())


def now() -> float:
    return asyncio.get_running_loop().time()


async def passes(through: RateGate, tokens: int = 1, owner: str = "", *, takes_s: float = 0.0) -> float:
    """When a call came through."""
    async with through.admit(tokens, owner) as passage:
        at = now()
        await asyncio.sleep(takes_s)
        passage.succeeded(tokens)
        return at


def most_within(times: list[float], window_s: float, weights: list[int] | None = None) -> int:
    weights = weights or [1] * len(times)
    return max(sum(w for t, w in zip(times, weights, strict=True) if start <= t < start + window_s) for start in times)


@in_quick_time
async def test_no_minute_has_more_requests_than_the_limit_and_its_burst() -> None:
    through = gate(rpm=60)
    times = await asyncio.gather(*(passes(through) for _ in range(300)))
    assert most_within(times, 60.0) <= 66
    assert max(times) - min(times) == pytest.approx((300 - 6) / 1.0, rel=0.01)  # and it is used fully


@in_quick_time
async def test_no_minute_has_more_tokens_than_the_limit_and_its_burst() -> None:
    through = gate(tpm=6000)
    source = random.Random(0)
    sizes = [source.randrange(1, 400) for _ in range(200)]
    times = await asyncio.gather(*(passes(through, size) for size in sizes))
    assert most_within(times, 60.0, sizes) <= 6600
    assert max(times) - min(times) == pytest.approx((sum(sizes) - 600) / 100, rel=0.02)


@in_quick_time
async def test_a_call_larger_than_the_bucket_is_slow_and_not_impossible() -> None:
    through = gate(tpm=600)
    began = now()
    await passes(through, 6000)  # the bucket holds 60
    assert now() == began
    assert await passes(through, 60) - began == pytest.approx(600.0)


@in_quick_time
async def test_an_estimate_that_was_too_high_is_given_back() -> None:
    through = gate(tpm=600)
    async with through.admit(600) as passage:
        passage.succeeded(60)
    began = now()
    assert await passes(through, 60) - began == pytest.approx(6.0)


@in_quick_time
async def test_never_more_in_flight_than_allowed_and_never_fewer_while_some_wait() -> None:
    through = gate(in_flight=7)
    flying, peak = 0, 0
    source = random.Random(1)

    async def call() -> None:
        nonlocal flying, peak
        async with through.admit(1):
            flying += 1
            peak = max(peak, flying)
            await asyncio.sleep(source.random())
            flying -= 1

    await asyncio.gather(*(call() for _ in range(200)))
    assert peak == 7
    assert through.in_flight == 0
    assert through.is_idle


@in_quick_time
async def test_a_small_job_is_not_behind_a_large_one() -> None:
    through = gate(in_flight=1)
    order: list[str] = []

    async def call(owner: str) -> None:
        async with through.admit(1, owner):
            order.append(owner)
            await asyncio.sleep(1.0)

    large = [asyncio.create_task(call("large")) for _ in range(100)]
    await asyncio.sleep(0.5)
    await asyncio.gather(*(call("small") for _ in range(5)))
    assert len(order) <= 12
    await asyncio.gather(*large)
    assert len(order) == 105


@in_quick_time
async def test_one_owners_calls_come_in_order() -> None:
    through = gate(rpm=60)
    order: list[int] = []

    async def call(number: int) -> None:
        async with through.admit(1):
            order.append(number)

    await asyncio.gather(*(call(number) for number in range(50)))
    assert order == list(range(50))


@in_quick_time
async def test_a_429_halves_all_limits_once_and_successes_bring_them_back() -> None:
    through = gate(in_flight=64)

    async def refused(event: asyncio.Event) -> None:
        async with through.admit(1) as passage:
            await event.wait()
            passage.throttled(None)

    event = asyncio.Event()
    calls = [asyncio.create_task(refused(event)) for _ in range(20)]
    await asyncio.sleep(1.0)
    event.set()
    await asyncio.gather(*calls)
    assert (through.share, through.in_flight_limit) == (0.5, 32)
    await asyncio.sleep(1.0)
    async with through.admit(1) as passage:
        passage.throttled(None)
    assert through.share == 0.25  # it began after the cut, so it is news
    for _ in range(75):
        await passes(through)
    assert through.share == pytest.approx(1.0)


@in_quick_time
async def test_a_429_slows_the_rate_too() -> None:
    through = gate(rpm=60)
    for _ in range(6):
        await passes(through)
    async with through.admit(1) as passage:
        passage.throttled(None)
    share = through.share
    assert share <= 0.53
    began = now()
    assert await passes(through) - began == pytest.approx(1.0 / share)


@in_quick_time
async def test_retry_after_holds_everybody_but_not_for_ever() -> None:
    through = gate()
    async with through.admit(1) as passage:
        passage.throttled(12.0)
    began = now()
    times = await asyncio.gather(*(passes(through) for _ in range(5)))
    assert [at - began for at in times] == pytest.approx([12.0] * 5)
    async with through.admit(1) as passage:
        passage.throttled(1e9)
    began = now()
    assert await passes(through) - began == pytest.approx(60.0)


@in_quick_time
async def test_who_leaves_while_waiting_leaves_no_trace() -> None:
    through = gate(rpm=600, in_flight=2)
    source = random.Random(2)
    done = 0

    async def call(number: int) -> None:
        nonlocal done
        async with through.admit(1, f"owner {number % 3}"):
            await asyncio.sleep(source.random())
            done += 1

    tasks = [asyncio.create_task(call(number)) for number in range(150)]
    for task in source.sample(tasks, 90):
        await asyncio.sleep(source.random() / 4)
        task.cancel()
    results = await asyncio.gather(*tasks, return_exceptions=True)
    assert done == sum(result is None for result in results) >= 60
    assert through.is_idle
    await passes(through)


@in_quick_time
async def test_a_turn_that_comes_as_its_owner_leaves_goes_to_the_next() -> None:
    through = gate(in_flight=1)
    release = asyncio.Event()

    async def first() -> None:
        async with through.admit(1):
            await release.wait()

    holder = asyncio.create_task(first())
    await asyncio.sleep(0)
    leaver = asyncio.create_task(passes(through))
    heir = asyncio.create_task(passes(through))
    await asyncio.sleep(0)
    release.set()
    await holder  # its end admitted the leaver, who has not run since
    leaver.cancel()
    await heir
    assert leaver.cancelled()
    assert through.is_idle


@in_quick_time
async def test_a_deadline_ends_the_wait() -> None:
    through = gate(rpm=1)
    await passes(through)
    began = now()
    with pytest.raises(DeadlineExceeded):
        async with Deadline.after(5.0, LoopClock()).limit(LoopClock()):
            await passes(through)
    assert now() - began == pytest.approx(5.0)
    assert through.is_idle


@in_quick_time
async def test_each_key_and_model_has_its_own_gate_and_old_idle_ones_go() -> None:
    gates = RateGates(RateLimits(), capacity=3, clock=LoopClock())
    first = gates.gate("u", "k1", "m")
    assert gates.gate("u", "k1", "m") is first
    assert gates.gate("u", "k2", "m") is not first
    assert gates.gate("u", "k1", "n") is not first
    async with first.admit(1):
        for number in range(5):
            gates.gate("u", f"k{number}x", "m")
        assert gates.gate("u", "k1", "m") is first
    for number in range(5):
        gates.gate("u", f"k{number}y", "m")
    assert gates.gate("u", "k1", "m") is not first
