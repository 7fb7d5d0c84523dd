"""Jobs: the replica that keeps and works on the jobs of automatic interpretability; the application's ingress.

    Gateway -> Jobs: store + driver -> Explainer, Scorer by handle -> results, events -> store

There is one, where its file is. Started anew, on whatever grounds, it goes on with what is in the file; a unit that
was worked on when the last one died is worked on once more. So the handles here try nothing twice by themselves: what
counts attempts is the driver.
"""

import asyncio
import io
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from ray.exceptions import ActorDiedError, ActorUnavailableError
from ray.serve.exceptions import ReplicaUnavailableError
from ray.serve.handle import DeploymentHandle

from cluster.autointerp_arguments import AutointerpArgs
from cluster.autointerp_job_arguments import JobsArgs
from cluster.autointerp_rules import LOCAL_PLACE, rules_of
from core.autointerp.caching.corpus import FileTexts
from core.autointerp.jobs.control import JobChange, JobControl, JobReport
from core.autointerp.jobs.driver import Driver, DriverLimits
from core.autointerp.jobs.estimate import Estimate, Terms, estimate
from core.autointerp.jobs.records import Caches, MakeCache
from core.autointerp.jobs.results import write_parquet
from core.autointerp.jobs.schema import JobFile
from core.autointerp.jobs.snapshots import Snapshots
from core.autointerp.jobs.sources import split_source, true_source
from core.autointerp.jobs.specification import JobSpec, Stage
from core.autointerp.jobs.store import JobStore, Request
from core.autointerp.jobs.units import Event, Spent, UnitResult
from core.autointerp.providers.keys import ProviderKey
from core.autointerp.providers.ledger import Account
from core.autointerp.providers.rate import RateLimits
from core.autointerp.results import Explanation, Score
from core.autointerp.tasks import ExplainTask, ScoreTask
from core.catalogue.catalogue import find_sources
from core.deadline import Deadline
from core.errors import InvalidRequest, NotFound, Unavailable
from deployments.client import asked, retried

_LOST = (ActorDiedError, ActorUnavailableError, ReplicaUnavailableError)
_QUICK_S = 10.0


