"""What a store tells of its jobs: events by number, results by cursor, explanations that were made.

Read from the same file as the jobs are written to, in pieces, so that a reader of a hundred thousand results holds a
few of them. Numbers ascend and are never given again: whoever says which it saw last misses nothing.
"""

import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

import orjson

from core.autointerp.examples import FeatureName
from core.autointerp.jobs.schema import JobFile
from core.autointerp.jobs.specification import Stage
from core.autointerp.jobs.units import Event, UnitResult

_PAGE: Final = 500
_UNIT: Final = (
    "r.number AS result, r.body AS result_body, r.at_s AS result_at_s, j.model, "
    "u.source, u.latent, u.stage, u.state, u.attempts, u.code, u.reason"
)


class History:
    """Reads the past of the jobs in a file; safe between threads."""

    def __init__(self, file: JobFile) -> None:
        self._file = file

    def events(self, job_id: str, after: int = 0, limit: int = _PAGE) -> list[Event]:
        """Events of a job after one, oldest first."""
        rows = self._file.read(
            f"SELECT e.number, e.kind, e.at_s, e.body, {_UNIT} FROM events e JOIN jobs j ON j.number = e.job "
            "LEFT JOIN results r ON r.number = e.result LEFT JOIN units u ON u.job = r.job AND u.number = r.unit "
            "WHERE j.id = ? AND e.number > ? ORDER BY e.number LIMIT ?",
            (job_id, after, limit),
        )
        return [_event(row) for row in rows]

    def results(self, job_id: str, after: int = 0, limit: int = _PAGE) -> list[UnitResult]:
        """Results of a job after one, in the order that they came."""
        rows = self._file.read(
            f"SELECT {_UNIT} FROM results r JOIN jobs j ON j.number = r.job "
            "JOIN units u ON u.job = r.job AND u.number = r.unit "
            "WHERE j.id = ? AND r.number > ? ORDER BY r.number LIMIT ?",
            (job_id, after, limit),
        )
        return [_result(row) for row in rows]

    def all_results(self, job_id: str) -> Iterator[UnitResult]:
        """All results of a job, read page by page."""
        after = 0
        while page := self.results(job_id, after):
            yield from page
            after = page[-1].number

    def explained(self, job_id: str, source: str, explainer: str) -> dict[int, int]:
        """Latents of a source that were explained, and the units that did it."""
        rows = self._file.read(
            "SELECT u.latent, u.number FROM units u JOIN jobs j ON j.number = u.job "
            "WHERE j.id = ? AND u.source = ? AND u.stage = ? AND u.state = 'done' ORDER BY u.number",
            (job_id, source, str(Stage("explain", explainer))),
        )
        return {row["latent"]: row["number"] for row in rows}

    def explanations(self, job_id: str, units: Sequence[int]) -> Mapping[int, str]:
        """What units of a job explained, by unit; those that have explained nothing are missing."""
        marks = ", ".join("?" * len(units))
        rows = self._file.read(
            "SELECT r.unit, r.body FROM results r JOIN jobs j ON j.number = r.job "
            f"WHERE j.id = ? AND r.unit IN ({marks}) AND r.body IS NOT NULL",
            (job_id, *units),
        )
        texts = {row["unit"]: str(orjson.loads(row["body"]).get("text", "")) for row in rows}
        return {unit: text for unit, text in texts.items() if text}


def _event(row: sqlite3.Row) -> Event:
    body: dict[str, Any] = orjson.loads(row["body"])
    return Event(row["number"], row["kind"], row["at_s"], body, None if row["result"] is None else _result(row))


def _result(row: sqlite3.Row) -> UnitResult:
    return UnitResult(
        number=row["result"],
        latent=FeatureName(row["model"], row["source"], row["latent"]),
        stage=Stage.read(row["stage"]),
        state=row["state"],
        attempts=row["attempts"],
        code=row["code"],
        reason=row["reason"],
        result=None if row["result_body"] is None else orjson.loads(row["result_body"]),
        at_s=row["result_at_s"],
    )
