"""delphi's side of `make bench-autointerp`, in a process of its own: its own pipeline, client, explainer and scorers.

    python -m benchmarks.autointerp_delphi ORDER

    records -> Pipe(DefaultExplainer) -> Pipe(FuzzingScorer, DetectionScorer) -> files, as `delphi.__main__` puts them

What is left out is in delphi's favour: its records are given to it ready, where its command makes them while it runs,
and it writes no log.
"""

import asyncio
import logging
import resource
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import orjson

from benchmarks.autointerp_cases import Cases
from benchmarks.autointerp_timing import AskingOrder, Found, Stopwatch, report
from core.autointerp.delphi_import import delphi_module
from core.autointerp.delphi_records import latent_record

_EXAMPLES_PER_PROMPT = 5  # `RunConfig.num_examples_per_scorer_prompt`


class _Run:
    """One pipeline with what it writes."""

    def __init__(self, order: AskingOrder, records: Sequence[Any], folder: Path) -> None:
        self._records = records
        self._folder = folder
        self.watch = Stopwatch()
        self.rows: dict[str, dict[int, Any]] = {"detection": {}, "fuzz": {}}
        self.pipeline = self._built(order)

    def _built(self, order: AskingOrder) -> Any:
        pipeline, scorers = delphi_module("pipeline"), delphi_module("scorers")
        client = delphi_module("clients").OpenRouter(
            "made-up", api_key="none", base_url=f"{order.url}/chat/completions"
        )
        explainer = delphi_module("explainers").DefaultExplainer(client, threshold=0.3, verbose=False)
        judges = {
            "fuzz": scorers.FuzzingScorer(client, n_examples_shown=_EXAMPLES_PER_PROMPT, verbose=False),
            "detection": scorers.DetectionScorer(client, n_examples_shown=_EXAMPLES_PER_PROMPT, verbose=False),
        }
        for name in ("explanations", *judges):
            (self._folder / name).mkdir()
        explaining = pipeline.process_wrapper(explainer, preprocess=self._begun, postprocess=self._explained)
        judging = [
            pipeline.process_wrapper(judge, preprocess=_with_explanation, postprocess=partial(self._judged, name))
            for name, judge in judges.items()
        ]
        return pipeline.Pipeline(self._all_records, pipeline.Pipe(explaining), pipeline.Pipe(*judging))

    def _all_records(self) -> Iterator[Any]:
        yield from self._records

    def _begun(self, record: Any) -> Any:
        self.watch.begin(record.latent.latent_index)
        return record

    def _explained(self, result: Any) -> Any:
        self._write("explanations", result.record, result.explanation)
        return result

    def _judged(self, scorer: str, result: Any) -> Any:
        self._write(scorer, result.record, result.score)
        latent = result.record.latent.latent_index
        self.rows[scorer][latent] = [(row.activating, row.prediction) for row in result.score]
        self.watch.end(latent)
        return result

    def _write(self, kind: str, record: Any, content: Any) -> None:
        name = str(record.latent).replace("/", "--")
        (self._folder / kind / f"{name}.txt").write_bytes(orjson.dumps(content))


def _with_explanation(results: Any) -> Any:
    """As the command does between its two pipes."""
    record = results[0].record
    record.explanation = results[0].explanation
    record.extra_examples = record.not_active
    return record


def balanced_accuracy(rows: Sequence[tuple[bool, bool | None]]) -> float | None:
    """Of rows of truth and prediction; None unless both kinds were judged."""
    shares = [
        [prediction == truth for truth, prediction in rows if truth == kind and prediction is not None]
        for kind in (True, False)
    ]
    return None if not all(shares) else sum(sum(share) / len(share) for share in shares) / len(shares)


async def measure(order: AskingOrder) -> Found:
    """What explaining and scoring took, and what came of it."""
    cases = Cases(order.folder)
    records = [latent_record(record) for record in cases.records(cases.latents[: order.latents])]
    with tempfile.TemporaryDirectory(prefix="delphi-") as folder:
        run = _Run(order, records, Path(folder))
        began_s, cpu_s = time.perf_counter(), _cpu_s()
        await run.pipeline.run(order.at_once)
        wall_s, cpu_s = time.perf_counter() - began_s, _cpu_s() - cpu_s
    predictions = [prediction for of in run.rows.values() for rows in of.values() for _, prediction in rows]
    return {
        "latents": len(records),
        "wall_s": wall_s,
        "cpu_s": cpu_s,
        "latent_s": run.watch.seconds,
        "rows": len(predictions),
        "failed_rows": predictions.count(None),
        "scores": {scorer: _scores(of_scorer) for scorer, of_scorer in run.rows.items()},
    }


def _scores(rows: Mapping[int, Any]) -> dict[str, float | None]:
    return {str(latent): balanced_accuracy(of_latent) for latent, of_latent in sorted(rows.items())}


def _cpu_s() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def main(words: Sequence[str]) -> None:
    """Measures what is ordered on the command line."""
    logging.getLogger("delphi").setLevel(logging.CRITICAL)
    report(asyncio.run(measure(AskingOrder.read(words))))


if __name__ == "__main__":
    main(sys.argv[1:])
