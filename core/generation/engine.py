"""Writes texts for all clients of one model at once: the eager engine.

    stream(continuations) --resolve steering, lease conditions' SAEs--> [queue] --rows and room--> RowBatch
                                                     one device step per token <--'      |
    caller <-- Growth, as often as the caller looks <------------------------------------'

STEERED and DEFAULT of one request, and the requests of other clients, are rows of one batch. Between two tokens new
rows join, finished ones leave, and so do rows whose client has gone. Device steps take turns with the activation
batches of the same replica.

Deliberately not here: text (the Gateway's), and large models (`core.steerer` has vLLM's batching).
"""

import asyncio
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field

from core.deadline import Deadline
from core.device import DeviceExecutor
from core.engine.model import EagerModel
from core.errors import Overloaded, TooLarge, Unavailable
from core.generation.batch import Gain, Row, RowBatch, read_means
from core.generation.requests import Continuation, Finish, Growth, MeansRequest
from core.generation.sampling import Choice
from core.metrics import GENERATION_ROWS, GENERATION_TOKENS, NULL_METRICS, MetricSink
from core.questions import Floats
from core.saes.encoder import LoadedSae
from core.steering.directions import Directions
from core.steering.writing import FeatureIsActive, RowSteering, check_places
from core.throughput import Throughput

Lease = Callable[[Sequence[str], Deadline], AbstractAsyncContextManager[Mapping[str, LoadedSae]]]
_RETRY_FLOOR_S = 1.0


@dataclass(frozen=True, slots=True)
class GenerationLimits:
    """How much is written at once.

    Attributes:
        max_rows: Most texts in progress.
        budget_tokens: Most positions that the cache may hold: rows, rounded up to a power of two, times the longest.
        prefill_tokens: Most prompt positions read in one pass, padding included; a single prompt may have more.
        max_waiting: Most texts that may wait.
    """

    max_rows: int
    budget_tokens: int
    prefill_tokens: int
    max_waiting: int


@dataclass(slots=True, eq=False)
class _Caller:
    """One request: its rows and what they gained since it last looked.

    Rows change on the device's thread; what has been handed out changes here, on the event loop.
    """

    rows: list[Row]
    gained: list[list[Choice]] = field(init=False)
    finished: list[Finish | None] = field(init=False)
    news: asyncio.Event = field(default_factory=asyncio.Event)
    error: Exception | None = None

    def __post_init__(self) -> None:
        self.gained = [[] for _ in self.rows]
        self.finished = [None for _ in self.rows]

    def give(self, index: int, gain: Gain) -> None:
        """Hands out a row's new token, or why there is none."""
        if isinstance(gain, Exception):
            self.error = gain
        else:
            self.gained[index].append(gain)
            self.finished[index] = self.rows[index].finish
        self.news.set()

    def take(self) -> list[Growth]:
        """What is new, as one growth per row that has any."""
        self.news.clear()
        growths: list[Growth] = []
        for index, choices in enumerate(self.gained):
            if choices:
                tokens = tuple(choice.token for choice in choices)
                scores = tuple(choice.score for choice in choices if choice.score is not None)
                growths.append(Growth(index, tokens, scores, self.finished[index]))
        self.gained = [[] for _ in self.rows]
        return growths


