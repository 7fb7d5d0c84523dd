"""The job board as a Gateway reaches it: by handle, with our own errors, and with large outputs fetched."""

import asyncio
import dataclasses
from typing import Any

import orjson
from ray.exceptions import ActorDiedError, ActorUnavailableError, ObjectLostError
from ray.serve.exceptions import ReplicaUnavailableError
from ray.serve.handle import DeploymentHandle

from core.deadline import Deadline
from core.errors import Unavailable
from core.job_state import JobCounts, JobState, Kept
from core.wire.serverless import JobInput
from deployments.client import asked

_QUICK_S = 10.0
_SLACK_S = 5.0


class Jobs:
    """Talks to the one `JobBoard` of the Gateways' application."""

    def __init__(self, board: DeploymentHandle[Any]) -> None:
        self._board: Any = board

    async def submit(self, wanted: JobInput) -> JobState:
        """Takes a job on."""
        return await self._call(_QUICK_S, "submit", wanted)

    async def run(self, wanted: JobInput, timeout_s: float) -> JobState:
        """Takes a job on and waits for its end, or as long as it is worth waiting."""
        return await self._call(timeout_s + _SLACK_S, "run", wanted, timeout_s)

    async def state(self, job_id: str) -> JobState:
        """What is known of a job."""
        return await self._call(_QUICK_S, "state", job_id)

    async def news(self, job_id: str, timeout_s: float) -> tuple[JobState, bool]:
        """What is known of a job, once there is something new; and whether its output is news."""
        return await self._call(timeout_s + _SLACK_S, "news", job_id, timeout_s)

    async def cancel(self, job_id: str) -> JobState:
        """Stops a job."""
        return await self._call(_QUICK_S, "cancel", job_id)

    async def counts(self, timeout_s: float) -> JobCounts:
        """How many jobs there are."""
        return await self._call(timeout_s, "counts")

    async def _call(self, timeout_s: float, method: str, *arguments: Any) -> Any:
        async with Deadline.after(timeout_s).limit():
            try:
                return await _with_output(await asked(getattr(self._board, method).remote(*arguments)))
            except (ActorDiedError, ActorUnavailableError, ReplicaUnavailableError, ObjectLostError):
                raise Unavailable("The job board is starting anew; the jobs it had are lost.", "Try again.") from None


async def _with_output(answer: Any) -> Any:
    """The board's answer; a job's output that lies elsewhere is fetched if it will be shown."""
    match answer:
        case (JobState() as state, True):
            return await _with_output(state), True
        case JobState(output=Kept() as kept):
            content = await kept.reference
            return dataclasses.replace(answer, output=await asyncio.to_thread(orjson.loads, content))
        case _:
            return answer
