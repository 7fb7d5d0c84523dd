"""How far a caching job has come, how fast it is and when it will be done."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from core.clock import Clock


@dataclass(frozen=True, slots=True)
class CachingProgress:
    """How far a job has come.

    Attributes:
        stage: What is done now: windows are recorded or latents distilled.
        done: Windows or latents done, those of earlier runs included.
        of: How many there are; of windows at most.
        tokens_per_s: Tokens recorded per second by this run; None before the first part.
        eta_s: Seconds that the stage still takes at this run's rate; None while unknown.
    """

    stage: Literal["recording", "distilling"]
    done: int
    of: int
    tokens_per_s: float | None = None
    eta_s: float | None = None


class Meter:
    """Counts one stage. The rate is that of this run; what earlier runs made costs no time.

    Args:
        stage: Which stage.
        of: Windows or latents of the whole job.
        report: Is told after everything that is counted.
        clock: Measures the rate.
        tokens_each: Tokens of a window; None while latents are counted.
    """

    def __init__(
        self,
        stage: Literal["recording", "distilling"],
        of: int,
        report: Callable[[CachingProgress], None],
        clock: Clock,
        tokens_each: int | None = None,
    ) -> None:
        self._stage: Literal["recording", "distilling"] = stage
        self._of = of
        self._report = report
        self._clock = clock
        self._tokens_each = tokens_each
        self._started_s: float | None = None
        self._done = self._made = 0

    @property
    def is_running(self) -> bool:
        """Whether work has begun."""
        return self._started_s is not None

    def start(self) -> None:
        """Work begins now."""
        self._started_s = self._clock.monotonic()

    def found(self, count: int) -> None:
        """So many were made by an earlier run."""
        self._count(count)

    def made(self, count: int) -> None:
        """So many were made now."""
        self._made += count
        self._count(count)

    def _count(self, count: int) -> None:
        self._done += count
        rate = None
        if self._made and self._started_s is not None:
            rate = self._made / max(self._clock.monotonic() - self._started_s, 1e-9)
        self._report(
            CachingProgress(
                self._stage,
                self._done,
                self._of,
                None if rate is None or self._tokens_each is None else rate * self._tokens_each,
                None if rate is None else (self._of - self._done) / rate,
            )
        )
