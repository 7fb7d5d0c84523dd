"""A deadline: the moment after which nobody waits for the answer any more.

It is absolute wall-clock time, not a duration, because it travels: the Gateway sets it from the request's
header, every handle call carries it, and the Runner compares it with its own clock before it touches the
device. A duration would start anew at each hop. The price is that the machines' clocks must agree to within
what a deadline is worth (NTP does).

Deliberately not here: a default timeout (the Gateway's policy), and stopping work that already runs on a
device (it cannot be stopped; see `core.device`).
"""

import asyncio
import math
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Self

from core.clock import SYSTEM_CLOCK, Clock
from core.errors import DeadlineExceeded

_HINT = "allow more time, or ask for less in one request"


@dataclass(frozen=True, slots=True, order=True)
class Deadline:
    """When a request stops being worth answering.

    Attributes:
        at_s: Wall-clock seconds since the Unix epoch.
    """

    at_s: float

    @classmethod
    def after(cls, seconds: float, clock: Clock = SYSTEM_CLOCK) -> Self:
        """The deadline that lies `seconds` from now; zero or less gives one that has passed.

        Raises:
            ValueError: `seconds` is not a finite number. Every request has an end.
        """
        if not math.isfinite(seconds):
            raise ValueError(f"a deadline needs a finite number of seconds, got {seconds}")
        return cls(clock.time() + seconds)

    def remaining_s(self, clock: Clock = SYSTEM_CLOCK) -> float:
        """Seconds left; 0.0 once it has passed."""
        return max(0.0, self.at_s - clock.time())

    def expired(self, clock: Clock = SYSTEM_CLOCK) -> bool:
        """Whether the moment has come."""
        return clock.time() >= self.at_s

    def check(self, clock: Clock = SYSTEM_CLOCK) -> None:
        """Do nothing while there is time left.

        Raises:
            DeadlineExceeded: The moment has come.
        """
        if self.expired(clock):
            raise self.exceeded()

    def exceeded(self) -> DeadlineExceeded:
        """The error for a request that missed this deadline."""
        return DeadlineExceeded("the request's deadline passed before it was answered", _HINT)

    @asynccontextmanager
    async def limit(self, clock: Clock = SYSTEM_CLOCK) -> AsyncGenerator[None]:
        """Run the body until the deadline, then cancel what it waits for.

        A `TimeoutError` that the body raises for a reason of its own passes through as it is.

        Raises:
            DeadlineExceeded: The moment had come already, or came while the body waited.
        """
        self.check(clock)
        scope = asyncio.timeout(self.remaining_s(clock))
        try:
            async with scope:
                yield
        except TimeoutError:
            if scope.expired():
                raise self.exceeded() from None
            raise
