"""Results of a job: what is kept of an explanation or a score, and how results are read as lines or as a table.

What was judged row by row is not kept: it is a hundred times the size of what it comes to, and asking again with the
same seed brings it back from the reply cache.
"""

from collections.abc import Iterable, Iterator
from dataclasses import asdict
from typing import IO, Any, Final

import orjson

from core.autointerp.jobs.sources import is_random
from core.autointerp.jobs.specification import NO_EXPLAINER
from core.autointerp.jobs.units import UnitResult
from core.autointerp.results import Explanation, Score

_ROWS_AT_ONCE: Final = 10_000


def explanation_result(explanation: Explanation) -> dict[str, Any]:
    """What is kept of an explanation."""
    return {
        "text": explanation.text,
        "status": explanation.status,
        "alternatives": list(explanation.alternatives),
        "prompt_hash": explanation.prompt_hash,
        "usage": asdict(explanation.usage),
    }


def score_result(score: Score) -> dict[str, Any]:
    """What is kept of a score."""
    interval = score.interval
    return {
        "value": score.value,
        "metric": score.metric,
        "status": score.status,
        "reason": score.reason,
        "interval": None if interval is None else [interval.low, interval.high],
        "metrics": dict(score.metrics),
        "by_quantile": {str(quantile): value for quantile, value in score.by_quantile.items()},
        "n_rows": len(score.rows),
        "n_failed_rows": sum(row.failed for row in score.rows),
        "usage": asdict(score.usage),
    }


def as_line(result: UnitResult) -> dict[str, Any]:
    """A result as one flat object, the same keys whatever it is; what it does not have is None."""
    stage, content = result.stage, result.result or {}
    usage: dict[str, Any] = content.get("usage") or {}
    interval = content.get("interval") or (None, None)
    baseline = "random-sae" if is_random(result.latent.source) else "random-explanation" if stage.random else None
    return {
        "cursor": result.number,
        "model": result.latent.model,
        "source": result.latent.source,
        "index": result.latent.index,
        "stage": str(stage),
        "kind": stage.kind,
        "explainer": None if stage.explainer == NO_EXPLAINER else stage.explainer,
        "scorer": stage.scorer or None,
        "baseline": baseline,
        "state": result.state,
        "attempts": result.attempts,
        "code": result.code,
        "reason": result.reason or content.get("reason"),
        "explanation": content.get("text"),
        "alternatives": content.get("alternatives"),
        "prompt_hash": content.get("prompt_hash"),
        "value": content.get("value"),
        "metric": content.get("metric"),
        "status": content.get("status"),
        "ci_low": interval[0],
        "ci_high": interval[1],
        "metrics": content.get("metrics"),
        "by_quantile": content.get("by_quantile"),
        "n_rows": content.get("n_rows"),
        "n_failed_rows": content.get("n_failed_rows"),
        "explanation_of": content.get("explanation_of"),
        "prompt_tokens": usage.get("prompt_tokens"),
        "completion_tokens": usage.get("completion_tokens"),
        "cost_usd": usage.get("cost_usd"),
        "calls": usage.get("calls"),
        "retries": usage.get("retries"),
        "cached": usage.get("cached"),
        "at_s": result.at_s,
    }


def ndjson(results: Iterable[UnitResult]) -> Iterator[bytes]:
    """A line of JSON per result."""
    for result in results:
        yield orjson.dumps(as_line(result), option=orjson.OPT_APPEND_NEWLINE)


def write_parquet(results: Iterable[UnitResult], file: IO[bytes]) -> int:
    """Writes results as one table; how many there were.

    `metrics` and `by_quantile` are JSON texts, since their names differ from scorer to scorer.
    """
    import pyarrow as pa
    from pyarrow import parquet

    schema = _schema()
    written = 0
    with parquet.ParquetWriter(file, schema, compression="zstd") as writer:
        rows: list[dict[str, Any]] = []
        for result in results:
            rows.append(_as_row(as_line(result)))
            if len(rows) == _ROWS_AT_ONCE:
                writer.write_table(pa.Table.from_pylist(rows, schema))
                written, rows = written + len(rows), []
        writer.write_table(pa.Table.from_pylist(rows, schema))
    return written + len(rows)


def _as_row(line: dict[str, Any]) -> dict[str, Any]:
    as_text = {name: line[name] and orjson.dumps(line[name]).decode() for name in ("metrics", "by_quantile")}
    return line | as_text


def _schema() -> Any:
    import pyarrow as pa

    whole = ("cursor", "index", "attempts", "n_rows", "n_failed_rows", "explanation_of")
    counts = ("prompt_tokens", "completion_tokens", "calls", "retries", "cached")
    numbers = ("value", "ci_low", "ci_high", "cost_usd", "at_s")
    words = ("model", "source", "stage", "kind", "explainer", "scorer", "baseline", "state", "code", "reason")
    texts = ("explanation", "prompt_hash", "metric", "status", "metrics", "by_quantile")
    types: dict[str, Any] = {
        **dict.fromkeys((*whole, *counts), pa.int64()),
        **dict.fromkeys(numbers, pa.float64()),
        **dict.fromkeys(words, pa.dictionary(pa.int32(), pa.string())),
        **dict.fromkeys(texts, pa.string()),
        "alternatives": pa.list_(pa.string()),
    }
    return pa.schema(sorted(types.items()))
