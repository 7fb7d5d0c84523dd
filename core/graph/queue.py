"""The queue in front of the pipeline: how many graphs are in progress, how many may wait, and what the others are told.

Stages have limits of their own, in bytes; this one counts graphs, so that whoever comes when too much waits is told so
before anything is computed. With no room to wait it is the peer's lock: one graph at a time, and 503 for all others.
"""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Final

from core.clock import SYSTEM_CLOCK, Clock
from core.deadline import Deadline
from core.errors import Overloaded, Unavailable
from core.throughput import Throughput

BUSY: Final = "Server busy, please try again later."
"""What the peer says, with status 503, while it works on another graph."""
_RETRY_FLOOR_S: Final = 1.0


class GraphQueue:
    """Counts graphs. Lives on one event loop.

    Args:
        max_running: Graphs in progress at most.
        max_waiting: Graphs that may wait; 0 refuses all others while one is in progress.
        clock: Tells how long graphs take.
    """

    def __init__(self, max_running: int, max_waiting: int, clock: Clock = SYSTEM_CLOCK) -> None:
        self._max_running = max_running if max_waiting else 1
        self._max_waiting = max_waiting
        self._clock = clock
        self._places = asyncio.Semaphore(self._max_running)
        self._throughput = Throughput()
        self._count = 0

    @property
    def busy(self) -> bool:
        """Whether a graph would be refused now."""
        return self._count >= self._max_running + self._max_waiting

    def queue_time_s(self) -> float:
        """Seconds until a place may be free, by recent graphs."""
        ahead = max(0, self._count - self._max_running + 1)
        return self._throughput.seconds_for(ahead) / self._max_running

    def check(self) -> None:
        """Does nothing while there is room for one more graph.

        Raises:
            Overloaded: Too many wait.
            Unavailable: One is in progress, and none may wait.
        """
        if not self.busy:
            return
        if self._max_waiting == 0:
            raise Unavailable(BUSY, "One graph is made at a time here; ask again when it is done.")
        raise Overloaded(
            f"{self._max_running} graphs are in progress and {self._max_waiting} wait.",
            "Retry after the given time.",
            max(_RETRY_FLOOR_S, self.queue_time_s()),
        )

    @asynccontextmanager
    async def place(self, deadline: Deadline) -> AsyncGenerator[None]:
        """Waits for a place and keeps it while the body runs.

        Raises:
            Overloaded: Too many wait.
            Unavailable: One is in progress, and none may wait.
            DeadlineExceeded: The deadline passed while waiting.
        """
        self.check()
        self._count += 1
        try:
            async with deadline.limit():
                await self._places.acquire()
            started_s = self._clock.monotonic()
            try:
                yield
                self._throughput.record(1, self._clock.monotonic() - started_s)
            finally:
                self._places.release()
        finally:
            self._count -= 1
