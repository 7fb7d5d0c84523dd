"""Job store: which jobs there are and how far each unit of work has come, so that nothing is done twice by mistake.

    submit -> plan -> lease -> settle -> ... -> succeeded        one transaction each

A unit's result, the events that tell of it and the job's counters are written together: whoever reads sees all of it or
nothing. One worker holds the file at a time (`claim`); another that still runs finds what it leased taken over, and
what it settles counts for nothing.

Deliberately not here: working on units (`driver`), and reading results and events (`history`).
"""

import sqlite3
import uuid
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from core.autointerp.jobs.schema import JobFile
from core.autointerp.jobs.settlement import NANO, Settlement
from core.autointerp.jobs.specification import JobSpec, Stage
from core.autointerp.jobs.units import (
    ENDED,
    NEEDS_ALL,
    NO_EXPLANATION,
    Counts,
    EventKind,
    GivenBack,
    Job,
    JobStatus,
    Outcome,
    Spent,
    Unit,
)
from core.autointerp.language_model import Usage
from core.clock import SYSTEM_CLOCK, Clock
from core.errors import Conflict, NotFound, Unavailable


@dataclass(frozen=True, slots=True)
class Request:
    """How a job was asked for, so that asking again finds it.

    Attributes:
        owner: Whose request it was; keys of different owners do not meet.
        key: The caller's idempotency key; None: every request is another job.
        digest: Tells requests apart.
    """

    owner: str = ""
    key: str | None = None
    digest: str = ""


