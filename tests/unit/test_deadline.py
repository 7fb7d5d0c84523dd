"""Promises of `core.deadline`."""

import asyncio
import pickle

import pytest

from core.clock import SYSTEM_CLOCK
from core.deadline import Deadline
from core.errors import DeadlineExceeded

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


class FakeClock:
    def __init__(self, now: float = 1_000.0) -> None:
        self.now = now

    def time(self) -> float:
        return self.now

    def monotonic(self) -> float:
        return self.now


def test_remaining_time_shrinks_to_zero_and_stays_there() -> None:
    clock = FakeClock()
    deadline = Deadline.after(2.0, clock)
    assert deadline.remaining_s(clock) == 2.0
    clock.now += 1.5
    assert deadline.remaining_s(clock) == 0.5
    clock.now += 5.0
    assert deadline.remaining_s(clock) == 0.0


def test_a_deadline_expires_at_its_moment_not_after_it() -> None:
    clock = FakeClock()
    deadline = Deadline.after(2.0, clock)
    clock.now += 1.999
    assert not deadline.expired(clock)
    deadline.check(clock)
    clock.now = deadline.at_s
    assert deadline.expired(clock)
    with pytest.raises(DeadlineExceeded) as caught:
        deadline.check(clock)
    assert caught.value.hint


def test_a_deadline_means_the_same_after_pickling() -> None:
    clock = FakeClock()
    deadline = Deadline.after(2.0, clock)
    arrived = pickle.loads(pickle.dumps(deadline))
    assert arrived == deadline
    assert arrived.remaining_s(FakeClock(1_001.0)) == 1.0


def test_the_earlier_deadline_is_the_smaller() -> None:
    assert min(Deadline(5.0), Deadline(3.0)) == Deadline(3.0)


@pytest.mark.parametrize("seconds", [float("nan"), float("inf"), float("-inf")])
def test_an_endless_deadline_is_refused(seconds: float) -> None:
    with pytest.raises(ValueError, match="finite"):
        Deadline.after(seconds)


def test_the_system_clock_is_the_default() -> None:
    assert Deadline.after(60.0).remaining_s() > 50.0
    assert Deadline.after(-60.0).expired()
    assert SYSTEM_CLOCK.monotonic() <= SYSTEM_CLOCK.monotonic()


async def test_limit_interrupts_what_the_body_waits_for() -> None:
    interrupted = False
    with pytest.raises(DeadlineExceeded):
        async with Deadline.after(0.01).limit():
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                interrupted = True
                raise
    assert interrupted


async def test_limit_never_starts_a_body_that_is_late() -> None:
    with pytest.raises(DeadlineExceeded):
        async with Deadline.after(-1.0).limit():
            pytest.fail("the body ran")


async def test_limit_passes_the_bodys_own_timeout_through() -> None:
    with pytest.raises(TimeoutError, match="mine"):
        async with Deadline.after(60.0).limit():
            raise TimeoutError("mine")


async def test_limit_does_not_turn_a_cancellation_into_a_missed_deadline() -> None:
    async def wait() -> None:
        async with Deadline.after(60.0).limit():
            await asyncio.Event().wait()

    task = asyncio.create_task(wait())
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
