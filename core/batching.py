"""The batcher: what waits while the device is busy becomes the next step.

    submit -> admission -> [queue] -> front of the queue, up to the token budget -> step -> each caller
               TooLarge     DeadlineExceeded, cancelled: leave here, never reach the device
               Overloaded

It is gated by the device, not by a clock. An idle device starts a lone request at once; a busy one lets
requests gather, so batches grow exactly when there is something to gain. A batcher that closes batches by
wall clock fills the wait for the device with many tiny ones instead.

The queue is first come, first served and is never reordered: an entry that does not fit the current batch
stays at the front and opens the next one, so nothing starves. A step that fails as a whole is repeated entry
by entry, so one poisonous request cannot fail its neighbours.

Deliberately not here: the device (the step goes through `core.device`), stopping a step that has begun, and
choosing entries that go well together.
"""

import asyncio
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Final, Generic, TypeVar

from core.clock import SYSTEM_CLOCK, Clock
from core.deadline import Deadline
from core.errors import DeadlineExceeded, Overloaded, RayscopeError, TooLarge, Unavailable
from core.metrics import (
    BATCH_COST,
    BATCH_ENTRIES,
    BATCH_OUTCOMES,
    BATCH_QUEUED_ENTRIES,
    BATCH_QUEUED_TOKENS,
    BATCH_RETRIES,
    BATCH_STEP,
    BATCH_WAIT,
    NULL_METRICS,
    MetricSink,
)
from core.throughput import Throughput

Item = TypeVar("Item")
Result = TypeVar("Result")

RETRY_FLOOR_S: Final = 1.0


def padded_cost(tokens: Sequence[int]) -> int:
    """Tokens that the device computes for rows of these lengths, padded on the right to the longest."""
    return len(tokens) * max(tokens, default=0)


@dataclass(frozen=True, slots=True)
class BatchLimits:
    """How much goes into one step and how much may wait.

    Attributes:
        budget_tokens: Most that one step may cost, padding included. max_entries: Most entries in one step.
        max_queued_tokens: Most tokens that wait, padding not included; beyond it new entries are refused.
        max_entry_tokens: Longest entry accepted at all; one longer than the budget runs alone. None means the
        budget.
    """

    budget_tokens: int
    max_entries: int
    max_queued_tokens: int
    max_entry_tokens: int | None = None

    def __post_init__(self) -> None:
        if min(self.budget_tokens, self.max_entries) < 1:
            raise ValueError("a step needs room for at least one token and one entry")
        if self.max_queued_tokens < self.longest_entry_tokens:
            raise ValueError(
                f"max_queued_tokens ({self.max_queued_tokens}) must hold the longest entry "
                f"({self.longest_entry_tokens})"
            )

    @property
    def longest_entry_tokens(self) -> int:
        """The longest entry accepted."""
        return self.budget_tokens if self.max_entry_tokens is None else self.max_entry_tokens


@dataclass(slots=True, eq=False)
class _Entry(Generic[Item, Result]):
    item: Item
    tokens: int
    deadline: Deadline
    arrived_s: float
    outcome: asyncio.Future[Result | Exception]


