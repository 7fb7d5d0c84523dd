"""JobBoard: works on the jobs of `/run` and remembers what came of them.

Gateways come and go and share nothing, but a job must be found by whichever of them is asked for it. So one replica of
this deployment, in the Gateways' application, takes every job: they call it by handle. It holds no weights; it talks to
the models as a Gateway does. If it dies, its jobs are gone, and asking for one is a 404. Graphs that jobs made lie in
the object store, so many bytes of them at most.
"""

from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any, Final

from core.clock import SYSTEM_CLOCK
from core.deadline import Deadline
from core.exchange.serverless import as_chat, job_output
from core.exchange.steering_chat import completion_chat
from core.exchange.steering_health import steering_health
from core.job_state import JobCounts, JobState
from core.jobs import JobBook, JobLimits
from core.wire.graph_jobs import GraphServerlessInput
from core.wire.serverless import JobInput
from deployments.client import ModelClient
from deployments.gateway.directory import Directory
from deployments.graph.serverless import graph_output
from deployments.readings import add_readings

_KEPT_BYTES: Final = 2**30


class JobBoard:
    """The one replica that works on jobs."""

    async def __init__(self, timeout_s: float) -> None:
        self._directory = Directory(None)
        self._timeout_s = timeout_s
        self._jobs: JobBook[JobInput] = JobBook(self._work, JobLimits(kept_bytes=_KEPT_BYTES))

    async def submit(self, asked: JobInput) -> JobState:
        """Takes a job on."""
        return self._jobs.submit(asked)

    async def run(self, asked: JobInput, timeout_s: float) -> JobState:
        """Takes a job on and waits for its end, or as long as it is worth waiting; it goes on then.

        A caller that leaves before that never learns the job's name, so its job is stopped.
        """
        job = self._jobs.submit(asked)
        try:
            return await self._jobs.ended(job.id, timeout_s)
        except BaseException:
            await self._jobs.cancel(job.id)
            raise

    async def state(self, job_id: str) -> JobState:
        """What is known of a job."""
        return self._jobs.state(job_id)

    async def news(self, job_id: str, timeout_s: float) -> tuple[JobState, bool]:
        """What is known of a job, once there is something new; and whether its output is news."""
        return await self._jobs.news(job_id, timeout_s)

    async def cancel(self, job_id: str) -> JobState:
        """Stops a job."""
        return await self._jobs.cancel(job_id)

    async def counts(self) -> JobCounts:
        """How many jobs there are."""
        return self._jobs.counts()

    async def __del__(self) -> None:
        """Stops every job."""
        await self._jobs.aclose()
        await self._directory.aclose()

    async def _work(self, asked: JobInput) -> AsyncGenerator[Any]:
        if isinstance(asked, GraphServerlessInput):
            yield await graph_output(asked, self._directory, self._timeout_s)
            return
        client = await self._model(asked.model)
        deadline = Deadline.after(self._timeout_s)
        if asked.action == "health":
            yield await _health(client, deadline)
            return
        writing = completion_chat(as_chat(asked, client.description.names.id), client.served)
        composer = writing.composer
        async with aclosing(client.stream(writing.continuations, deadline)) as growing:
            async for growths in growing:
                composer.add(growths)
                part = composer.part()
                if part is not None:
                    yield job_output(part)
        await add_readings(client, writing, deadline)
        yield job_output(composer.last())

    async def _model(self, name: str | None) -> ModelClient:
        """The model that a job names, or the only one that can chat, as the cluster serves it now."""
        await self._directory.refresh()
        if name is None:
            chatting = [client for client in self._directory.clients() if client.served.tokenizer.hf.chat_template]
            if len(chatting) == 1:
                return chatting[0]
        return await self._directory.find(name)


async def _health(client: ModelClient, deadline: Deadline) -> Any:
    reports = [await client.report(name, deadline) for name in client.description.deployments()]
    health = steering_health(client.served, reports, SYSTEM_CLOCK.time())
    return {"action": "health", **job_output(health)}
