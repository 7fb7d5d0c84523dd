"""Results of jobs, made by hand."""

from typing import Any

from core.autointerp.examples import FeatureName
from core.autointerp.jobs.results import as_line
from core.autointerp.jobs.specification import Stage
from core.autointerp.jobs.units import UnitResult
from core.autointerp.report.rows import Report, report_of


def result(index: int, stage: str, content: dict[str, Any] | None, source: str = "1-res-demo", **changes: Any) -> Any:
    fields: dict[str, Any] = {
        "number": index,
        "latent": FeatureName("rayscope-demo", source, index),
        "stage": Stage.read(stage),
        "state": "done" if content is not None else "failed",
        "attempts": 1,
        "code": None,
        "reason": None,
        "result": content,
        "at_s": 0.0,
    }
    return UnitResult(**(fields | changes))


def explanation(index: int, text: str, **changes: Any) -> UnitResult:
    return result(index, "explain/default", {"text": text}, **changes)


def score(index: int, value: float | None, stage: str = "score/default/detection", **changes: Any) -> UnitResult:
    return result(index, stage, {"value": value, "metric": "balanced_accuracy"}, **changes)


def report(*results: UnitResult, title: str = "A run") -> Report:
    lines = [as_line(one) for one in results]
    return report_of(title, [("model", "rayscope-demo")], ("detection", "fuzz", "intruder"), lines)
