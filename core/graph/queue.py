"""The queue in front of the pipeline: how many graphs are in progress, how many may wait, and what the others are told.

Stages have limits of their own, in bytes; this one counts graphs, so that whoever comes when too much waits is told so
before anything is computed. With no room to wait it is the peer's lock: one graph at a time, and 503 for all others.
"""

import asyncio
from typing import Final, Self

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

    def reserve(self) -> "Place":
        """A place for one more graph, in the queue or in progress.

        Raises:
            Overloaded: Too many wait.
            Unavailable: One is in progress, and none may wait.
        """
        self.check()
        self._count += 1
        return Place(self)

    async def _acquire(self) -> float:
        await self._places.acquire()
        return self._clock.monotonic()

    def _leave(self, started_s: float | None, *, done: bool) -> None:
        self._count -= 1
        if started_s is not None:
            self._places.release()
            if done:
                self._throughput.record(1, self._clock.monotonic() - started_s)


class Place:
    """A graph's place. As a context it is given back at the end, and a body that does not fail counts as a graph."""

    def __init__(self, queue: GraphQueue) -> None:
        self._queue = queue
        self._started_s: float | None = None
        self._left = False

    async def turn(self, deadline: Deadline) -> None:
        """Returns when the graph may be made.

        Raises:
            DeadlineExceeded: The deadline passed before.
        """
        async with deadline.limit():
            self._started_s = await self._queue._acquire()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, error: type[BaseException] | None, *_: object) -> None:
        if not self._left:
            self._left = True
            self._queue._leave(self._started_s, done=error is None)
