"""What a store keeps of jobs, as values: the job, its units of work, what came of them, and what was told of it.

A unit is one stage of one latent. It is pending, then leased to a worker, and ends as done, failed or skipped:

    pending --lease--> leased --settle--> done | failed(retryable?) | skipped(reason)
       ^                  |
       +--- given back ---+        counted as an attempt, or not if nothing was tried

After two attempts it fails: whatever kills a process twice would go on doing so.
"""

from dataclasses import dataclass, field
from typing import Any, Final, Literal

from core.autointerp.examples import FeatureName
from core.autointerp.jobs.specification import JobSpec, Stage
from core.autointerp.language_model import Usage

JobStatus = Literal[
    "queued",
    "running",
    "paused",
    "paused_budget",
    "paused_credits",
    "paused_key",
    "succeeded",
    "failed",
    "cancelled",
]
UnitState = Literal["pending", "leased", "done", "failed", "skipped"]
EventKind = Literal["progress", "explanation", "score", "warning", "budget", "done"]

ACTIVE: Final[frozenset[str]] = frozenset({"queued", "running"})
ENDED: Final[frozenset[str]] = frozenset({"succeeded", "failed", "cancelled"})
ATTEMPTS: Final = 2

NO_EXPLANATION: Final = "no_explanation"
"""Code of a unit that was skipped because the explanation that it reads was not made."""
NEEDS_ALL: Final = -1
"""What a unit needs that reads another latent's explanation: those of all latents."""
ABANDONED: Final = "abandoned"
"""Code of a unit whose worker died once too often."""


@dataclass(frozen=True, slots=True)
class Unit:
    """A unit that is leased.

    Attributes:
        job: Id of its job.
        number: Its place in the job.
        source: Source id.
        latent: Index there.
        stage: What is done.
        attempt: Which attempt this is, from 1.
        needs: Number of the unit that makes the explanation it reads; `NEEDS_ALL`: any latent's; None: it reads none.
    """

    job: str
    number: int
    source: str
    latent: int
    stage: Stage
    attempt: int
    needs: int | None = None


@dataclass(frozen=True, slots=True)
class Done:
    """It was done: `result` says what came of it, as plain JSON."""

    unit: Unit
    result: dict[str, Any]
    usage: Usage


@dataclass(frozen=True, slots=True)
class Failed:
    """It could not be done.

    Attributes:
        unit: Which.
        code: What kind of failure.
        reason: In words.
        retryable: Whether doing it again may help.
        result: What there is of a result all the same.
        usage: What that cost.
    """

    unit: Unit
    code: str
    reason: str
    retryable: bool
    result: dict[str, Any] | None = None
    usage: Usage = field(default_factory=Usage)


@dataclass(frozen=True, slots=True)
class Skipped:
    """There is nothing to do: `code` and `reason` say why."""

    unit: Unit
    code: str
    reason: str


@dataclass(frozen=True, slots=True)
class GivenBack:
    """It is to be done another time; `counted` if it may have been done in part."""

    unit: Unit
    counted: bool = False


Outcome = Done | Failed | Skipped | GivenBack


@dataclass(frozen=True, slots=True)
class Counts:
    """Units of a job."""

    total: int = 0
    done: int = 0
    failed: int = 0
    skipped: int = 0

    @property
    def ended(self) -> int:
        """Those that will not change."""
        return self.done + self.failed + self.skipped


@dataclass(frozen=True, slots=True)
class Spent:
    """What a job's account was charged with."""

    tokens: int = 0
    usd: float = 0.0


@dataclass(frozen=True, slots=True)
class Job:
    """A job as it is kept.

    Attributes:
        id: Its name.
        spec: What it is to do, changes of budget and the like included.
        status: How it stands.
        reason: Why it is paused or has failed.
        created_s: When it was asked for, seconds since 1970.
        started_s: When it was first worked on.
        ended_s: When it ended.
        planned: Whether its units are known.
        counts: How many of them there are.
        usage: What the results cost, as they say.
        spent: What was charged for it, failures included, when last looked.
        last_event: Number of the newest event.
    """

    id: str
    spec: JobSpec
    status: JobStatus
    reason: str | None
    created_s: float
    started_s: float | None
    ended_s: float | None
    planned: bool
    counts: Counts
    usage: Usage
    spent: Spent
    last_event: int

    @property
    def account(self) -> str:
        """The name of its account in the ledger."""
        return account_of(self.id)


@dataclass(frozen=True, slots=True)
class UnitResult:
    """What came of a unit.

    Attributes:
        number: Its place among the job's results, which ascends and is never given again.
        latent: Which latent; of a random SAE, its source says so.
        stage: What was done.
        state: How it ended.
        attempts: How often it was tried.
        code: What kind of failure or reason, if it is not done.
        reason: The same in words.
        result: The result: of `explain` stages `text`, `status`, `alternatives`, `prompt_hash`; of `score` stages
            `value`, `metric`, `status`, `reason`, `interval`, `metrics`, `by_quantile`, `n_rows`, `n_failed_rows`; of
            both `usage`. None if there is none.
        at_s: When, seconds since 1970.
    """

    number: int
    latent: FeatureName
    stage: Stage
    state: UnitState
    attempts: int
    code: str | None
    reason: str | None
    result: dict[str, Any] | None
    at_s: float


@dataclass(frozen=True, slots=True)
class Event:
    """What was told of a job.

    Attributes:
        number: From 1, without gaps.
        kind: What it is about.
        at_s: When, seconds since 1970.
        body: What it says; of an explanation or a score, nothing but `result`.
        result: The result that it is about.
    """

    number: int
    kind: EventKind
    at_s: float
    body: dict[str, Any] = field(default_factory=dict[str, Any])
    result: UnitResult | None = None


def account_of(job_id: str) -> str:
    """The name of a job's account in the ledger."""
    return f"job/{job_id}"
