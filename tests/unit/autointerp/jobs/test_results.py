"""Results as lines and as a table: the same things in both, and nothing for what is not there."""

import io
import json
from typing import Any

from pyarrow import parquet

from core.autointerp.examples import Example, FeatureName
from core.autointerp.jobs.results import as_line, explanation_result, ndjson, score_result, write_parquet
from core.autointerp.jobs.specification import Stage
from core.autointerp.jobs.units import UnitResult
from core.autointerp.language_model import Usage
from core.autointerp.metrics import Interval
from core.autointerp.results import Explanation, Score
from core.autointerp.scorers.rows import Judgement

ROW = Judgement(Example(("a",), (1.0,)), True, None, None, "a", highlighted=False)
SCORE = Score(
    0.75,
    "balanced_accuracy",
    "partial",
    (ROW, ROW),
    Usage(100, 20, 0.5, 2),
    interval=Interval(0.6, 0.9),
    metrics={"f1": 0.5},
    by_quantile={1: 0.25},
)
EXPLANATION = Explanation("cats", "ok", "abc", Usage(10, 5, None, 1), ("dogs",))


def result(number: int, stage: str, content: dict[str, Any] | None, source: str = "3-res", **more: Any) -> UnitResult:
    state = {"state": "done", "code": None, "reason": None} | more
    name = FeatureName("m", source, 7)
    return UnitResult(number, name, Stage.read(stage), attempts=1, result=content, at_s=1.5, **state)


RESULTS = [
    result(1, "explain/default", explanation_result(EXPLANATION)),
    result(2, "score/default/detection", score_result(SCORE)),
    result(3, "score/default/detection/random-explanation", score_result(SCORE) | {"explanation_of": 9}),
    result(4, "score/-/intruder", None, "3-random-res", state="skipped", code="no_examples", reason="never fires"),
]


def test_lines_have_the_same_keys_whatever_they_are_about() -> None:
    lines = [json.loads(line) for line in ndjson(RESULTS)]
    assert len({tuple(line) for line in lines}) == 1
    explained, scored, beside, skipped = lines
    assert (explained["explanation"], explained["alternatives"], explained["value"]) == ("cats", ["dogs"], None)
    assert (scored["value"], scored["ci_low"], scored["ci_high"]) == (0.75, 0.6, 0.9)
    assert (scored["n_rows"], scored["n_failed_rows"], scored["cost_usd"]) == (2, 2, 0.5)
    assert (beside["baseline"], beside["explanation_of"]) == ("random-explanation", 9)
    assert (skipped["state"], skipped["explainer"], skipped["baseline"]) == ("skipped", None, "random-sae")


def test_a_table_has_what_the_lines_have() -> None:
    file = io.BytesIO()
    assert write_parquet(RESULTS, file) == len(RESULTS)
    table: Any = parquet.read_table(io.BytesIO(file.getvalue()))
    for row, one in zip(table.to_pylist(), RESULTS, strict=True):
        line = as_line(one)
        as_text = {
            name: line[name] and json.dumps(line[name], separators=(",", ":")) for name in ("metrics", "by_quantile")
        }
        assert row == line | as_text


def test_a_job_without_results_is_an_empty_table() -> None:
    file = io.BytesIO()
    assert write_parquet([], file) == 0
    assert parquet.read_table(io.BytesIO(file.getvalue())).num_rows == 0