class GenerationEngine:
    """Generates with one model. Lives on one event loop; shares the device with `ActivationEngine`."""

    def __init__(
        self,
        model: EagerModel,
        device: DeviceExecutor,
        directions: Directions,
        lease: Lease,
        limits: GenerationLimits,
        metrics: MetricSink = NULL_METRICS,
    ) -> None:
        self._model = model
        self._device = device
        self._directions = directions
        self._lease = lease
        self._limits = limits
        self._metrics = metrics
        self._batch = RowBatch(model)
        self._callers: dict[Row, tuple[_Caller, int]] = {}
        self._waiting: list[Row] = []
        self._running: list[Row] = []
        self._leaving: list[Row] = []
        self._throughput = Throughput()
        self._wake = asyncio.Event()
        self._worker: asyncio.Task[None] | None = None
        self._closed = False

    @property
    def running(self) -> int:
        """Texts in progress."""
        return len(self._running)

    @property
    def waiting(self) -> int:
        """Texts that wait for a place."""
        return len(self._waiting)

    async def generate(self, continuations: Sequence[Continuation], deadline: Deadline) -> list[Growth]:
        """Whole texts, one per continuation, in order."""
        parts: list[list[Growth]] = [[] for _ in continuations]
        async for growths in self.stream(continuations, deadline):
            for growth in growths:
                parts[growth.index].append(growth)
        return [join_growths(index, grown) for index, grown in enumerate(parts)]

    async def stream(self, continuations: Sequence[Continuation], deadline: Deadline) -> AsyncGenerator[list[Growth]]:
        """What the texts gained, as often as the caller asks; closing the generator takes the rows out of the batch.

        Raises:
            InvalidRequest: The steering can not be applied to this model.
            TooLarge: A text needs more cache than there is.
            Overloaded: Too many texts wait.
            DeadlineExceeded: The deadline passed.
        """
        self._check_room(continuations)
        async with self._lease(_conditions(continuations), deadline) as saes:
            async with deadline.limit():
                caller = _Caller([await self._row(one, saes) for one in continuations])
            self._admit(caller)
            try:
                unfinished = True
                while unfinished:
                    async with deadline.limit():
                        await caller.news.wait()
                    if caller.error is not None:
                        raise caller.error
                    unfinished = None in caller.finished
                    yield caller.take()
            finally:
                self._release(caller)

    async def read_means(self, request: MeansRequest, deadline: Deadline) -> Floats:
        """Mean activations `[spans, d]` of a text, steered as it was when it was written."""
        async with self._lease(_conditions([request.continuation]), deadline) as saes, deadline.limit():
            self._model.check_prompt(request.tokens)
            row = await self._row(request.continuation, saes)
            return await self._device.run(read_means, self._model, request, row.steering)

    def queue_time_s(self) -> float:
        """Seconds until the rows that wait now could have been written, by recent speed."""
        return self._throughput.seconds_for(sum(row.continuation.sampling.max_tokens for row in self._waiting))

    async def aclose(self) -> None:
        """Fails what is in progress."""
        self._closed = True
        if self._worker is not None:
            self._worker.cancel()
            await asyncio.gather(self._worker, return_exceptions=True)
        self._fail(Unavailable("this replica stopped before the text was finished", "retry"))

    async def _row(self, continuation: Continuation, saes: Mapping[str, LoadedSae]) -> Row:
        self._model.check_prompt(continuation.prompt)
        steering = continuation.steering
        if steering is None:
            return Row(continuation, None)
        interventions = await self._directions.resolve(steering)
        check_places(self._model, interventions)
        asked = steering.condition
        if asked is not None:
            saes[asked.source].check_index(asked.index)
        condition = None if asked is None else FeatureIsActive(saes[asked.source], asked.index, asked.above)
        row_steering = RowSteering(interventions, condition)
        row_steering.check()
        return Row(continuation, row_steering)

    def _check_room(self, continuations: Sequence[Continuation]) -> None:
        """Refuses what could never be written here."""
        longest = max(len(one.prompt) + one.sampling.max_tokens for one in continuations)
        room = min(self._limits.budget_tokens, self._model.shape.max_positions)
        if longest > room:
            raise TooLarge(
                f"The text may need {longest} tokens; this replica has room for {room}.",
                "Send a shorter prompt or ask for fewer tokens.",
            )
        if len(continuations) > self._limits.max_waiting:
            raise TooLarge(
                f"The request asks for {len(continuations)} texts; this replica takes {self._limits.max_waiting}.",
                "Ask for fewer at once.",
            )

    def _admit(self, caller: _Caller) -> None:
        if self._closed:
            raise Unavailable("this replica is shutting down", "retry")
        if len(self._waiting) + len(caller.rows) > self._limits.max_waiting:
            raise Overloaded(
                f"{len(self._waiting)} texts are waiting to be written",
                "retry after the given time",
                max(_RETRY_FLOOR_S, self.queue_time_s()),
            )
        for index, row in enumerate(caller.rows):
            self._callers[row] = (caller, index)
            self._waiting.append(row)
        self._wake.set()
        if self._worker is None or self._worker.done():
            self._worker = asyncio.create_task(self._work(), name="generation")

    def _release(self, caller: _Caller) -> None:
        """Lets go of rows that their caller no longer wants."""
        for row in caller.rows:
            self._callers.pop(row, None)
            if row in self._waiting:
                self._waiting.remove(row)
            if row in self._running and not row.ended:
                self._leaving.append(row)
                self._wake.set()

    async def _work(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            if not self._waiting and not self._running:
                self._wake.clear()
                await self._wake.wait()
            started_s = loop.time()
            try:
                joining, leaving = self._join(), self._leaving
                self._leaving = []
                gained = await self._device.run(self._batch.advance, leaving)
                if joining:
                    gained += await self._begin(joining)
                self._throughput.record(len(gained), loop.time() - started_s)
                self._hand_out(gained, leaving)
            except Exception as error:
                self._batch = RowBatch(self._model)
                self._fail(error)

    async def _begin(self, rows: Sequence[Row]) -> list[tuple[Row, Gain]]:
        """The first token of rows. What these prompts are too much for fails them, not the texts in progress."""
        try:
            return await self._device.run(self._batch.begin, rows)
        except Exception as error:
            if len(rows) == len(self._running):
                self._batch = RowBatch(self._model)  # lets go of the cache that it began
            for row in rows:
                row.failed = True
            return [(row, error) for row in rows]

    def _join(self) -> list[Row]:
        """The rows that may start now, oldest first."""
        joining: list[Row] = []
        while self._waiting:
            row = self._waiting[0]
            prompts = [len(one.continuation.prompt) for one in [*joining, row]]
            if joining and len(prompts) * max(prompts) > self._limits.prefill_tokens:
                break
            rows = [*self._running, row]
            held = (1 << (len(rows) - 1).bit_length()) * max(one.room for one in rows)
            if len(rows) > self._limits.max_rows or (self._running and held > self._limits.budget_tokens):
                break
            joining.append(self._waiting.pop(0))
            self._running.append(row)
        return joining

    def _hand_out(self, gained: Sequence[tuple[Row, Gain]], left: Sequence[Row]) -> None:
        for row, gain in gained:
            if row in self._callers:
                caller, index = self._callers[row]
                caller.give(index, gain)
        self._running = [row for row in self._running if not row.ended and row not in left]
        self._metrics.count(GENERATION_TOKENS, len(gained))
        self._metrics.set(GENERATION_ROWS, len(self._running))

    def _fail(self, error: Exception) -> None:
        """Tells every caller with rows in the batch, or in the queue once closed, that nothing more will come."""
        failed = [*self._running, *(self._waiting if self._closed else ())]
        self._running, self._leaving = [], []
        for row in failed:
            if row in self._callers:
                caller, _ = self._callers[row]
                caller.error = error
                caller.news.set()


def _conditions(continuations: Sequence[Continuation]) -> list[str]:
    """The sources whose features are conditions."""
    return sorted({one.steering.condition.source for one in continuations if one.steering and one.steering.condition})


def join_growths(index: int, grown: Sequence[Growth]) -> Growth:
    """One growth out of several of the same continuation."""
    return Growth(
        index,
        tuple(token for growth in grown for token in growth.tokens),
        tuple(score for growth in grown for score in growth.scores),
        next((growth.finish for growth in grown if growth.finish is not None), None),
    )
