"""Run: a job while it is worked on, in the memory of the process that does it: its tasks, its rate, its luck so far."""

import asyncio
from collections import deque
from dataclasses import dataclass, field
from typing import Any, Final

from core.autointerp.caching.progress import CachingProgress
from core.autointerp.jobs.units import Done, Failed, Job, Outcome
from core.autointerp.jobs.work import Work
from core.clock import Clock

_REMEMBERED: Final = 512


class Meter:
    """How fast units end: over the last of them that were counted.

    Args:
        clock: Reads the time.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._ends_s: deque[float] = deque([clock.monotonic()], maxlen=_REMEMBERED)

    def count(self) -> None:
        """A unit has ended."""
        self._ends_s.append(self._clock.monotonic())

    def per_s(self) -> float | None:
        """Units per second; None before the first."""
        if len(self._ends_s) < 2:
            return None
        return (len(self._ends_s) - 1) / max(self._clock.monotonic() - self._ends_s[0], 1e-6)

    def eta_s(self, left: int) -> float | None:
        """Seconds that so many units take at that rate; None before the first."""
        rate = self.per_s()
        return None if rate is None else left / rate


@dataclass(slots=True, eq=False)
class Run:
    """A job that is worked on.

    Attributes:
        job: As it was when last looked at.
        meter: Its rate.
        work: Does its units; None before they are known.
        preparing: Makes its cache and its units.
        tasks: Units in progress by number.
        caching: How far its cache is, while it is made.
        held_until_s: It begins nothing before this, by the monotonic clock.
        served: When it last got units, to take turns with others: a number that ascends.
        told_s: When its progress was last told of, by the monotonic clock.
        alike: Code of its last failure, and how many were alike in a row.
        proven: Whether anything was done.
        alone: The unit that was begun while no other was in progress, if none was begun since.
        most: Units at once, while what others have set aside is all that is left of the budget; None: as the job says.
    """

    job: Job
    meter: Meter
    work: Work | None = None
    preparing: asyncio.Task[None] | None = None
    tasks: dict[int, asyncio.Task[None]] = field(default_factory=dict[int, "asyncio.Task[None]"])
    caching: CachingProgress | None = None
    held_until_s: float = 0.0
    served: int = 0
    told_s: float = float("-inf")
    alike: tuple[str, int] | None = None
    proven: bool = False
    alone: int | None = None
    most: int | None = None

    def room(self) -> int:
        """Units that may be begun now."""
        allowed = self.job.spec.concurrency
        return (allowed if self.most is None else min(allowed, self.most)) - len(self.tasks)

    def count(self, outcome: Outcome) -> None:
        """Takes note of how a unit ended."""
        self.meter.count()
        if isinstance(outcome, Done):
            self.proven = True
        elif isinstance(outcome, Failed) and not self.proven:
            code, times = self.alike or (outcome.code, 0)
            self.alike = (outcome.code, times + 1 if code == outcome.code else 1)

    def pointless(self) -> bool:
        """Whether its first units failed alike so often that the others will."""
        return not self.proven and self.alike is not None and self.alike[1] >= self.job.spec.alike_failures

    def begin_anew(self) -> None:
        """Forgets what went wrong, as somebody resumed it."""
        self.alike, self.proven, self.held_until_s, self.most = None, False, 0.0, None
        if self.work is not None:
            self.work.forget_explained()

    def progress(self, job: Job) -> dict[str, Any]:
        """What an event says of it besides its counts."""
        told: dict[str, Any] = {
            "in_flight": len(self.tasks),
            "units_per_s": self.meter.per_s(),
            "eta_s": self.meter.eta_s(job.counts.total - job.counts.ended) if job.planned else None,
            "spent_tokens": job.spent.tokens,
            "spent_usd": job.spent.usd,
        }
        return told if self.caching is None else told | {"caching": caching_told(self.caching)}

    async def aclose(self) -> None:
        """Stops what it does, and waits for that."""
        tasks = [*self.tasks.values(), *([] if self.preparing is None else [self.preparing])]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        if self.work is not None:
            await self.work.features.aclose()


def caching_told(progress: CachingProgress) -> dict[str, Any]:
    """How far a cache is, as an event says it."""
    return {
        "stage": progress.stage,
        "done": progress.done,
        "of": progress.of,
        "tokens_per_s": progress.tokens_per_s,
        "eta_s": progress.eta_s,
    }
