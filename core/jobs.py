"""Jobs: work that goes on when the request that asked for it has been answered, and is asked after later.

    IN_QUEUE -> IN_PROGRESS -> COMPLETED, FAILED, or, from anywhere before, CANCELLED

A job's work is a generator of outputs, each of which contains the ones before it. So a job keeps only the newest: what
a reader of the stream has missed is in the next one, and memory does not grow with the length of a text. Between
outputs the work may say how far it has come (`Progress`). A large output lies elsewhere; the job keeps where (`Kept`).

All that happens to a job counts as a change, and changes are numbered. So any number of readers can follow a job: each
says which change it saw last. For those that can not say so the book keeps one place (`news`).

A book of jobs is bounded: so many are worked on at once, so many are remembered, with so many bytes elsewhere. Those
that have ended are forgotten after a while, the longest ended first. It lives in one process and dies with it.
"""

import asyncio
import logging
import math
import uuid
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing, suppress
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from core.clock import SYSTEM_CLOCK, Clock
from core.errors import NotFound, Overloaded, RayscopeError
from core.job_state import JobCounts, JobState, Kept, Progress, Status

Asked = TypeVar("Asked")

_LOG = logging.getLogger("ray.serve")


@dataclass(frozen=True, slots=True)
class JobLimits:
    """How much a book holds.

    Attributes:
        running: Jobs that are worked on at once.
        waiting: Jobs that wait at most; each of them holds its request.
        remembered: Jobs in all, ended ones included.
        remembered_s: Seconds that a job is remembered after its end.
        kept_bytes: Bytes of outputs that lie elsewhere. The job that ended last is remembered even if it has more.
    """

    running: int = 32
    waiting: int = 128
    remembered: int = 1000
    remembered_s: float = 1800.0
    kept_bytes: float = math.inf


@dataclass(slots=True, eq=False)
class _Job:
    id: str
    submitted_s: float
    status: Status = "IN_QUEUE"
    started_s: float | None = None
    ended_s: float | None = None
    output: Any = None
    error: str | None = None
    progress: Progress | None = None
    unread: bool = False
    changes: int = 1
    changed: asyncio.Event = field(default_factory=asyncio.Event)
    task: asyncio.Task[None] | None = None

    @property
    def kept_bytes(self) -> int:
        return self.output.n_bytes if isinstance(self.output, Kept) else 0

    def change(self) -> None:
        """Counts a change and wakes everybody who waits for it; who waits from now on waits for the next."""
        self.changes += 1
        self.changed.set()
        self.changed = asyncio.Event()


