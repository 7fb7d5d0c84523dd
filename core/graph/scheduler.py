"""The row scheduler: rows of several graphs in one step of one device, while graphs come and go between steps.

    submit -> admission -> [queue] -> in progress -> rows of its turn, with those of others -> step -> ... -> result
               TooLarge     DeadlineExceeded, cancelled: leave at any moment
               Overloaded

A graph is thousands of rows that do not depend on each other, so no graph needs the device for itself: a step has a
block of rows of each graph whose turn it is (`core.graph.turns`), those that decide what comes next first. A small
graph is done when its own few steps are, however large its neighbours. A graph without neighbours has as many blocks in
a step as there is room for.

Results do not depend on neighbours. Which rows make a block is settled by the graph alone (`core.graph.admission`), and
every block is an entry of its own in the step: if the engine gives an entry the same bits beside any others, as
`core.graph.replay` does on a CPU, a graph has the same bits as if it had been alone.

A step that fails as a whole is repeated graph by graph, so one poisonous graph cannot fail its neighbours. A graph that
is cancelled, late or failed is let go of at once: nothing here refers to it any more, except a step that has begun.

Deliberately not here: the computation (the step is given), the choice of features (the plans), stopping a step that has
begun, and the peers' 503 (with `max_queue=0` a refusal means busy; the caller words it).
"""

import asyncio
import itertools
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar, cast

from torch import Tensor

from core.clock import SYSTEM_CLOCK, Clock
from core.deadline import Deadline
from core.device import DeviceExecutor
from core.errors import RayscopeError, Unavailable
from core.graph.admission import Admission, SchedulerLimits
from core.graph.cost import GraphCost
from core.graph.linearised import TargetRows
from core.graph.plan import Plan, Progress
from core.graph.turns import Turns, Want
from core.throughput import Throughput

Result = TypeVar("Result")
Step = Callable[[list[tuple[Any, TargetRows]]], Sequence[Tensor]]
"""Effects on the targets of each `Linearised`, in order, as `core.graph.replay.replay_rows` gives them."""


@dataclass(slots=True, eq=False)
class _Job:
    number: int
    plan: Plan[object] | None
    cost: GraphCost
    deadline: Deadline
    report: Callable[[Progress], None] | None
    block_rows: int
    rows_left: int
    outcome: asyncio.Future[object] = field(default_factory=asyncio.Future)


@dataclass(slots=True, eq=False)
class _Part:
    job: _Job
    plan: Plan[Any]
    rows: int
    rows_done: int = 0


