"""What is known of a job, as everybody else sees it: plain values that the book of jobs (`core.jobs`) hands out."""

from dataclasses import dataclass
from typing import Any, Final, Literal

Status = Literal["IN_QUEUE", "IN_PROGRESS", "COMPLETED", "FAILED", "CANCELLED"]

_ENDED: Final = frozenset({"COMPLETED", "FAILED", "CANCELLED"})


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a job's work has come.

    Attributes:
        stage: What is done now.
        done: How much of it is done.
        of: How much there is to do; None if that is not known yet.
    """

    stage: str
    done: int = 0
    of: int | None = None


@dataclass(frozen=True, slots=True)
class Kept:
    """An output that lies elsewhere, such as in an object store.

    Attributes:
        reference: Where. What it refers to may go once the job is forgotten.
        n_bytes: Bytes that it takes there.
    """

    reference: Any
    n_bytes: int


@dataclass(frozen=True, slots=True)
class JobCounts:
    """Jobs that wait, that are worked on, and that have ended since the book was opened."""

    in_queue: int
    in_progress: int
    completed: int
    failed: int


@dataclass(frozen=True, slots=True)
class JobState:
    """What is known of a job.

    Attributes:
        id: Its name.
        status: How far it has come.
        output: The newest output, or the `Kept` that stands for it; None before there is one.
        error: Why it failed.
        delay_s: Seconds that it waited, so far or in all.
        execution_s: Seconds that it was worked on; None before.
        progress: How far the work had come when it last said so; None if it has not.
        changes: Number of the newest change, from 1 on.
    """

    id: str
    status: Status
    output: Any
    error: str | None
    delay_s: float
    execution_s: float | None
    progress: Progress | None = None
    changes: int = 1

    @property
    def ended(self) -> bool:
        """Whether it will not change any more."""
        return self.status in _ENDED
