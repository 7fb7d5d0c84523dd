"""Control: what callers ask of jobs: begin one, look at it, follow it, pause, resume, change, stop, forget it.

Everything is written before it is answered, so whoever was told that a job was taken on or paused can rely on it. The
driver is told to look, and does the rest.
"""

import asyncio
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Final

from core.autointerp.caching.progress import CachingProgress
from core.autointerp.jobs.driver import Driver
from core.autointerp.jobs.history import History
from core.autointerp.jobs.keys import with_key
from core.autointerp.jobs.specification import JobSpec
from core.autointerp.jobs.store import JobStore, Request
from core.autointerp.jobs.units import ACTIVE, ENDED, Event, Job, JobStatus
from core.autointerp.providers.keys import ProviderKey
from core.autointerp.providers.ledger import Budget
from core.errors import Conflict

_GOES_ON: Final[tuple[JobStatus, ...]] = ("queued", "running")
_PAUSED: Final[tuple[JobStatus, ...]] = ("paused", "paused_budget", "paused_credits", "paused_key")
_OVER: Final[tuple[JobStatus, ...]] = ("failed", "succeeded")


@dataclass(frozen=True, slots=True)
class JobReport:
    """A job, and how it goes in the process that works on it.

    Attributes:
        job: As it is kept.
        in_flight: Units in progress.
        units_per_s: Units that end per second; None before the first.
        eta_s: Seconds that it still takes at that rate; None before that is known.
        caching: How far its cache is, while it is made.
    """

    job: Job
    in_flight: int = 0
    units_per_s: float | None = None
    eta_s: float | None = None
    caching: CachingProgress | None = None


@dataclass(frozen=True, slots=True)
class JobChange:
    """What is to be different about a job; None leaves a thing as it is.

    Attributes:
        usd: Dollars that it may cost in all.
        tokens: Tokens that it may take in all.
        concurrency: Units at once.
        priority: Its priority.
        deadline_s: Seconds since 1970 after which nothing is begun any more.
    """

    usd: float | None = None
    tokens: int | None = None
    concurrency: int | None = None
    priority: int | None = None
    deadline_s: float | None = None

    def applied(self, spec: JobSpec) -> JobSpec:
        """A specification with the change."""
        budget = Budget(
            spec.budget.usd if self.usd is None else self.usd,
            spec.budget.tokens if self.tokens is None else self.tokens,
        )
        return replace(
            spec,
            budget=budget,
            concurrency=spec.concurrency if self.concurrency is None else self.concurrency,
            priority=spec.priority if self.priority is None else self.priority,
            deadline_s=spec.deadline_s if self.deadline_s is None else self.deadline_s,
        )


class JobControl:
    """What can be asked of the jobs of a store.

    Args:
        store: The jobs.
        driver: Works on them.
    """

    def __init__(self, store: JobStore, driver: Driver) -> None:
        self.history = History(store.file)
        self._store = store
        self._driver = driver

    async def submit(self, spec: JobSpec, request: Request | None = None, key: ProviderKey | None = None) -> JobReport:
        """Takes a job on.

        Args:
            spec: What it is to do.
            request: How it was asked for.
            key: The caller's key, if it is to be used.

        Raises:
            Conflict: The idempotency key was used for another request.
        """
        job, _ = await self._driver.in_file(self._store.submit, spec, request)
        if key is not None and job.status not in ENDED:
            self._driver.keys.bring(job.id, key)
        self._driver.look_again()
        return self._reported(job)

    async def report(self, job_id: str) -> JobReport:
        """How a job goes.

        Raises:
            NotFound: There is none of this name.
        """
        return self._reported(await self._driver.in_file(self._store.job, job_id))

    async def reports(self, limit: int = 100, before: str | None = None) -> list[JobReport]:
        """How jobs go, newest first; those before one, if it is named."""
        return [self._reported(job) for job in await self._driver.in_file(self._store.jobs, limit, before)]

    async def pause(self, job_id: str) -> JobReport:
        """Begins no more units of a job; those in progress are finished.

        Raises:
            NotFound: There is none of this name.
            Conflict: It is not worked on.
        """
        job = await self._driver.move(job_id, "paused", _GOES_ON, "Somebody paused it.")
        return self._reported(job)

    async def resume(self, job_id: str, key: ProviderKey | None = None) -> JobReport:
        """Goes on with a job, and tries again what failed and may succeed.

        Args:
            job_id: Which.
            key: The caller's key, if one is needed that is not here; it may be another than before.

        Raises:
            NotFound: There is none of this name.
            Conflict: It goes on, was cancelled, or has nothing left to try.
        """
        job = await self._driver.in_file(self._store.job, job_id)
        if job.status not in (*_PAUSED, *_OVER):
            raise Conflict(f"The job is {job.status}.", "A job can be resumed when it is paused or has missed units.")
        if key is not None:
            self._driver.keys.bring(job_id, key)
            await self._driver.in_file(self._store.amend, job_id, lambda spec: with_key(spec, key.fingerprint))
        retried = await self._driver.in_file(self._store.retry, job_id)
        if job.planned and not retried and job.counts.ended == job.counts.total:
            raise Conflict("The job has nothing left to try.", "What failed for good would fail again.")
        if (run := self._driver.run_of(job_id)) is not None:
            run.begin_anew()
        return self._reported(await self._driver.move(job_id, "queued", (*_PAUSED, *_OVER)))

    async def cancel(self, job_id: str) -> JobReport:
        """Stops a job for good; units in progress are stopped, and what was done stays.

        Raises:
            NotFound: There is none of this name.
            Conflict: It has ended.
        """
        job = await self._driver.move(job_id, "cancelled", (*_GOES_ON, *_PAUSED), "Somebody cancelled it.")
        await self._driver.stop(job_id)
        return self._reported(job)

    async def delete(self, job_id: str) -> None:
        """Stops a job and forgets all that came of it.

        Raises:
            NotFound: There is none of this name.
        """
        with suppress(Conflict):
            await self.cancel(job_id)
        await self._driver.stop(job_id)
        await self._driver.in_file(self._store.delete, job_id)
        self._driver.look_again()

    async def amend(self, job_id: str, change: JobChange) -> JobReport:
        """Changes a job's budget, concurrency, priority or deadline.

        Raises:
            NotFound: There is none of this name.
            Conflict: It was cancelled.
        """
        job = await self._driver.in_file(self._store.amend, job_id, change.applied)
        self._driver.look_again()
        return self._reported(job)

    async def events(self, job_id: str, after: int, wait_s: float) -> tuple[list[Event], bool]:
        """Events of a job after one, and whether these are all that there will be. Waits a while for the first.

        Raises:
            NotFound: There is none of this name.
        """
        with suppress(TimeoutError):
            async with asyncio.timeout(wait_s):
                while True:
                    news = self._driver.news
                    job, events = await self._driver.in_file(self._read_events, job_id, after)
                    newest = events[-1].number if events else after
                    over = job.status in ENDED and newest >= job.last_event
                    if events or over:
                        return events, over
                    await news.wait()
        return [], False

    def _reported(self, job: Job) -> JobReport:
        run = self._driver.run_of(job.id)
        if run is None:
            return JobReport(job)
        left = job.counts.total - job.counts.ended
        eta_s = run.meter.eta_s(left) if job.planned and job.status in ACTIVE else None
        return JobReport(job, len(run.tasks), run.meter.per_s(), eta_s, run.caching)

    def _read_events(self, job_id: str, after: int) -> tuple[Job, list[Event]]:
        job = self._store.job(job_id)
        return job, self.history.events(job_id, after)
