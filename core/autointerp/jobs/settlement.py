"""What a unit's end means for its job, in one transaction: counters, results, events, and units that wait for it.

    outcome -> the unit, its result, its event -> units that read its explanation go on, or are skipped
            -> the job's counters -> the job ends when nothing is left

Deliberately not here: transactions (`store`), and deciding what came of a unit (`work`).
"""

import math
import sqlite3
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

import orjson

from core.autointerp.jobs.units import (
    ABANDONED,
    ATTEMPTS,
    ENDED,
    NEEDS_ALL,
    NO_EXPLANATION,
    Done,
    EventKind,
    Failed,
    GivenBack,
    JobStatus,
    Outcome,
    Skipped,
)
from core.autointerp.language_model import Usage

NANO: Final = 10**9
"""Nano-dollars of a dollar."""


@dataclass(frozen=True, slots=True)
class Settlement:
    """Writes what came of units.

    Attributes:
        rows: A transaction.
        worker: Whose leases count.
        now_s: When.
    """

    rows: sqlite3.Connection
    worker: str
    now_s: float

    def settle(self, outcomes: Iterable[Outcome]) -> list[Outcome]:
        """See `JobStore.settle`."""
        counted: list[Outcome] = []
        jobs: set[int] = set()
        for outcome in outcomes:
            job = self._leased_by(outcome)
            if job is not None:
                counted.append(outcome)
                jobs.add(job)
                self._take(job, outcome)
        for job in jobs:
            self.end_if_over(job)
        return counted

    def tell(self, job: int, kind: EventKind, body: Mapping[str, Any], result: int | None = None) -> None:
        """Adds an event to a job."""
        number = self.rows.execute(
            "UPDATE jobs SET last_event = last_event + 1 WHERE number = ? RETURNING last_event", (job,)
        ).fetchone()[0]
        self.rows.execute(
            "INSERT INTO events VALUES (?, ?, ?, ?, ?, ?)",
            (job, number, kind, self.now_s, orjson.dumps(dict(body)), result),
        )

    def end_if_over(self, job: int) -> None:
        """Ends a job that has nothing left to do."""
        row = self.rows.execute("SELECT * FROM jobs WHERE number = ?", (job,)).fetchone()
        if row["done"] + row["failed"] + row["skipped"] < row["total"] or row["status"] in ENDED or not row["planned"]:
            return
        hopeless = row["failed"] > 0 and not row["done"]
        status: JobStatus = "failed" if hopeless else "succeeded"
        reason = "Every unit failed." if hopeless else None
        self.rows.execute(
            "UPDATE jobs SET status = ?, reason = ?, ended_s = ? WHERE number = ?", (status, reason, self.now_s, job)
        )
        self.tell(job, "done", {**self._counts(job), "reason": reason})

    def free_those_that_need_all(self, job: int) -> None:
        """Lets units go on that read another latent's explanation, once there will be no more of them."""
        waiting = self.rows.execute(
            "SELECT 1 FROM units WHERE job = ? AND explains = 1 AND state IN ('pending', 'leased') LIMIT 1", (job,)
        ).fetchone()
        if waiting is None:
            self.rows.execute("UPDATE units SET ready = 1 WHERE job = ? AND needs = ?", (job, NEEDS_ALL))

    def _leased_by(self, outcome: Outcome) -> int | None:
        """The job's number, if its unit is still leased for this attempt by this worker."""
        unit = outcome.unit
        found = self.rows.execute(
            "SELECT u.job FROM units u JOIN jobs j ON j.number = u.job WHERE j.id = ? AND u.number = ? "
            "AND u.state = 'leased' AND u.worker = ? AND u.attempts = ?",
            (unit.job, unit.number, self.worker, unit.attempt),
        ).fetchone()
        return None if found is None else found["job"]

    def _take(self, job: int, outcome: Outcome) -> None:
        match outcome:
            case GivenBack(unit, counted=True) if unit.attempt >= ATTEMPTS:
                said = f"Whoever worked on it died or was lost, {ATTEMPTS} times."
                self._end(job, Failed(unit, ABANDONED, said, retryable=True))
            case GivenBack(unit, counted):
                self.rows.execute(
                    "UPDATE units SET state = 'pending', attempts = attempts - ? WHERE job = ? AND number = ?",
                    (int(not counted), job, unit.number),
                )
            case _:
                self._end(job, outcome)

    def _end(self, job: int, outcome: Done | Failed | Skipped) -> None:
        unit = outcome.unit
        state = {Done: "done", Failed: "failed", Skipped: "skipped"}[type(outcome)]
        code = None if isinstance(outcome, Done) else outcome.code
        reason = None if isinstance(outcome, Done) else outcome.reason
        self.rows.execute(
            "UPDATE units SET state = ?, code = ?, reason = ?, retryable = ? WHERE job = ? AND number = ?",
            (state, code, reason, int(isinstance(outcome, Failed) and outcome.retryable), job, unit.number),
        )
        self.rows.execute(f"UPDATE jobs SET {state} = {state} + 1 WHERE number = ?", (job,))
        if isinstance(outcome, Skipped):
            self._add_result(job, unit.number, None)
        else:
            self._add_usage(job, outcome.usage)
            number = self._add_result(job, unit.number, outcome.result)
            body = {"source": unit.source, "latent": unit.latent, "stage": str(unit.stage)}
            if isinstance(outcome, Failed):
                self.tell(job, "warning", body | {"code": code, "reason": reason}, number)
            else:
                self.tell(job, "explanation" if unit.stage.kind == "explain" else "score", body, number)
        if unit.stage.kind == "explain":
            self._explained(job, outcome)

    def _explained(self, job: int, outcome: Done | Failed | Skipped) -> None:
        """Lets units go on that wait for an explanation, or skips them as there will be none."""
        explaining = outcome.unit.number
        if isinstance(outcome, Done):
            self.rows.execute("UPDATE units SET ready = 1 WHERE job = ? AND needs = ?", (job, explaining))
        else:
            code, reason = NO_EXPLANATION, "The latent was not explained."
            if isinstance(outcome, Skipped):
                code, reason = outcome.code, outcome.reason
            readers = self.rows.execute(
                "SELECT number FROM units WHERE job = ? AND needs = ? AND state = 'pending'", (job, explaining)
            ).fetchall()
            for row in readers:
                self.rows.execute(
                    "UPDATE units SET state = 'skipped', code = ?, reason = ? WHERE job = ? AND number = ?",
                    (code, reason, job, row["number"]),
                )
                self._add_result(job, row["number"], None)
            self.rows.execute("UPDATE jobs SET skipped = skipped + ? WHERE number = ?", (len(readers), job))
        self.free_those_that_need_all(job)

    def _add_result(self, job: int, unit: int, result: Mapping[str, Any] | None) -> int:
        body = None if result is None else orjson.dumps(dict(result))
        return self.rows.execute(
            "INSERT INTO results (job, unit, body, at_s) VALUES (?, ?, ?, ?) RETURNING number",
            (job, unit, body, self.now_s),
        ).fetchone()[0]

    def _add_usage(self, job: int, usage: Usage) -> None:
        nano_usd = None if usage.cost_usd is None else math.floor(usage.cost_usd * NANO + 0.5)
        tokens = (usage.prompt_tokens, usage.completion_tokens)
        self.rows.execute(
            "UPDATE jobs SET prompt_tokens = prompt_tokens + ?, completion_tokens = completion_tokens + ?, "
            "nano_usd = CASE WHEN ? IS NULL THEN nano_usd ELSE coalesce(nano_usd, 0) + ? END, "
            "calls = calls + ?, retries = retries + ?, cached = cached + ? WHERE number = ?",
            (*tokens, nano_usd, nano_usd, usage.calls, usage.retries, usage.cached, job),
        )

    def _counts(self, job: int) -> dict[str, Any]:
        columns = "status, total, done, failed, skipped"
        return dict(self.rows.execute(f"SELECT {columns} FROM jobs WHERE number = ?", (job,)).fetchone())