class JobBook(Generic[Asked]):
    """The jobs of one process. Lives on one event loop.

    Args:
        work: Does what is asked: yields outputs and `Progress`, or raises a `RayscopeError` that says why not. It is
            closed when its job is stopped.
        limits: How much it holds.
        clock: Tells how long things take.
    """

    def __init__(
        self,
        work: Callable[[Asked], AsyncGenerator[Any]],
        limits: JobLimits | None = None,
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        self._work = work
        self._limits = limits or JobLimits()
        self._clock = clock
        self._jobs: dict[str, _Job] = {}
        self._places = asyncio.Semaphore(self._limits.running)
        self._ended: dict[Status, int] = dict.fromkeys(("COMPLETED", "FAILED", "CANCELLED"), 0)

    def submit(self, asked: Asked) -> JobState:
        """Takes a job on.

        Raises:
            Overloaded: Too many jobs wait, or as many as may be remembered have not ended yet.
        """
        self._forget(room_for=1)
        if self.counts().in_queue >= self._limits.waiting:
            raise Overloaded(f"{self._limits.waiting} jobs are waiting already.", "Try again later.")
        if len(self._jobs) >= self._limits.remembered:
            raise Overloaded(f"{len(self._jobs)} jobs are waiting or in progress already.", "Try again later.")
        job = _Job(str(uuid.uuid4()), self._clock.monotonic())
        self._jobs[job.id] = job
        job.task = asyncio.create_task(self._run(job, asked))
        return self._state(job)

    def state(self, job_id: str) -> JobState:
        """What is known of a job.

        Raises:
            NotFound: There is no such job, or it has been forgotten.
        """
        return self._state(self._find(job_id))

    async def ended(self, job_id: str, timeout_s: float) -> JobState:
        """Waits until a job has ended, or as long as it is worth waiting.

        Raises:
            NotFound: There is no such job, or it has been forgotten.
        """
        job = self._find(job_id)
        await _until(job, lambda: job.ended_s is not None, timeout_s)
        return self._state(job)

    async def changed(self, job_id: str, seen: int, timeout_s: float) -> JobState:
        """Waits until there is something that a reader has not seen, or nothing to come, or as long as it is worth it.

        Args:
            job_id: The job.
            seen: `changes` of the newest state that the reader has; 0 if it has none.
            timeout_s: How long it is worth waiting.

        Raises:
            NotFound: There is no such job, or it has been forgotten.
        """
        job = self._find(job_id)
        await _until(job, lambda: job.changes > seen or job.ended_s is not None, timeout_s)
        return self._state(job)

    async def news(self, job_id: str, timeout_s: float) -> tuple[JobState, bool]:
        """Waits until a job has an output that nobody has asked for here, or has ended, or as long as it is worth it.

        Returns:
            What is known of the job, and whether its output is news.

        Raises:
            NotFound: There is no such job, or it has been forgotten.
        """
        job = self._find(job_id)
        await _until(job, lambda: job.unread or job.ended_s is not None, timeout_s)
        unread, job.unread = job.unread, False
        return self._state(job), unread

    async def cancel(self, job_id: str) -> JobState:
        """Stops a job; one that has ended stays as it is.

        Raises:
            NotFound: There is no such job, or it has been forgotten.
        """
        job = self._find(job_id)
        await self._stop(job)
        return self._state(job)

    async def delete(self, job_id: str) -> JobState:
        """Stops a job if it has not ended, and forgets it and what it kept.

        Raises:
            NotFound: There is no such job, or it has been forgotten.
        """
        job = self._find(job_id)
        await self._stop(job)
        self._jobs.pop(job.id, None)
        return self._state(job)

    def counts(self) -> JobCounts:
        """How many jobs there are."""
        statuses = [job.status for job in self._jobs.values()]
        return JobCounts(
            in_queue=statuses.count("IN_QUEUE"),
            in_progress=statuses.count("IN_PROGRESS"),
            completed=self._ended["COMPLETED"],
            failed=self._ended["FAILED"],
        )

    async def aclose(self) -> None:
        """Stops every job."""
        await asyncio.gather(*(self._stop(job) for job in list(self._jobs.values())))

    async def _run(self, job: _Job, asked: Asked) -> None:
        try:
            async with self._places:
                job.status, job.started_s = "IN_PROGRESS", self._clock.monotonic()
                job.change()
                async with aclosing(self._work(asked)) as outputs:
                    async for output in outputs:
                        if isinstance(output, Progress):
                            job.progress = output
                        else:
                            job.output, job.unread = output, True
                        job.change()
            self._end(job, "COMPLETED")
        except RayscopeError as error:
            job.error = error.text
            self._end(job, "FAILED")
        except Exception:
            _LOG.exception("job %s failed", job.id)
            job.error = "An error occurred while processing the request"
            self._end(job, "FAILED")
        finally:
            if job.ended_s is None:
                self._end(job, "CANCELLED")

    def _end(self, job: _Job, status: Status) -> None:
        job.status, job.ended_s = status, self._clock.monotonic()
        self._ended[status] += 1
        job.change()
        self._forget()

    async def _stop(self, job: _Job) -> None:
        if job.task is not None and not job.task.done():
            job.task.cancel()
            await asyncio.gather(job.task, return_exceptions=True)
            if job.ended_s is None:  # a task that never began to run does not see that it is cancelled
                self._end(job, "CANCELLED")

    def _find(self, job_id: str) -> _Job:
        self._forget()
        job = self._jobs.get(job_id)
        if job is None:
            raise NotFound(
                f"There is no job '{job_id[:100]}'.",
                f"Jobs are remembered for {self._limits.remembered_s:g} seconds after their end.",
            )
        return job

    def _forget(self, room_for: int = 0) -> None:
        """Drops jobs that ended long ago, then the longest ended ones until there is room."""
        now = self._clock.monotonic()
        over = sorted((job for job in self._jobs.values() if job.ended_s is not None), key=lambda job: job.ended_s or 0)
        too_many = len(self._jobs) + room_for - self._limits.remembered
        too_large = sum(job.kept_bytes for job in self._jobs.values()) - self._limits.kept_bytes
        for number, job in enumerate(over):
            old = now - (job.ended_s or 0) >= self._limits.remembered_s
            frees = too_large > 0 and job.kept_bytes > 0 and job is not over[-1]
            if old or number < too_many or frees:
                too_large -= job.kept_bytes
                del self._jobs[job.id]

    def _state(self, job: _Job) -> JobState:
        now = self._clock.monotonic()
        ended = now if job.ended_s is None else job.ended_s
        return JobState(
            id=job.id,
            status=job.status,
            output=job.output,
            error=job.error,
            delay_s=(ended if job.started_s is None else job.started_s) - job.submitted_s,
            execution_s=None if job.started_s is None else ended - job.started_s,
            progress=job.progress,
            changes=job.changes,
        )


async def _until(job: _Job, condition: Callable[[], bool], timeout_s: float) -> None:
    with suppress(TimeoutError):
        async with asyncio.timeout(timeout_s):
            while not condition():
                await job.changed.wait()