class RowScheduler:
    """Computes graphs for many callers on one device. Lives on one event loop.

    Args:
        step: Computes rows of several prompts at once.
        executor: The device's thread; plans and steps run there.
        limits: How much at once.
        clock: Tells how long steps take.
    """

    def __init__(
        self,
        step: Step,
        executor: DeviceExecutor,
        limits: SchedulerLimits | None = None,
        *,
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        limits = limits or SchedulerLimits()
        self._step = step
        self._executor = executor
        self._clock = clock
        self._numbers = itertools.count()
        self._jobs: dict[int, _Job] = {}
        self._admission: Admission[int] = Admission(limits)
        self._turns: Turns[int] = Turns()
        self._throughput = Throughput()
        self._arrival = asyncio.Event()
        self._worker: asyncio.Task[None] | None = None
        self._closed = False

    @property
    def running(self) -> int:
        """Graphs in progress."""
        return len(self._admission.running)

    @property
    def waiting(self) -> int:
        """Graphs that wait."""
        return len(self._admission.waiting)

    @property
    def held_bytes(self) -> int:
        """Memory promised to graphs in progress."""
        return self._admission.held_bytes

    @property
    def busy(self) -> bool:
        """Whether a graph would be refused now, however small."""
        return self._admission.busy

    def queue_time_s(self) -> float:
        """Seconds until all that was taken on is done, as measured; 0.0 before the first step."""
        return self._throughput.seconds_for(sum(job.rows_left * job.cost.row_work for job in self._jobs.values()))

    def seconds_for(self, cost: GraphCost) -> float:
        """Seconds that a graph takes when it is alone, as measured; 0.0 before the first step."""
        return self._throughput.seconds_for(cost.rows * cost.row_work)

    def check(self) -> None:
        """Do nothing while the scheduler serves.

        Raises:
            Unavailable: It is closed, its worker died, or the device is broken.
        """
        if self._closed or (self._worker is not None and self._worker.done()):
            raise Unavailable("this replica's graph scheduler has stopped", "retry; another replica may answer")
        self._executor.check()

    async def submit(
        self,
        plan: Plan[Result],
        cost: GraphCost,
        deadline: Deadline,
        report: Callable[[Progress], None] | None = None,
        block_rows: int | None = None,
    ) -> Result:
        """Have a plan driven to its end. A caller that is cancelled takes its graph with it.

        Args:
            plan: Nobody else may touch it any more.
            cost: What it takes.
            deadline: When nobody waits any more.
            report: Is told of progress on the event loop, when the graph begins and after every step of it.
            block_rows: Most rows of a block, if the caller wants fewer than the limits.

        Raises:
            TooLarge: Its memory would never fit.
            Overloaded: The queue is full.
            DeadlineExceeded: The deadline passed, whether in the queue or in progress.
            Unavailable: The scheduler is closed, or the device ran out of memory or is broken.
            Exception: Whatever its plan, its rows or its report raised.
        """
        self.check()
        number = next(self._numbers)
        admitted = self._admission.enter(number, cost, self.queue_time_s(), block_rows)
        job = self._jobs[number] = _Job(number, plan, cost, deadline, report, admitted.block_rows, cost.rows)
        del plan  # from now on the job alone holds it, and lets it go when it leaves
        self._promote()
        self._arrival.set()
        if self._worker is None:
            self._worker = asyncio.create_task(self._work(), name="row-scheduler")
        try:
            async with deadline.limit(self._clock):
                outcome = await job.outcome
        finally:
            self._leave(job)
        if isinstance(outcome, Exception):
            raise outcome
        return cast("Result", outcome)

    async def aclose(self) -> None:
        """Fail all graphs with Unavailable, wait for the step under way, and stop."""
        self._closed = True
        self._arrival.set()
        self._abandon()
        if self._worker is not None:
            await asyncio.gather(self._worker, return_exceptions=True)

    def _leave(self, job: _Job) -> None:
        self._admission.leave(job.number)
        self._jobs.pop(job.number, None)
        job.plan = None

    def _end(self, job: _Job, outcome: object) -> None:
        self._leave(job)
        if not job.outcome.done():
            job.outcome.set_result(outcome)

    def _abandon(self) -> None:
        for job in list(self._jobs.values()):
            self._end(job, Unavailable("this replica stopped before the graph was done", "retry"))

    def _expire(self) -> None:
        for job in list(self._jobs.values()):
            if job.deadline.expired(self._clock):
                self._end(job, job.deadline.exceeded())

    def _promote(self) -> None:
        for number in self._admission.promote():
            self._settle(self._jobs[number])

    async def _work(self) -> None:
        try:
            while not self._closed:
                await self._arrival.wait()
                await asyncio.sleep(0)  # submits of the same turn of the loop come along
                self._expire()
                self._promote()
                if self._jobs:
                    await self._advance(self._pack())
                else:
                    self._arrival.clear()
        finally:
            self._abandon()

    def _pack(self) -> list[_Part]:
        parts: dict[int, _Part] = {}
        wants: dict[int, Want] = {}
        for number in self._admission.running:
            job = self._jobs[number]
            if job.plan is not None:
                parts[number] = _Part(job, job.plan, min(job.block_rows, job.plan.ready))
                wants[number] = Want(parts[number].rows, job.cost.row_work, job.plan.urgent)
        room = self._admission.step_rows()
        if len(parts) == 1:
            (part,) = parts.values()
            block = part.job.block_rows
            part.rows = min(part.plan.ready, max(1, room // block) * block)
        return [parts[number] for number in self._turns.take(wants, room)]

    async def _advance(self, parts: list[_Part]) -> None:
        error: Exception | None = None
        try:
            await self._run(parts)
        except Exception as raised:
            error = raised
            _let_go(raised)
        for part in parts:
            job = part.job
            if part.rows_done == part.rows:
                job.rows_left = max(0, job.rows_left - part.rows)
                self._settle(job)
            elif error is not None and job.plan is not None:
                if len(parts) == 1:
                    self._end(job, error)
                else:
                    await self._advance([part])

    async def _run(self, parts: list[_Part]) -> None:
        started_s = self._clock.monotonic()
        try:
            await self._executor.run(self._compute, parts)
        except asyncio.CancelledError:
            worker = asyncio.current_task()
            if worker is not None and worker.cancelling():
                raise
            raise Unavailable("the step was cancelled from within") from None
        work = sum(part.rows * part.job.cost.row_work for part in parts)
        self._throughput.record(work, self._clock.monotonic() - started_s)

    def _compute(self, parts: list[_Part]) -> None:
        wanted = [(part, part.plan.linearised, targets) for part in parts for targets in _blocks(part)]
        if len(parts) > 1:
            wanted.sort(key=lambda entry: int(entry[2].layer[-1]))
        effects = self._step([(linearised, targets) for _, linearised, targets in wanted])
        for (part, _, targets), rows in zip(wanted, effects, strict=True):
            if len(rows) != len(targets):
                raise RayscopeError(f"the step gave {len(rows)} rows for {len(targets)} targets")
            part.plan.put(rows)
            part.rows_done += len(rows)

    def _settle(self, job: _Job) -> None:
        if (plan := job.plan) is None:
            return
        try:
            if job.report is not None:
                job.report(plan.progress)
            result = plan.result
            if result is None and plan.ready < 1:
                raise RayscopeError("a graph wants no more rows and has no result")
        except Exception as error:
            _let_go(error)
            self._end(job, error)
        else:
            if result is not None:
                self._end(job, result)


def _blocks(part: _Part) -> list[TargetRows]:
    """The rows of a part, block by block."""
    targets, block = part.plan.next(part.rows), part.job.block_rows
    return [targets[start : start + block] for start in range(0, part.rows, block)]


def _let_go(error: Exception) -> None:
    """Takes what was computed off an error: whoever keeps it must not keep the plans and tensors of a step.

    The frames that it passed through are emptied, and the one that caught it, which still runs, is left out.
    """
    if error.__traceback__ is not None:
        error.__traceback__ = error.__traceback__.tb_next
    link: BaseException | None = error
    while link is not None:
        traceback.clear_frames(link.__traceback__)
        link = link.__cause__ or link.__context__