class Batcher(Generic[Item, Result]):
    """Gathers items from many callers into steps for one device. Lives on one event loop.

    `step` takes the items of a batch and returns one result or exception for each, in order. Results must not
    be exceptions themselves.
    """

    def __init__(
        self,
        step: Callable[[list[Item]], Awaitable[Sequence[Result | Exception]]],
        tokens_of: Callable[[Item], int],
        limits: BatchLimits,
        *,
        cost: Callable[[Sequence[int]], int] = padded_cost,
        clock: Clock = SYSTEM_CLOCK,
        metrics: MetricSink = NULL_METRICS,
    ) -> None:
        self._step = step
        self._tokens_of = tokens_of
        self._limits = limits
        self._cost = cost
        self._clock = clock
        self._metrics = metrics
        self._queue: OrderedDict[_Entry[Item, Result], None] = OrderedDict()
        self._queued_tokens = 0
        self._serving: list[_Entry[Item, Result]] = []
        self._step_started_s = 0.0
        self._throughput = Throughput()
        self._arrival = asyncio.Event()
        self._worker: asyncio.Task[None] | None = None
        self._closed = False

    @property
    def queued_tokens(self) -> int:
        """Tokens that wait for the device, padding not included."""
        return self._queued_tokens

    def queue_time_s(self) -> float:
        """Seconds that an entry arriving now would wait, as measured; 0.0 before the first step."""
        serving = sum(entry.tokens for entry in self._serving if not entry.outcome.done())
        worked_s = self._clock.monotonic() - self._step_started_s
        rest_s = max(0.0, self._throughput.seconds_for(serving) - worked_s)
        return rest_s + self._throughput.seconds_for(self._queued_tokens)

    def check(self) -> None:
        """Do nothing while the batcher serves.

        Raises:
            Unavailable: It is closed, or its worker died.
        """
        if self._closed or (self._worker is not None and self._worker.done()):
            raise Unavailable("this replica's batcher has stopped", "retry; another replica may answer")

    async def submit(self, item: Item, deadline: Deadline) -> Result:
        """Have one item computed. A caller that is cancelled takes its item out of the queue.

        Raises:
            TooLarge: The item is longer than any step may be.
            Overloaded: The queue is full.
            DeadlineExceeded: The deadline passed, whether in the queue or on the device.
            Unavailable: The batcher is closed.
            Exception: Whatever the step gave for this item.
        """
        try:
            entry = self._admit(item, deadline)
        except RayscopeError:
            self._metrics.count(BATCH_OUTCOMES, outcome="refused")
            raise
        try:
            async with deadline.limit(self._clock):
                outcome = await entry.outcome
        except DeadlineExceeded as error:
            outcome = error
        except asyncio.CancelledError:
            self._metrics.count(BATCH_OUTCOMES, outcome="cancelled")
            raise
        finally:
            self._leave(entry)
        if isinstance(outcome, Exception):
            expired = isinstance(outcome, DeadlineExceeded)
            self._metrics.count(BATCH_OUTCOMES, outcome="expired" if expired else "failed")
            raise outcome
        self._metrics.count(BATCH_OUTCOMES, outcome="served")
        return outcome

    async def aclose(self) -> None:
        """Fail what waits with Unavailable, let the step under way answer its callers, and stop.

        Cancelling this call stops the worker at once.
        """
        self._closed = True
        self._arrival.set()
        self._abandon(list(self._queue))
        if self._worker is not None:
            await asyncio.gather(self._worker, return_exceptions=True)

    def _admit(self, item: Item, deadline: Deadline) -> _Entry[Item, Result]:
        self.check()
        tokens = max(1, self._tokens_of(item))
        longest = self._limits.longest_entry_tokens
        if tokens > longest:
            raise TooLarge(f"the request has {tokens} tokens; one request may have {longest}", "send a shorter prompt")
        if self._queued_tokens + tokens > self._limits.max_queued_tokens:
            raise Overloaded(
                f"{self._queued_tokens} tokens are waiting and {self._limits.max_queued_tokens} may wait",
                "retry after the given time",
                max(RETRY_FLOOR_S, self.queue_time_s()),
            )
        outcome: asyncio.Future[Result | Exception] = asyncio.get_running_loop().create_future()
        entry = _Entry(item, tokens, deadline, self._clock.monotonic(), outcome)
        self._queue[entry] = None
        self._count_queued(tokens)
        self._arrival.set()
        if self._worker is None:
            self._worker = asyncio.create_task(self._work(), name="batcher")
        return entry

    def _leave(self, entry: _Entry[Item, Result]) -> None:
        if entry in self._queue:
            del self._queue[entry]
            self._count_queued(-entry.tokens)

    def _count_queued(self, tokens: int) -> None:
        self._queued_tokens += tokens
        self._metrics.set(BATCH_QUEUED_TOKENS, self._queued_tokens)
        self._metrics.set(BATCH_QUEUED_ENTRIES, len(self._queue))

    async def _work(self) -> None:
        try:
            while not self._closed:
                await self._arrival.wait()
                await asyncio.sleep(0)  # submits of the same turn of the loop come along
                self._take()
                await self._serve(self._serving)
                self._serving = []
        finally:
            self._abandon([*self._serving, *self._queue])

    def _take(self) -> None:
        batch = self._serving  # filled in place: whatever happens, an entry is in the queue or here
        while self._queue and len(batch) < self._limits.max_entries:
            entry = next(iter(self._queue))
            wanted = self._wanted(entry)
            if wanted and batch and self._cost_of([*batch, entry]) > self._limits.budget_tokens:
                break
            self._leave(entry)
            if wanted:
                batch.append(entry)
        if not self._queue:
            self._arrival.clear()

    def _wanted(self, entry: _Entry[Item, Result]) -> bool:
        if not entry.outcome.done() and entry.deadline.expired(self._clock):
            entry.outcome.set_result(entry.deadline.exceeded())
        return not entry.outcome.done()

    def _cost_of(self, batch: Sequence[_Entry[Item, Result]]) -> int:
        return self._cost([entry.tokens for entry in batch])

    async def _serve(self, batch: list[_Entry[Item, Result]]) -> None:
        if not batch:
            return
        outcomes: Sequence[Result | Exception] | None = None
        try:
            outcomes = await self._attempt(batch)
        except Exception as error:
            if len(batch) == 1:
                outcomes = [error]
        # Outside the handler, where the failed step's frames no longer hold its memory.
        if outcomes is None:
            for entry in batch:
                if self._wanted(entry):
                    self._metrics.count(BATCH_RETRIES)
                    await self._serve([entry])
            return
        for entry, outcome in zip(batch, outcomes, strict=True):
            if not entry.outcome.done():
                entry.outcome.set_result(outcome)

    async def _attempt(self, batch: list[_Entry[Item, Result]]) -> Sequence[Result | Exception]:
        self._step_started_s = self._clock.monotonic()
        for entry in batch:
            self._metrics.observe(BATCH_WAIT, self._step_started_s - entry.arrived_s)
        self._metrics.observe(BATCH_ENTRIES, len(batch))
        self._metrics.observe(BATCH_COST, self._cost_of(batch))
        try:
            outcomes = await self._step([entry.item for entry in batch])
        except asyncio.CancelledError:
            worker = asyncio.current_task()
            if worker is not None and worker.cancelling():
                raise
            raise Unavailable("the step was cancelled from within") from None
        if len(outcomes) != len(batch):
            raise RayscopeError(f"the step gave {len(outcomes)} results for {len(batch)} items")
        elapsed_s = self._clock.monotonic() - self._step_started_s
        self._throughput.record(sum(entry.tokens for entry in batch), elapsed_s)
        self._metrics.observe(BATCH_STEP, elapsed_s)
        return outcomes

    def _abandon(self, entries: list[_Entry[Item, Result]]) -> None:
        for entry in entries:
            self._leave(entry)
            if not entry.outcome.done():
                entry.outcome.set_result(Unavailable("this replica stopped before it answered", "retry"))