class JobStore:
    """The jobs of a file, as one worker of it sees them; safe between threads.

    Args:
        file: The file.
        clock: Tells when things happen.
    """

    def __init__(self, file: JobFile, clock: Clock = SYSTEM_CLOCK) -> None:
        self.file = file
        self.worker = uuid.uuid4().hex
        self._clock = clock
        self._specs: dict[int, tuple[bytes, JobSpec]] = {}

    def submit(self, spec: JobSpec, request: Request | None = None) -> tuple[Job, bool]:
        """Takes a job on; whether it is a new one.

        Raises:
            Conflict: The idempotency key was used for another request.
        """
        request = request or Request()
        with self.file.writing() as rows:
            if request.key is not None:
                known = rows.execute(
                    "SELECT * FROM jobs WHERE owner = ? AND idempotency_key = ?", (request.owner, request.key)
                ).fetchone()
                if known is not None:
                    if known["digest"] != request.digest:
                        raise Conflict(
                            f"The idempotency key was used for another request, which is job {known['id']}.",
                            "Use a new key for a new job.",
                        )
                    return self._job(known), False
            job_id = uuid.uuid4().hex[:16]
            rows.execute(
                "INSERT INTO jobs (id, model, spec, status, priority, owner, idempotency_key, digest, created_s) "
                "VALUES (?, ?, ?, 'queued', ?, ?, ?, ?, ?)",
                (
                    job_id,
                    spec.model,
                    spec.dumped(),
                    spec.priority,
                    request.owner,
                    request.key,
                    request.digest,
                    self._clock.time(),
                ),
            )
            row = _find(rows, job_id)
            self._settlement(rows).tell(row["number"], "progress", {"status": "queued"})
        return self.job(job_id), True

    def job(self, job_id: str) -> Job:
        """A job.

        Raises:
            NotFound: There is none of this name.
        """
        found = self.file.read("SELECT * FROM jobs WHERE id = ?", (job_id,))
        if not found:
            raise _unknown(job_id)
        return self._job(found[0])

    def jobs(self, limit: int = 100, before: str | None = None) -> list[Job]:
        """Jobs, newest first; those before one, if it is named."""
        if before is None:
            rows = self.file.read("SELECT * FROM jobs ORDER BY number DESC LIMIT ?", (limit,))
        else:
            rows = self.file.read(
                "SELECT * FROM jobs WHERE number < (SELECT number FROM jobs WHERE id = ?) ORDER BY number DESC LIMIT ?",
                (before, limit),
            )
        return [self._job(row) for row in rows]

    def active(self) -> list[Job]:
        """Jobs that are to be worked on, those with a higher priority first, then the older ones."""
        rows = self.file.read("SELECT * FROM jobs WHERE status IN ('queued', 'running') ORDER BY priority DESC, number")
        return [self._job(row) for row in rows]

    def claim(self) -> None:
        """Makes this the worker that holds the file, and gives back what others had leased, counted as attempts."""
        with self.file.writing() as rows:
            rows.execute("INSERT OR REPLACE INTO holder VALUES (1, ?)", (self.worker,))
            orphans = rows.execute(
                "SELECT u.*, j.id FROM units u JOIN jobs j ON j.number = u.job "
                "WHERE u.state = 'leased' AND u.worker != ?",
                (self.worker,),
            ).fetchall()
            rows.execute("UPDATE units SET worker = ? WHERE state = 'leased'", (self.worker,))
            self._settlement(rows).settle([GivenBack(_unit(row, row["id"]), counted=True) for row in orphans])

    def plan(self, job_id: str, latents: Mapping[str, Sequence[int]]) -> Job:
        """Makes the units of a job, unless they are made.

        Args:
            job_id: Which.
            latents: Its latents by source.
        """
        with self.file.writing() as rows:
            row = _find(rows, job_id)
            if not row["planned"]:
                spec = self._spec(row)
                rows.executemany(
                    "INSERT INTO units (job, number, source, latent, stage, explains, needs, ready) "
                    "VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
                    _planned(row["number"], spec, latents),
                )
                total = rows.execute("SELECT count(*) FROM units WHERE job = ?", (row["number"],)).fetchone()[0]
                rows.execute("UPDATE jobs SET planned = 1, total = ? WHERE number = ?", (total, row["number"]))
                self._settlement(rows).end_if_over(row["number"])
        return self.job(job_id)

    def lease(self, job_id: str, count: int, ttl_s: float) -> list[Unit]:
        """Takes units to work on: the first that are pending and have what they need; leases that ran out are renewed.

        Raises:
            Unavailable: Another worker holds the file.
        """
        now_s = self._clock.time()
        with self.file.writing() as rows:
            self._check_holder(rows)
            job = _find(rows, job_id)
            if job["status"] != "running":
                return []
            late = rows.execute(
                "SELECT * FROM units WHERE job = ? AND state = 'leased' AND until_s < ?", (job["number"], now_s)
            ).fetchall()
            self._settlement(rows).settle([GivenBack(_unit(row, job_id), counted=True) for row in late])
            found = rows.execute(
                "SELECT * FROM units WHERE job = ? AND state = 'pending' AND ready = 1 ORDER BY number LIMIT ?",
                (job["number"], count),
            ).fetchall()
            rows.executemany(
                "UPDATE units SET state = 'leased', attempts = attempts + 1, worker = ?, until_s = ? "
                "WHERE job = ? AND number = ?",
                [(self.worker, now_s + ttl_s, job["number"], row["number"]) for row in found],
            )
        return [replace(_unit(row, job_id), attempt=row["attempts"] + 1) for row in found]

    def settle(self, outcomes: Iterable[Outcome]) -> list[Outcome]:
        """Writes what came of units, and events that say so; those that were counted.

        An outcome counts if its unit is still leased for that attempt: others were taken over meanwhile.

        Raises:
            Unavailable: Another worker holds the file.
        """
        with self.file.writing() as rows:
            self._check_holder(rows)
            return self._settlement(rows).settle(outcomes)

    def move(
        self, job_id: str, status: JobStatus, among: Collection[JobStatus], kind: EventKind, reason: str | None = None
    ) -> Job:
        """Changes how a job stands, and tells of it.

        Args:
            job_id: Which.
            status: How it stands from now on.
            among: How it has to stand now.
            kind: The event's kind.
            reason: Why.

        Raises:
            NotFound: There is none of this name.
            Conflict: It stands otherwise.
        """
        now_s = self._clock.time()
        with self.file.writing() as rows:
            row = _find(rows, job_id)
            if row["status"] not in among:
                raise Conflict(f"The job is {row['status']}.", f"This can be done when it is {' or '.join(among)}.")
            ended_s = now_s if status in ENDED else None
            rows.execute(
                "UPDATE jobs SET status = ?, reason = ?, ended_s = ?, started_s = coalesce(started_s, ?) "
                "WHERE number = ?",
                (status, reason, ended_s, now_s if status == "running" else None, row["number"]),
            )
            self._settlement(rows).tell(row["number"], kind, {"status": status, "reason": reason})
        return self.job(job_id)

    def retry(self, job_id: str) -> int:
        """Makes units pending again that failed but may succeed, and those that lacked an explanation; how many."""
        with self.file.writing() as rows:
            job = _find(rows, job_id)["number"]
            missed = rows.execute(
                "SELECT number, state FROM units WHERE job = ? AND state IN ('failed', 'skipped') AND (retryable = 1 "
                "OR (code = ? AND (needs = ? OR needs IN (SELECT number FROM units WHERE job = ? AND retryable = 1))))",
                (job, NO_EXPLANATION, NEEDS_ALL, job),
            ).fetchall()
            for row in missed:
                rows.execute("DELETE FROM results WHERE job = ? AND unit = ?", (job, row["number"]))
                rows.execute(
                    "UPDATE units SET state = 'pending', attempts = 0, code = NULL, reason = NULL, retryable = 0, "
                    "ready = needs IS NULL OR (SELECT d.state = 'done' FROM units d WHERE d.job = ? AND "
                    "d.number = units.needs) IS 1 WHERE job = ? AND number = ?",
                    (job, job, row["number"]),
                )
            failed = sum(row["state"] == "failed" for row in missed)
            rows.execute(
                "UPDATE jobs SET failed = failed - ?, skipped = skipped - ? WHERE number = ?",
                (failed, len(missed) - failed, job),
            )
            self._settlement(rows).free_those_that_need_all(job)
            return len(missed)

    def amend(self, job_id: str, change: Callable[[JobSpec], JobSpec]) -> Job:
        """Changes a job's budget, concurrency, priority or deadline.

        Raises:
            Conflict: It has ended by being cancelled.
        """
        with self.file.writing() as rows:
            row = _find(rows, job_id)
            if row["status"] == "cancelled":
                raise Conflict("The job was cancelled.", "Begin another one.")
            spec = change(self._spec(row))
            rows.execute(
                "UPDATE jobs SET spec = ?, priority = ? WHERE number = ?", (spec.dumped(), spec.priority, row["number"])
            )
            body = {"budget_usd": spec.budget.usd, "budget_tokens": spec.budget.tokens, "concurrency": spec.concurrency}
            self._settlement(rows).tell(row["number"], "budget", body)
        return self.job(job_id)

    def charge(self, job_id: str, spent: Spent) -> None:
        """Keeps what the ledger says that a job cost."""
        with self.file.writing() as rows:
            rows.execute(
                "UPDATE jobs SET spent_tokens = ?, spent_usd = ? WHERE id = ?", (spent.tokens, spent.usd, job_id)
            )

    def tell(self, job_id: str, kind: EventKind, body: Mapping[str, Any]) -> None:
        """Adds an event."""
        with self.file.writing() as rows:
            self._settlement(rows).tell(_find(rows, job_id)["number"], kind, body)

    def delete(self, job_id: str) -> None:
        """Forgets a job and all that came of it."""
        with self.file.writing() as rows:
            number = _find(rows, job_id)["number"]
            for table in ("units", "results", "events"):
                rows.execute(f"DELETE FROM {table} WHERE job = ?", (number,))
            rows.execute("DELETE FROM jobs WHERE number = ?", (number,))

    def _settlement(self, rows: sqlite3.Connection) -> Settlement:
        return Settlement(rows, self.worker, self._clock.time())

    def _check_holder(self, rows: sqlite3.Connection) -> None:
        holder = rows.execute("SELECT worker FROM holder").fetchone()
        if holder is None or holder["worker"] != self.worker:
            raise Unavailable("Another process works on these jobs now.")

    def _job(self, row: sqlite3.Row) -> Job:
        nano_usd = row["nano_usd"]
        return Job(
            id=row["id"],
            spec=self._spec(row),
            status=row["status"],
            reason=row["reason"],
            created_s=row["created_s"],
            started_s=row["started_s"],
            ended_s=row["ended_s"],
            planned=bool(row["planned"]),
            counts=Counts(row["total"], row["done"], row["failed"], row["skipped"]),
            usage=Usage(
                row["prompt_tokens"],
                row["completion_tokens"],
                None if nano_usd is None else nano_usd / NANO,
                row["calls"],
                row["retries"],
                row["cached"],
            ),
            spent=Spent(row["spent_tokens"], row["spent_usd"]),
            last_event=row["last_event"],
        )

    def _spec(self, row: sqlite3.Row) -> JobSpec:
        """Read once: a list of latents can be long."""
        kept = self._specs.get(row["number"])
        if kept is None or kept[0] != row["spec"]:
            kept = self._specs[row["number"]] = (row["spec"], JobSpec.loaded(row["spec"]))
        return kept[1]


def _planned(job: int, spec: JobSpec, latents: Mapping[str, Sequence[int]]) -> Iterable[tuple[Any, ...]]:
    stages = list(spec.stages())
    number = 0
    for source in spec.all_sources():
        for latent in latents.get(source, ()):
            first = number
            for stage in stages:
                explaining = stage.explaining
                needs = None if explaining is None else NEEDS_ALL if stage.random else first + stages.index(explaining)
                explains = int(stage.kind == "explain")
                yield job, number, source, latent, str(stage), explains, needs, int(needs is None)
                number += 1


def _unit(row: sqlite3.Row, job_id: str) -> Unit:
    stage = Stage.read(row["stage"])
    return Unit(job_id, row["number"], row["source"], row["latent"], stage, row["attempts"], row["needs"])


def _find(rows: sqlite3.Connection, job_id: str) -> sqlite3.Row:
    found = rows.execute("SELECT * FROM jobs WHERE id = ?", (job_id,)).fetchone()
    if found is None:
        raise _unknown(job_id)
    return found


def _unknown(job_id: str) -> NotFound:
    return NotFound(f"There is no job '{job_id[:100]}'.", "See GET /v1/autointerp/jobs.")
