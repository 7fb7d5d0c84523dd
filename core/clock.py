"""The clock: the one way in which `core` reads time, so that a test can hold it still.

Two readings, because they answer different questions. `time` is the wall clock: it means the same in every
process of the cluster, so deadlines are written in it, and it may jump. `monotonic` never jumps but means
nothing elsewhere: it is for durations.

Deliberately not here: waiting. Waiting belongs to the event loop; see `Deadline.limit`.
"""

import time
from typing import Final, Protocol


class Clock(Protocol):
    """Reads the time, in seconds."""

    def time(self) -> float:
        """Seconds since the Unix epoch."""
        ...

    def monotonic(self) -> float:
        """Seconds since an arbitrary moment; never goes back."""
        ...


class SystemClock:
    """The machine's own clock."""

    def time(self) -> float:
        """Seconds since the Unix epoch."""
        return time.time()

    def monotonic(self) -> float:
        """Seconds since an arbitrary moment; never goes back."""
        return time.monotonic()


SYSTEM_CLOCK: Final[Clock] = SystemClock()
