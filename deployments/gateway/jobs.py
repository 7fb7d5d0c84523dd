"""The job board as a Gateway reaches it: by handle, and with our own errors."""

from typing import Any

from ray.exceptions import ActorDiedError, ActorUnavailableError
from ray.serve.exceptions import ReplicaUnavailableError
from ray.serve.handle import DeploymentHandle

from core.deadline import Deadline
from core.errors import Unavailable
from core.jobs import JobCounts, JobState
from core.wire.serverless import ServerlessInput
from deployments.client import asked

_QUICK_S = 10.0
_SLACK_S = 5.0


class Jobs:
    """Talks to the one `JobBoard` of the Gateways' application."""

    def __init__(self, board: DeploymentHandle[Any]) -> None:
        self._board: Any = board

    async def submit(self, wanted: ServerlessInput) -> JobState:
        """Takes a job on."""
        return await self._call(_QUICK_S, "submit", wanted)

    async def run(self, wanted: ServerlessInput, timeout_s: float) -> JobState:
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
                return await asked(getattr(self._board, method).remote(*arguments))
            except (ActorDiedError, ActorUnavailableError, ReplicaUnavailableError):
                raise Unavailable("The job board is starting anew; the jobs it had are lost.", "Try again.") from None
