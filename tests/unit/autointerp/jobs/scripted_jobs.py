"""Jobs over imagined latents: specifications, records and workers that say what a test wants."""

import asyncio
import functools
from collections import Counter
from collections.abc import Callable, Collection, Coroutine
from dataclasses import replace
from pathlib import Path
from typing import Any, Self

from core.autointerp.examples import FeatureName, FeatureRecord
from core.autointerp.jobs.choices import AskedModel, CacheChoice, LatentChoice, Step
from core.autointerp.jobs.control import JobControl
from core.autointerp.jobs.driver import Driver, OpenFeatures
from core.autointerp.jobs.schema import JobFile
from core.autointerp.jobs.specification import JobSpec
from core.autointerp.jobs.store import JobStore
from core.autointerp.jobs.units import ENDED, Job, UnitResult
from core.autointerp.language_model import Usage
from core.autointerp.results import Explanation, Score
from core.autointerp.tasks import ExplainTask, ScoreTask, Workers
from core.deadline import Deadline
from tests.unit.autointerp.scripted import cats_and_stones

MODEL = "demo"
SOURCE = "3-res"
USAGE = Usage(10, 2, 0.001, 1)


def in_a_loop(test: Callable[..., Coroutine[Any, Any, None]]) -> Callable[..., None]:
    """Runs an asynchronous test, for a minute at most."""

    @functools.wraps(test)
    def run(*args: Any, **kwargs: Any) -> None:
        asyncio.run(asyncio.wait_for(test(*args, **kwargs), 60))

    return run


def job_spec(n_latents: int = 3, **changes: Any) -> JobSpec:
    """Explain and detect the first latents, and find intruders among their examples."""
    wishes = {
        "model": MODEL,
        "sources": (SOURCE,),
        "cache": CacheChoice("a-cache"),
        "asked": AskedModel("judge", key="configured"),
        "explainers": (Step("default"),),
        "scorers": (Step("detection"), Step("intruder")),
        "latents": LatentChoice("range", 0, n_latents, alive_only=False),
    }
    return JobSpec(**(wishes | changes))


class ScriptedFeatures:
    """Features of a cache that nobody made; those in `silent` never fire."""

    def __init__(self, n_latents: int = 1000, silent: Collection[int] = ()) -> None:
        self._n_latents = n_latents
        self._silent = set(silent)
        self.read: list[FeatureName] = []

    def n_latents(self, source: str) -> int:
        return self._n_latents

    def alive(self, source: str) -> Collection[int]:
        return set(range(self._n_latents)) - self._silent

    async def record(self, name: FeatureName) -> FeatureRecord | str:
        self.read.append(name)
        if name.index in self._silent:
            return f"{name} never fires."
        return replace(cats_and_stones(), name=name)

    async def aclose(self) -> None:
        pass


class ScriptedWorkers:
    """Workers that remember what they were asked; `wait` holds them, `fail` says what goes wrong with which task."""

    def __init__(self, fail: Callable[[ExplainTask | ScoreTask], BaseException | None] = lambda _: None) -> None:
        self.fail = fail
        self.asked: Counter[str] = Counter()
        self.order: list[str] = []
        self.payers: list[Any] = []
        self.choices: list[Any] = []
        self.explanations: dict[str, str] = {}
        self.in_flight = 0
        self.peak = 0
        self.open = asyncio.Event()
        self.open.set()
        self._changed = asyncio.Event()

    async def until(self, condition: Callable[[], bool]) -> None:
        """Waits until what was asked fulfils a condition."""
        while not condition():
            self._changed.clear()
            await asyncio.wait_for(self._changed.wait(), 20)

    async def explain(self, task: ExplainTask, deadline: Deadline) -> Explanation:
        assert task.record.name is not None
        await self._turn(f"explain {task.record.name.source}/{task.record.name.index}", task)
        return Explanation(f"cats, kind {task.record.name.index}", "ok", "hash", USAGE)

    async def score(self, task: ScoreTask, deadline: Deadline) -> Score:
        assert task.record.name is not None
        self.explanations[f"{task.type} {task.record.name.index}"] = task.explanation
        await self._turn(f"{task.type} {task.record.name.source}/{task.record.name.index}", task)
        return Score(0.75, "balanced_accuracy", "ok", (), USAGE)

    async def _turn(self, what: str, task: ExplainTask | ScoreTask) -> None:
        self.asked[what] += 1
        self.order.append(what)
        self.payers.append(task.payer)
        self.choices.append(task.choice)
        self.in_flight += 1
        self.peak = max(self.peak, self.in_flight)
        self._changed.set()
        try:
            await self.open.wait()
            await asyncio.sleep(0)
            failure = self.fail(task)
        finally:
            self.in_flight -= 1
            self._changed.set()
        if failure is not None:
            raise failure


class Desk:
    """A driver over a file, with what it needs, and what can be asked of it."""

    def __init__(
        self,
        path: Path,
        workers: Workers,
        features: ScriptedFeatures | None = None,
        *,
        open_features: OpenFeatures | None = None,
        **options: Any,
    ) -> None:
        self.file = JobFile(path)
        self.store = JobStore(self.file)
        self.features = features or ScriptedFeatures()
        self.driver = Driver(self.store, workers, open_features or self._open, **options)
        self.control = JobControl(self.store, self.driver)

    async def __aenter__(self) -> Self:
        await self.driver.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.driver.aclose()
        self.file.close()

    async def _open(self, spec: JobSpec, report: object) -> ScriptedFeatures:
        return self.features

    async def until(self, job_id: str, *statuses: str) -> Job:
        """Waits until a job stands so."""
        after = 0
        while True:
            job = (await self.control.report(job_id)).job
            if job.status in statuses:
                return job
            assert job.status not in ENDED, (job.status, job.reason)
            events, _ = await asyncio.wait_for(self.control.events(job_id, after, 20), 25)
            assert events, f"nothing happened to a job that is {job.status}"
            after = events[-1].number

    def results(self, job_id: str) -> dict[tuple[int, str], UnitResult]:
        """Its results by latent and stage; each comes once."""
        results = list(self.control.history.all_results(job_id))
        found = {(result.latent.index, str(result.stage)): result for result in results}
        assert len(found) == len(results)
        return found
