"""Driver: works on the jobs of a store with whatever workers there are, many units at once.

    store --lease--> units -> workers -> outcomes --settle--> store          what ends in a moment is written together
      ^                                      |
      +--- paused_budget, paused_credits <---+

Jobs with a higher priority get free places first, others take turns. A driver that is started anew goes on with what
is in the file; a unit that was worked on when the last one died is worked on once more, never more often.

Keys that callers brought are held in memory only: after a restart a job that needs one is `paused_key` until it is
resumed with the key.

Deliberately not here: how a unit is done (`work`), what is kept (`store`, `history`), and what callers ask of jobs
(`control`).
"""

import asyncio
import logging
import sqlite3
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import asdict, dataclass
from typing import Any, Final, TypeVar

from core.autointerp.caching.progress import CachingProgress
from core.autointerp.jobs.history import History
from core.autointerp.jobs.keys import KeyRing
from core.autointerp.jobs.run import Meter, Run
from core.autointerp.jobs.specification import JobSpec
from core.autointerp.jobs.store import JobStore
from core.autointerp.jobs.units import ACTIVE, ENDED, EventKind, GivenBack, Job, JobStatus, Outcome, Spent, Unit
from core.autointerp.jobs.work import Features, Halt, Work
from core.autointerp.tasks import Workers
from core.clock import SYSTEM_CLOCK, Clock
from core.deadline import Deadline
from core.errors import Conflict, InvalidRequest, NotFound, RayscopeError, Unavailable

_LOG = logging.getLogger("ray.serve")
_GOES_ON: Final[tuple[JobStatus, ...]] = ("queued", "running")
_Result = TypeVar("_Result")

OpenFeatures = Callable[[JobSpec, Callable[[CachingProgress], None]], Awaitable[Features]]
"""Opens the latents of a job, and makes their cache if it is not there; what it raises fails the job."""


@dataclass(frozen=True, slots=True)
class DriverLimits:
    """How much is done at once.

    Attributes:
        in_flight: Units of all jobs.
        unit_s: Seconds for a unit, retries of its calls included.
        progress_s: Progress is told of at most once in so many seconds.
    """

    in_flight: int = 512
    unit_s: float = 900.0
    progress_s: float = 1.0