class Jobs:
    """Thin: a `JobControl` over a file, with workers by handle."""

    async def __init__(
        self,
        args: AutointerpArgs,
        explainer: DeploymentHandle[Any],
        scorer: DeploymentHandle[Any],
        bookkeeper: DeploymentHandle[Any],
    ) -> None:
        self._args = args
        self._bookkeeper: Any = bookkeeper
        self._snapshots = None if args.jobs.snapshots is None else Snapshots(args.jobs.snapshots, args.jobs.snapshot_s)
        path = args.state_folder / "jobs.sqlite"
        if self._snapshots is not None:
            await asyncio.to_thread(self._snapshots.restore, path)
        self._file = await asyncio.to_thread(JobFile, path)
        store = JobStore(self._file)
        self._caches = Caches(args.cache_folders, _maker(args.jobs))
        self._driver = Driver(
            store,
            HandleWorkers(explainer, scorer),
            self._caches.open,
            spent=self._spent,
            limits=DriverLimits(args.jobs.in_flight, args.jobs.unit_timeout_s),
        )
        self._control = JobControl(store, self._driver)
        await self._driver.start()
        if self._snapshots is not None:
            self._snapshots.start(self._file)

    async def submit(self, spec: JobSpec, request: Request, key: ProviderKey | None) -> JobReport:
        """See `JobControl.submit`."""
        return await self._control.submit(self._here(spec), request, key)

    async def estimate(self, spec: JobSpec) -> Estimate:
        """What a job will take, from its cache if that is there."""
        spec = self._here(spec)
        features = None
        with suppress(NotFound):
            features = await Caches(self._args.cache_folders, None).open(spec, lambda _: None)
        try:
            return await estimate(spec, features, partial(_n_latents, spec), partial(self._terms, spec))
        finally:
            if features is not None:
                await features.aclose()

    async def report(self, job_id: str) -> JobReport:
        """See `JobControl.report`."""
        return await self._control.report(job_id)

    async def reports(self, limit: int, before: str | None) -> list[JobReport]:
        """See `JobControl.reports`."""
        return await self._control.reports(limit, before)

    async def pause(self, job_id: str) -> JobReport:
        """See `JobControl.pause`."""
        return await self._control.pause(job_id)

    async def resume(self, job_id: str, key: ProviderKey | None) -> JobReport:
        """See `JobControl.resume`."""
        return await self._control.resume(job_id, key)

    async def cancel(self, job_id: str) -> JobReport:
        """See `JobControl.cancel`."""
        return await self._control.cancel(job_id)

    async def delete(self, job_id: str) -> None:
        """See `JobControl.delete`."""
        await self._control.delete(job_id)

    async def amend(self, job_id: str, change: JobChange) -> JobReport:
        """See `JobControl.amend`."""
        return await self._control.amend(job_id, change)

    async def events(self, job_id: str, after: int, wait_s: float) -> tuple[list[Event], bool]:
        """See `JobControl.events`."""
        return await self._control.events(job_id, after, wait_s)

    async def results(self, job_id: str, after: int, limit: int) -> list[UnitResult]:
        """Results of a job after one, in the order that they came."""
        await self._control.report(job_id)
        return await asyncio.to_thread(self._control.history.results, job_id, after, limit)

    async def parquet(self, job_id: str) -> bytes:
        """All results of a job so far, as one table."""
        await self._control.report(job_id)
        return await asyncio.to_thread(self._table, job_id)

    async def check_health(self) -> None:
        """Fails if the jobs are not worked on any more; Serve then starts another replica."""
        self._driver.check()

    async def __del__(self) -> None:
        """Gives back what was begun."""
        await self._driver.aclose()
        if self._snapshots is not None:
            await self._snapshots.aclose(self._file)
        await asyncio.to_thread(self._file.close)

    def _table(self, job_id: str) -> bytes:
        file = io.BytesIO()
        write_parquet(self._control.history.all_results(job_id), file)
        return file.getvalue()

    def _here(self, spec: JobSpec) -> JobSpec:
        """A job with what this host says about files and devices."""
        make = spec.cache.make
        if make is None:
            return spec
        if isinstance(make.texts, FileTexts):
            make = replace(make, texts=replace(make.texts, paths=self._allowed(make.texts.paths)))
        device = "cuda" if self._args.jobs.workers.num_gpus else "cpu"
        make = replace(make, set_folders=self._args.jobs.source_folders, device=device)
        return replace(spec, cache=replace(spec.cache, make=make))

    def _allowed(self, paths: Sequence[str]) -> tuple[str, ...]:
        """Files below the folders that jobs may name, by their paths there."""
        roots = [Path(folder).expanduser().resolve() for folder in self._args.jobs.corpora]
        found: list[str] = []
        for path in paths:
            places = [(root / path).resolve() for root in roots]
            inside = [place for place, root in zip(places, roots, strict=True) if place.is_relative_to(root)]
            place = next((place for place in inside if place.exists()), None)
            if place is None:
                raise InvalidRequest(
                    f"There is no text file '{path[:200]}' that jobs may read.", "Files lie below `corpora`."
                )
            found.append(str(place))
        return tuple(found)

    def _terms(self, spec: JobSpec, stage: Stage) -> Terms:
        model = spec.model_for(stage)
        assert model is not None  # only such stages are asked about
        place = (
            LOCAL_PLACE if model.provider == "local" else (model.base_url or self._args.default_base_url).rstrip("/")
        )
        known = rules_of(self._args).terms_of(place, model.model)
        return Terms(known.price, known.limits or RateLimits(in_flight=self._args.in_flight))

    async def _spent(self, account: str) -> Spent:
        async with Deadline.after(_QUICK_S).limit():
            balance = await retried(lambda: asked(self._bookkeeper.balance.remote(Account(account))))
        return Spent(balance.tokens, balance.usd)


class HandleWorkers:
    """An Explainer and a Scorer by their handles, each task tried once; see `core.autointerp.tasks.Workers`."""

    def __init__(self, explainer: DeploymentHandle[Any], scorer: DeploymentHandle[Any]) -> None:
        self._explainer: Any = explainer
        self._scorer: Any = scorer

    async def explain(self, task: ExplainTask, deadline: Deadline) -> Explanation:
        """An explanation."""
        return await self._once(self._explainer.explain, task, deadline)

    async def score(self, task: ScoreTask, deadline: Deadline) -> Score:
        """A score."""
        return await self._once(self._scorer.score, task, deadline)

    async def _once(self, method: Any, task: ExplainTask | ScoreTask, deadline: Deadline) -> Any:
        async with deadline.limit():
            try:
                return await asked(method.remote(task, deadline))
            except _LOST:
                raise Unavailable("The replica that worked on this died.", "It is tried once more.") from None


def _maker(args: JobsArgs) -> MakeCache | None:
    if args.caching == "none":
        return None
    from deployments.autointerp.caching import cache_activations_on_cluster

    return partial(cache_activations_on_cluster, workers=args.workers)


def _n_latents(spec: JobSpec, source: str) -> int:
    """Latents of a source whose cache is not there yet."""
    make, true = spec.cache.make, true_source(source)
    found = find_sources(spec.model, (split_source(true)[1],), {} if make is None else make.set_folders)
    for described in found:
        if described.id == true:
            return described.d_sae
    raise NotFound(f"There is no source '{true}'.", f"There are {', '.join(one.id for one in found)}.")
