"""Rate gates: how fast one key may ask one model, and who of those that wait is next.

A gate lets a call through when three things allow it: requests per minute, tokens per minute, and calls in flight. The
rates are token buckets that hold a tenth of a minute. A call that needs more tokens than the bucket holds goes through
when it is full and leaves a debt, so that long prompts are slow and not impossible; the estimate that it went through
with is corrected when its real cost is known.

A provider that answers 429 knows better. The gate then halves its share of all three limits, and every success gives a
hundredth back: additive increase, multiplicative decrease (Chiu and Jain 1989). Calls that were under way when the
share was halved do not halve it again; they are the same news. `Retry-After` holds the whole gate.

Those that wait are served by turns of their owners (jobs), and in order for one owner, so a job with ten thousand
questions does not starve one with ten. Cancelling a wait leaves no trace; deadlines cancel it (`core.deadline`).

A gate belongs to one event loop. Deliberately not here: agreement between processes; give each its part of the limit.
"""

import asyncio
import math
from collections import OrderedDict, deque
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Final

from core.clock import SYSTEM_CLOCK, Clock

_BURST: Final = 0.1
_INSTANT_S: Final = 1e-6  # what rounding leaves is not waited for
_LEAST_SHARE: Final = 0.02
_STEP: Final = 0.01
_LONGEST_HOLD_S: Final = 60.0


@dataclass(frozen=True, slots=True)
class RateLimits:
    """What one key may ask of one model.

    Attributes:
        requests_per_minute: Calls begun per minute; None: no limit but the provider's.
        tokens_per_minute: Tokens read and written per minute; None likewise.
        in_flight: Calls at once.
    """

    requests_per_minute: float | None = None
    tokens_per_minute: float | None = None
    in_flight: int = 256


class _Bucket:
    """Fills at a rate per minute, up to a tenth of a minute's worth, and may owe."""

    def __init__(self, per_minute: float | None, now_s: float) -> None:
        self._rate = math.inf if per_minute is None else per_minute / 60.0
        self._capacity = max(1.0, self._rate * 60.0 * _BURST)
        self._level = self._capacity
        self._at_s = now_s

    def fill(self, now_s: float, share: float) -> None:
        if self._rate < math.inf:
            self._level = min(self._capacity, self._level + (now_s - self._at_s) * self._rate * share)
        self._at_s = now_s

    def wait_s(self, cost: float, share: float) -> float:
        missing = min(cost, self._capacity) - self._level
        return missing / (self._rate * share) if missing > 0 and self._rate < math.inf else 0.0

    def take(self, cost: float) -> None:
        if self._rate < math.inf:
            self._level = min(self._capacity, self._level - cost)


@dataclass(frozen=True, slots=True)
class _Waiter:
    tokens: int
    admitted: asyncio.Future[None]