class Driver:
    """Works on the jobs of a store, on one event loop; to be started with `start` and closed with `aclose`.

    Args:
        store: The jobs.
        workers: Do tasks.
        open_features: Opens the latents of a job.
        spent: What the ledger says that an account was charged with; None: nobody says.
        limits: How much is done at once.
        clock: Reads the time.
    """

    def __init__(
        self,
        store: JobStore,
        workers: Workers,
        open_features: OpenFeatures,
        *,
        spent: Callable[[str], Awaitable[Spent]] | None = None,
        limits: DriverLimits | None = None,
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        self.history = History(store.file)
        self._store = store
        self._workers = workers
        self._open_features = open_features
        self._spent = spent
        self._limits = limits or DriverLimits()
        self._clock = clock
        self._runs: dict[str, Run] = {}
        self.keys = KeyRing()
        self._ended: list[tuple[Run, Outcome, Halt | None]] = []
        self._served = 0
        self._stale = True
        self._wake = asyncio.Event()
        self._dirty = asyncio.Event()
        self._news = asyncio.Event()
        self._thread = ThreadPoolExecutor(1, "jobs")
        self._loops: list[asyncio.Task[None]] = []

    async def start(self) -> None:
        """Takes the jobs over from whoever worked on them, and goes on with them."""
        await self.in_file(self._store.claim)
        self._loops = [asyncio.create_task(self._give_out()), asyncio.create_task(self._take_in())]

    def check(self) -> None:
        """Does nothing while it works.

        Raises:
            Unavailable: It has stopped, as another process took over or the file can not be written.
        """
        for loop in self._loops:
            if loop.done():
                raise Unavailable("The jobs are not worked on any more here.") from (
                    None if loop.cancelled() else loop.exception()
                )

    async def aclose(self) -> None:
        """Stops working. Units in progress are given back, as ones that were tried."""
        for loop in self._loops:
            loop.cancel()
        await asyncio.gather(*self._loops, return_exceptions=True)
        runs, self._runs = list(self._runs.values()), {}
        for run in runs:
            await run.aclose()
        with suppress(RayscopeError, sqlite3.Error):
            await self.in_file(self._store.settle, [outcome for _, outcome, _ in self._ended])
        self._thread.shutdown()

    # What is given out.

    async def _give_out(self) -> None:
        while True:
            self._wake.clear()
            if self._stale:
                self._stale = False
                await self._look()
            for run in sorted(self._runs.values(), key=lambda run: (-run.job.spec.priority, run.served)):
                with suppress(Conflict, NotFound):  # somebody paused, cancelled or deleted it meanwhile
                    await self._serve(run)
            await self._rest()

    async def _rest(self) -> None:
        """Waits for news, or for the next moment at which there is something to do."""
        now_s, wall_s = self._clock.monotonic(), self._clock.time()
        active = [run for run in self._runs.values() if run.job.status in ACTIVE]
        moments = [run.held_until_s - now_s for run in active if run.held_until_s > now_s]
        moments += [run.job.spec.deadline_s - wall_s for run in active if run.job.spec.deadline_s is not None]
        with suppress(TimeoutError):
            async with asyncio.timeout(max(0.0, min(moments)) if moments else None):
                await self._wake.wait()

    async def _look(self) -> None:
        """Reads which jobs there are to work on."""
        jobs = {job.id: job for job in await self.in_file(self._store.active)}
        for job in jobs.values():
            if job.id not in self._runs:
                self._runs[job.id] = Run(job, Meter(self._clock))
            self._runs[job.id].job = job
            if (work := self._runs[job.id].work) is not None:
                work.spec = job.spec
        for job_id, run in list(self._runs.items()):
            if job_id not in jobs and not run.tasks:  # others finish what they have begun
                await self.stop(job_id)

    async def _serve(self, run: Run) -> None:
        """Gives a job as many units as it may have now."""
        job = run.job
        if job.status not in ACTIVE:
            return
        if job.spec.deadline_s is not None and self._clock.time() >= job.spec.deadline_s:
            await self.move(job.id, "failed", _GOES_ON, "Its deadline has passed.")
            await self.stop(job.id)
            return
        if not self.keys.has_all(job.spec):
            await self.move(job.id, "paused_key", _GOES_ON, "The caller's key is not here any more: resume with it.")
            return
        if job.status == "queued":
            run.job = job = await self.move(job.id, "running", ("queued",))
        if run.work is None:
            if run.preparing is None:
                run.preparing = asyncio.create_task(self._prepare(run))
            return
        room = min(
            self._limits.in_flight - sum(len(other.tasks) for other in self._runs.values()),
            run.room(),
        )
        if room <= 0 or run.held_until_s > self._clock.monotonic():
            return
        units = await self.in_file(self._store.lease, job.id, room, self._limits.unit_s + 60.0)
        if self._runs.get(job.id) is not run:  # it was stopped meanwhile
            await self.in_file(self._store.settle, [GivenBack(unit) for unit in units])
            return
        if units:
            run.alone = None if run.tasks or len(units) > 1 else units[0].number
            self._served += 1
            run.served = self._served
        for unit in units:
            run.tasks[unit.number] = asyncio.create_task(self._work(run, run.work, unit))

    async def _prepare(self, run: Run) -> None:
        """Makes the cache of a job if it is not there, and its units."""
        job = run.job
        loop = asyncio.get_running_loop()

        def report(progress: CachingProgress) -> None:
            loop.call_soon_threadsafe(self._cached, run, progress)

        try:
            features = await self._open_features(job.spec, report)
            if not job.planned:
                latents = await asyncio.to_thread(_chosen, job.spec, features)
                run.job = await self.in_file(self._store.plan, job.id, latents)
            run.work = Work(job.id, run.job.spec, features, self._workers, self.history, self.keys)
        except RayscopeError as error:
            await self._can_not_begin(job, error.text)
        except Exception as error:
            _LOG.exception("job %s could not be begun", job.id)
            await self._can_not_begin(job, f"It could not be begun: {type(error).__name__}.")
        finally:
            run.preparing = run.caching = None
            self.look_again()

    async def _can_not_begin(self, job: Job, reason: str) -> None:
        with suppress(Conflict, NotFound):
            await self.move(job.id, "failed", _GOES_ON, reason)

    def _cached(self, run: Run, progress: CachingProgress) -> None:
        run.caching = progress
        self._dirty.set()

    async def _work(self, run: Run, work: Work, unit: Unit) -> None:
        until_s = self._clock.time() + self._limits.unit_s
        deadline = Deadline(min(until_s, run.job.spec.deadline_s or until_s))
        outcome: Outcome = GivenBack(unit, counted=True)
        halt: Halt | None = None
        try:
            outcome, halt = await work.do(unit, deadline)
        finally:
            self._ended.append((run, outcome, halt))
            self._dirty.set()

    # What is taken in.

    async def _take_in(self) -> None:
        while True:
            await self._dirty.wait()
            self._dirty.clear()
            ended, self._ended = self._ended, []
            runs = {run.job.id: run for run, _, _ in ended}
            runs |= {run.job.id: run for run in self._runs.values() if run.caching is not None}
            due = [run for run in runs.values() if self._clock.monotonic() - run.told_s >= self._limits.progress_s]
            numbers = {outcome.unit.number for _, outcome, _ in ended}
            # Whoever sees that a job has ended sees what it cost.
            await self._charge([run for run in runs.values() if run in due or run.tasks.keys() <= numbers])
            counted = await self.in_file(self._store.settle, [outcome for _, outcome, _ in ended])
            for run, outcome, halt in ended:
                run.tasks.pop(outcome.unit.number, None)
                if not isinstance(outcome, GivenBack) and outcome in counted:
                    run.count(outcome)
                if halt is not None:
                    await self._halt(run, outcome.unit, halt)
            for run in runs.values():
                await self._after(run, tell=run in due)
            self.ring()
            self._wake.set()

    async def _after(self, run: Run, *, tell: bool) -> None:
        """Looks at a job some of whose units have ended."""
        try:
            job = await self.in_file(self._store.job, run.job.id)
        except NotFound:
            return  # it was deleted
        run.job = job
        if job.status not in ACTIVE:
            self._stale = True
            if job.status in ENDED:
                self.keys.forget(job.id)
        elif run.pointless() and run.alike is not None:
            code, times = run.alike
            with suppress(Conflict):
                said = f"Its first {times} units failed alike ({code})."
                await self.move(job.id, "paused", _GOES_ON, said, "warning")
        elif tell:
            run.told_s = self._clock.monotonic()
            await self.in_file(
                self._store.tell,
                job.id,
                "progress",
                {"status": job.status, **asdict(job.counts), **run.progress(job)},
            )

    async def _halt(self, run: Run, unit: Unit, halt: Halt) -> None:
        if halt.status is None:
            run.held_until_s = max(run.held_until_s, self._clock.monotonic() + halt.hold_s)
            return
        if halt.status == "paused_budget" and run.alone != unit.number:  # what others set aside mostly comes back
            run.most = max(1, len(run.tasks) // 2)
            return
        with suppress(Conflict, NotFound):
            await self.move(run.job.id, halt.status, ("running",), halt.reason, "budget")

    async def _charge(self, runs: list[Run]) -> None:
        """Keeps what the ledger says that jobs cost."""
        if self._spent is None:
            return
        for run in runs:
            try:
                spent = await self._spent(run.job.account)
            except RayscopeError as error:
                _LOG.warning("job %s: what it cost is not known: %s", run.job.id, error)
            else:
                await self.in_file(self._store.charge, run.job.id, spent)

    async def move(
        self,
        job_id: str,
        status: JobStatus,
        among: tuple[JobStatus, ...],
        reason: str | None = None,
        kind: EventKind | None = None,
    ) -> Job:
        """Changes how a job stands; see `JobStore.move`."""
        kind = kind or ("done" if status in ENDED else "progress")
        job = await self.in_file(self._store.move, job_id, status, among, kind, reason)
        if (run := self._runs.get(job_id)) is not None:
            run.job = job
        if status in ENDED:
            self.keys.forget(job_id)
        self.look_again()
        self.ring()
        return job

    async def stop(self, job_id: str) -> None:
        """Stops what is done for a job."""
        run = self._runs.pop(job_id, None)
        if run is not None:
            await run.aclose()

    def run_of(self, job_id: str) -> Run | None:
        """A job as it is worked on, if it is."""
        return self._runs.get(job_id)

    def look_again(self) -> None:
        """Looks at which jobs there are, since somebody changed one."""
        self._stale = True
        self._wake.set()

    @property
    def news(self) -> asyncio.Event:
        """Is set when something happens to a job; the next news is another."""
        return self._news

    def ring(self) -> None:
        """Wakes everybody who waits for news."""
        self._news.set()
        self._news = asyncio.Event()

    async def in_file(self, act: Callable[..., _Result], *arguments: Any) -> _Result:
        """Does something with the file in its thread, after what was asked for before."""
        return await asyncio.get_running_loop().run_in_executor(self._thread, act, *arguments)


def _chosen(spec: JobSpec, features: Features) -> dict[str, list[int]]:
    latents = {
        source: spec.latents.of(source, features.n_latents(source), features.alive(source))
        for source in spec.all_sources()
    }
    if not any(latents[source] for source in spec.sources):
        raise InvalidRequest("No latent is left to explain.", "Choose others, or cache more tokens.")
    return latents
