"""JobsClient: the supported way to run jobs of automatic interpretability from Python, by Serve handles.

    jobs = JobsClient("autointerp")                     # the application's name
    report = await jobs.submit(JobSpec(...))
    async for event in jobs.follow(report.job.id): ...

The Gateway uses it too. What only looks is asked again if the replica died; what changes something is not, since it
may have been done.
"""

from collections.abc import AsyncGenerator
from typing import Any, Final

from ray import serve
from ray.exceptions import ActorDiedError, ActorUnavailableError
from ray.serve.exceptions import ReplicaUnavailableError

from core.autointerp.jobs.control import JobChange, JobReport
from core.autointerp.jobs.estimate import Estimate
from core.autointerp.jobs.specification import JobSpec
from core.autointerp.jobs.store import Request
from core.autointerp.jobs.units import Event, UnitResult
from core.autointerp.providers.keys import ProviderKey
from core.deadline import Deadline
from core.errors import RayscopeError, Unavailable
from deployments.client import asked, retried

_LOST: Final = (ActorDiedError, ActorUnavailableError, ReplicaUnavailableError)
_QUICK_S: Final = 30.0
_SLOW_S: Final = 300.0
_POLL_S: Final = 10.0
_PAGE: Final = 500


class JobsClient:
    """Talks to the jobs of one application. Cheap to make."""

    def __init__(self, app_name: str) -> None:
        self._jobs: Any = serve.get_deployment_handle("Jobs", app_name)

    async def submit(self, spec: JobSpec, request: Request | None = None, key: ProviderKey | None = None) -> JobReport:
        """See `core.autointerp.jobs.control.JobControl.submit`."""
        return await self._change("submit", spec, request or Request(), key)

    async def estimate(self, spec: JobSpec) -> Estimate:
        """See `core.autointerp.jobs.estimate.estimate`."""
        return await self._look(_SLOW_S, "estimate", spec)

    async def report(self, job_id: str) -> JobReport:
        """How a job goes."""
        return await self._look(_QUICK_S, "report", job_id)

    async def reports(self, limit: int = 100, before: str | None = None) -> list[JobReport]:
        """How jobs go, newest first."""
        return await self._look(_QUICK_S, "reports", limit, before)

    async def pause(self, job_id: str) -> JobReport:
        """Begins no more units of a job."""
        return await self._change("pause", job_id)

    async def resume(self, job_id: str, key: ProviderKey | None = None) -> JobReport:
        """Goes on with a job."""
        return await self._change("resume", job_id, key)

    async def cancel(self, job_id: str) -> JobReport:
        """Stops a job for good."""
        return await self._change("cancel", job_id)

    async def delete(self, job_id: str) -> None:
        """Stops a job and forgets it."""
        await self._change("delete", job_id)

    async def amend(self, job_id: str, change: JobChange) -> JobReport:
        """Changes a job."""
        return await self._change("amend", job_id, change)

    async def follow(self, job_id: str, after: int = 0) -> AsyncGenerator[Event]:
        """Events of a job after one, until it has ended; also over the death of the replica that works on it."""
        over = False
        while not over:
            events, over = await self._look(_POLL_S + _QUICK_S, "events", job_id, after, _POLL_S)
            for event in events:
                yield event
                after = event.number

    async def results(self, job_id: str, after: int = 0, limit: int | None = None) -> AsyncGenerator[UnitResult]:
        """Results of a job after one, in the order that they came, those that there are by now."""
        left = limit
        while left is None or left > 0:
            wanted = _PAGE if left is None else min(left, _PAGE)
            page: list[UnitResult] = await self._look(_QUICK_S, "results", job_id, after, wanted)
            for result in page:
                yield result
                after = result.number
            if len(page) < wanted:
                return
            left = None if left is None else left - len(page)

    async def parquet(self, job_id: str) -> bytes:
        """All results of a job so far, as one table."""
        return await self._look(_SLOW_S, "parquet", job_id)

    async def _look(self, timeout_s: float, method: str, *arguments: Any) -> Any:
        async with Deadline.after(timeout_s).limit():
            return await retried(lambda: asked(getattr(self._jobs, method).remote(*arguments)))

    async def _change(self, method: str, *arguments: Any) -> Any:
        async with Deadline.after(_QUICK_S).limit():
            try:
                return await asked(getattr(self._jobs, method).remote(*arguments))
            except _LOST:
                raise _starting_anew() from None


def _starting_anew() -> RayscopeError:
    return Unavailable(
        "The replica that works on jobs is starting anew; whether this was done is not known.",
        "Look at the job, or send it again with the same Idempotency-Key.",
    )
