"""Our side of `make bench-autointerp`, in a process of its own: a job in a file, worked on as a replica does.

    python -m benchmarks.autointerp_ours ORDER

    JobStore -> Driver -> Workshop -> provider          every unit leased from and settled in the file, every call in
                                                        the ledger and its reply in the cache

As on delphi's side, the examples are ready; handles between replicas are left out.
"""

import asyncio
import resource
import sys
import tempfile
import time
from collections.abc import AsyncGenerator, Callable, Collection, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.autointerp_cases import SOURCE, Cases
from benchmarks.autointerp_timing import AskingOrder, Found, Stopwatch, report
from core.autointerp.caching.progress import CachingProgress
from core.autointerp.examples import FeatureName, FeatureRecord
from core.autointerp.jobs.choices import AskedModel, CacheChoice, LatentChoice, Step
from core.autointerp.jobs.control import JobControl
from core.autointerp.jobs.driver import Driver
from core.autointerp.jobs.journal import ChargeFile
from core.autointerp.jobs.schema import JobFile
from core.autointerp.jobs.specification import JobSpec
from core.autointerp.jobs.store import JobStore
from core.autointerp.jobs.units import UnitResult
from core.autointerp.providers.cache_file import ReplyFile
from core.autointerp.providers.keys import ProviderKey
from core.autointerp.providers.ledger import MemoryLedger
from core.autointerp.providers.rate import RateGates, RateLimits
from core.autointerp.results import Explanation, Score
from core.autointerp.tasks import ExplainTask, ScoreTask, Workers
from core.autointerp.workshop import Books, OwnKey, Rules, Workshop
from core.deadline import Deadline
from core.demo import DEMO_MODEL_ID
from core.outbound_urls import UrlPolicy

_EXPLAINERS = (Step("default"),)
_SCORERS = (Step("fuzz"), Step("detection"))
_WAIT_S = 60.0


@dataclass(frozen=True, slots=True)
class _Ready:
    """Latents whose examples are known: the `Features` of the job."""

    records: dict[int, FeatureRecord]

    def n_latents(self, source: str) -> int:
        return max(self.records) + 1

    def alive(self, source: str) -> Collection[int]:
        return self.records

    async def record(self, name: FeatureName) -> FeatureRecord | str:
        return self.records[name.index]

    async def aclose(self) -> None:
        """Has nothing to let go of."""


@dataclass(frozen=True, slots=True)
class _Timed:
    """Workers whose work on each latent is timed."""

    workers: Workers
    watch: Stopwatch

    async def explain(self, task: ExplainTask, deadline: Deadline) -> Explanation:
        async with self._timing(task.record):
            return await self.workers.explain(task, deadline)

    async def score(self, task: ScoreTask, deadline: Deadline) -> Score:
        async with self._timing(task.record):
            return await self.workers.score(task, deadline)

    @asynccontextmanager
    async def _timing(self, record: FeatureRecord) -> AsyncGenerator[None]:
        assert record.name is not None
        self.watch.begin(record.name.index)
        yield
        self.watch.end(record.name.index)


async def measure(order: AskingOrder) -> Found:
    """What explaining and scoring took, and what came of it."""
    cases = Cases(order.folder)
    records = {record.name.index: record for record in cases.records(cases.latents[: order.latents]) if record.name}
    watch = Stopwatch()
    with tempfile.TemporaryDirectory(prefix="jobs-") as folder:
        file = JobFile(Path(folder) / "jobs.sqlite")
        store = JobStore(file)
        async with _workshop(order, Path(folder)) as workshop:
            driver = Driver(store, _Timed(workshop, watch), _opening(_Ready(records)))
            await driver.start()
            control = JobControl(store, driver)
            began_s, cpu_s = time.perf_counter(), _cpu_s()
            job = (await control.submit(_specification(order, sorted(records)))).job
            await _end(control, job.id)
            wall_s, cpu_s = time.perf_counter() - began_s, _cpu_s() - cpu_s
            ended = (await control.report(job.id)).job
            results = list(control.history.all_results(job.id))
            await driver.aclose()
        file.close()
    missed = [f"{result.latent} {result.stage}: {result.reason}" for result in results if result.state != "done"]
    if ended.status != "succeeded" or missed:
        raise RuntimeError(f"the job is {ended.status}: {ended.reason}; missed are {missed[:3]}")
    scored = [result for result in results if result.stage.kind == "score"]
    return {
        "latents": len(records),
        "wall_s": wall_s,
        "cpu_s": cpu_s,
        "latent_s": watch.seconds,
        "rows": sum(_content(result)["n_rows"] for result in scored),
        "failed_rows": sum(_content(result)["n_failed_rows"] for result in scored),
        "scores": {
            step.type: {
                str(result.latent.index): _content(result)["value"]
                for result in scored
                if result.stage.scorer == step.type
            }
            for step in _SCORERS
        },
    }


@asynccontextmanager
async def _workshop(order: AskingOrder, folder: Path) -> AsyncGenerator[Workshop]:
    """A workshop as replicas have it, but for its limits."""
    rules = Rules(urls=UrlPolicy(loopback=True), own_keys=(OwnKey(order.url, ProviderKey("none")),))
    replies, journal = ReplyFile(folder / "replies.sqlite"), ChargeFile(folder / "charges.sqlite")
    gates = RateGates(RateLimits(in_flight=order.at_once))
    books = Books(gates=gates, ledger=MemoryLedger(journal), replies=replies)
    workshop = Workshop(rules, books)
    await workshop.prepare()
    try:
        yield workshop
    finally:
        await workshop.aclose()
        replies.close()
        journal.close()


def _specification(order: AskingOrder, latents: Sequence[int]) -> JobSpec:
    return JobSpec(
        model=DEMO_MODEL_ID,
        sources=(SOURCE,),
        cache=CacheChoice("ready"),
        asked=AskedModel("made-up", base_url=order.url, key="configured"),
        explainers=_EXPLAINERS,
        scorers=_SCORERS,
        latents=LatentChoice("list", indices=tuple(latents)),
        concurrency=order.at_once,
    )


def _opening(features: _Ready) -> Any:
    async def open_features(_: JobSpec, __: Callable[[CachingProgress], None]) -> _Ready:
        return features

    return open_features


async def _end(control: JobControl, job_id: str) -> None:
    """Follows a job to its end."""
    over, seen = False, 0
    while not over:
        events, over = await control.events(job_id, seen, _WAIT_S)
        seen = events[-1].number if events else seen
        if not events and not over and (await control.report(job_id)).job.status.startswith("paused"):
            return


def _content(result: UnitResult) -> dict[str, Any]:
    assert result.result is not None, result.reason
    return result.result


def _cpu_s() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def main(words: Sequence[str]) -> None:
    """Measures what is ordered on the command line."""
    report(asyncio.run(measure(AskingOrder.read(words))))


if __name__ == "__main__":
    main(sys.argv[1:])
