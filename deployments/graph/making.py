"""GraphMaking: one graph on its way through the stages, each asked again when a replica is lost.

    question -> Tracer --ref--> Attributor --ref--> Publisher -> receipt, or a reference to the document

References are passed on, never looked at, and kept: when a stage's replica dies, that stage is asked again with what
the one before it has left. When that is gone as well, because it lay with a replica that died, the stage before is
asked again, too. So who dies while a graph is uploaded costs an upload, and nothing is computed twice.

Deliberately not here: the queue, and graphs that are kept (`deployments.graph.pipeline`).
"""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any

from ray.exceptions import ActorDiedError, ActorUnavailableError, ObjectLostError, RayTaskError
from ray.serve.exceptions import ReplicaUnavailableError
from ray.serve.handle import DeploymentHandle

from core.deadline import Deadline
from core.errors import RayscopeError, Unavailable
from core.graph.publisher import Published
from core.graph.requests import GraphQuestion
from core.graph.stages import AttributedGraph, Handed, PartialGraph, TracedGraph
from core.job_state import Progress
from deployments.client import asked, streamed

_LOST = (ActorDiedError, ActorUnavailableError, ReplicaUnavailableError, ObjectLostError)
_ATTEMPTS = 4  # of a graph, all stages together


@dataclass(frozen=True, slots=True)
class Stages:
    """The deployments that a graph passes through."""

    tracer: DeploymentHandle[Any]
    attributor: DeploymentHandle[Any]
    publisher: DeploymentHandle[Any]


@dataclass(frozen=True, slots=True)
class Made:
    """A graph, finished or not.

    Attributes:
        question: What was asked.
        pruned: What is shown of it.
        effects: For other thresholds; None while it is not finished.
        published: Where it went, or a reference to its document; None while it is not finished.
    """

    question: GraphQuestion
    pruned: Handed
    effects: Handed | None = None
    published: Published | Handed | None = None


class GraphMaking:
    """One graph.

    Args:
        stages: Whom to ask.
        question: What is asked.
        deadline: When nobody waits any more.
    """

    def __init__(self, stages: Stages, question: GraphQuestion, deadline: Deadline) -> None:
        self._stages = stages
        self._question = question
        self._deadline = deadline
        self._traced: TracedGraph | None = None
        self._attributed: AttributedGraph | None = None

    async def news(self) -> AsyncGenerator[Progress | Made]:
        """How far the graph is, and what there is of it; the last one is the finished graph.

        Raises:
            Unavailable: Replicas died again and again.
            RayscopeError: What a stage raised.
        """
        for attempt in range(1, _ATTEMPTS + 1):
            try:
                async with aclosing(self._attempt()) as news:
                    async for one in news:
                        yield one
                return
            except Exception as error:
                lost = loss_of(error)
                if lost is None:
                    raise
                if attempt == _ATTEMPTS:
                    said = "Replicas died again and again while making this graph."
                    raise Unavailable(said, "Try again later.") from None
                if isinstance(lost, ObjectLostError):
                    self._forget()

    async def _attempt(self) -> AsyncGenerator[Progress | Made]:
        """The stages that are left."""
        question, deadline = self._question, self._deadline
        traced = self._traced
        if traced is None:
            yield Progress("trace")
            options = question.attribution
            traces = streamed(self._stages.tracer, "trace", deadline, question.prompt, options, deadline)
            async with aclosing(traces) as news:
                async for one in news:
                    if isinstance(one, TracedGraph):
                        traced = one
                        break
                    yield Progress("attribute", one.done, one.total)
                else:
                    raise RayscopeError("the tracer gave no graph")
            self._traced = traced
        attributed = self._attributed
        if attributed is None:
            parts = await self._rows(traced)
            rows = streamed(self._stages.attributor, "attribute", deadline, traced, question, deadline, parts)
            async with aclosing(rows) as news:
                async for one in news:
                    if isinstance(one, AttributedGraph):
                        attributed = one
                        break
                    if isinstance(one, PartialGraph):
                        yield Made(question, one.pruned)
                    else:
                        yield Progress("attribute", one.done, one.total)
                else:
                    raise RayscopeError("the attributor gave no graph")
            self._attributed = attributed
        yield Progress("publish", attributed.n_rows, attributed.n_rows)
        async with deadline.limit():
            published = await asked(self._stages.publisher.publish.remote(attributed.pruned, question, deadline))
        yield Made(question, attributed.pruned, attributed.effects, published)

    async def _rows(self, traced: TracedGraph) -> list[tuple[range, Handed]]:
        """Rows by several attributors at once, where that is wanted."""
        if len(traced.runs) < 2:
            return []
        remote, size = self._stages.attributor.rows.remote, self._question.attribution.batch_size
        tasks = [asyncio.ensure_future(asked(remote(traced, run, size, self._deadline))) for run in traced.runs]
        try:
            async with self._deadline.limit():
                return list(zip(traced.runs, await asyncio.gather(*tasks), strict=True))
        finally:
            for task in tasks:
                task.cancel()  # what one has failed for, the others need not finish

    def _forget(self) -> None:
        """Lets go of what the latest stage has left."""
        if self._attributed is None:
            self._traced = None
        self._attributed = None


def loss_of(error: Exception) -> Exception | None:
    """What is gone, where an error says so: a stage's replica, or what one has left in the object store."""
    found = error.cause if isinstance(error, RayTaskError) else error
    return found if isinstance(found, _LOST) else None