class RateGate:
    """The gate of one key and model."""

    def __init__(self, limits: RateLimits, clock: Clock = SYSTEM_CLOCK) -> None:
        self.limits = limits
        self.in_flight = 0
        self._clock = clock
        now_s = clock.monotonic()
        self._requests = _Bucket(limits.requests_per_minute, now_s)
        self._tokens = _Bucket(limits.tokens_per_minute, now_s)
        self._share = 1.0
        self._cut_at_s = -math.inf
        self._held_until_s = -math.inf
        self._waiting: OrderedDict[str, deque[_Waiter]] = OrderedDict()
        self._timer: asyncio.TimerHandle | None = None

    @property
    def share(self) -> float:
        """Which part of its limits it uses, in (0, 1]."""
        return self._share

    @property
    def in_flight_limit(self) -> int:
        """Calls at once, as things are."""
        return max(1, math.floor(self.limits.in_flight * self._share))

    @property
    def is_idle(self) -> bool:
        """Whether nobody is in it or waits for it."""
        return self.in_flight == 0 and not self._waiting

    @asynccontextmanager
    async def admit(self, tokens: int, owner: str = "") -> AsyncGenerator["Passage"]:
        """Waits for the turn of a call, and counts it as in flight while the body runs.

        Args:
            tokens: What it will read and write, estimated.
            owner: Whose it is; owners take turns.
        """
        waiter = _Waiter(tokens, asyncio.get_running_loop().create_future())
        self._waiting.setdefault(owner, deque()).append(waiter)
        self._admit_those_next()
        try:
            await waiter.admitted
        except asyncio.CancelledError:
            if not waiter.admitted.cancelled():  # its turn came in the same moment
                self._refund(tokens)
                self.in_flight -= 1
            self._admit_those_next()
            raise
        try:
            yield Passage(self, tokens, self._clock.monotonic())
        finally:
            self.in_flight -= 1
            self._admit_those_next()

    def _admit_those_next(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        while self._waiting:
            owner, queue = next(iter(self._waiting.items()))
            waiter = queue[0]
            gone = waiter.admitted.cancelled()
            if not gone:
                if self.in_flight >= self.in_flight_limit:
                    return  # whoever leaves comes here
                delay_s = self._delay_s(waiter.tokens)
                if delay_s > _INSTANT_S:
                    self._timer = asyncio.get_running_loop().call_later(delay_s, self._admit_those_next)
                    return
                self._requests.take(1)
                self._tokens.take(waiter.tokens)
                self.in_flight += 1
                waiter.admitted.set_result(None)
            queue.popleft()
            if not queue:
                del self._waiting[owner]
            elif not gone:
                self._waiting.move_to_end(owner)

    def _delay_s(self, tokens: int) -> float:
        now_s = self._fill()
        waits = (self._requests.wait_s(1, self._share), self._tokens.wait_s(tokens, self._share))
        return max(*waits, self._held_until_s - now_s)

    def _fill(self) -> float:
        now_s = self._clock.monotonic()
        self._requests.fill(now_s, self._share)
        self._tokens.fill(now_s, self._share)
        return now_s

    def _refund(self, tokens: int) -> None:
        self._requests.take(-1)
        self._tokens.take(-tokens)

    def _spent(self, tokens: int) -> None:
        self._fill()
        self._tokens.take(tokens)
        self._share = min(1.0, self._share + _STEP)

    def _throttled(self, began_s: float, retry_after_s: float) -> None:
        now_s = self._fill()
        self._held_until_s = max(self._held_until_s, now_s + min(retry_after_s, _LONGEST_HOLD_S))
        if began_s > self._cut_at_s:
            self._share = max(_LEAST_SHARE, self._share / 2)
            self._cut_at_s = now_s


class Passage:
    """One call in flight; says at most once how it ended."""

    def __init__(self, gate: RateGate, tokens: int, began_s: float) -> None:
        self._gate = gate
        self._tokens = tokens
        self._began_s = began_s

    def succeeded(self, tokens: int) -> None:
        """It was answered, and took so many tokens."""
        self._gate._spent(tokens - self._tokens)

    def throttled(self, retry_after_s: float | None) -> None:
        """The provider had too many requests."""
        self._gate._throttled(self._began_s, retry_after_s or 0.0)

    def unused(self) -> None:
        """It was not made."""
        self._gate._refund(self._tokens)


class RateGates:
    """The gates of a process, one per key and model.

    Args:
        limits: Of each gate that is not given others.
        capacity: Gates kept while nobody uses them, so that keys which come and go leave no heap behind.
        clock: Reads the time.
    """

    def __init__(self, limits: RateLimits, *, capacity: int = 1024, clock: Clock = SYSTEM_CLOCK) -> None:
        self._limits = limits
        self._capacity = capacity
        self._clock = clock
        self._gates: OrderedDict[tuple[str, str, str], RateGate] = OrderedDict()

    def gate(self, base_url: str, key: str, model: str, limits: RateLimits | None = None) -> RateGate:
        """The gate of a model at a URL with a key, named by its fingerprint; `limits` count when it is made."""
        name = (base_url, key, model)
        if name not in self._gates:
            self._gates[name] = RateGate(limits or self._limits, self._clock)
        self._gates.move_to_end(name)
        for old in list(self._gates)[: max(0, len(self._gates) - self._capacity)]:
            if old != name and self._gates[old].is_idle:
                del self._gates[old]
        return self._gates[name]
