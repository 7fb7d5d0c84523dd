"""GraphPipeline: composes the stages of a graph, and keeps the graphs that are made in the background.

    question -> [queue] -> Tracer --ref--> Attributor --ref--> Publisher -> receipt, or a reference to the document

It passes references on and never looks at what they refer to. When a stage's replica dies, or what it left in the
object store goes with it, the graph is begun anew; nothing is sent anywhere before the last stage. One replica, because
a background graph must be found by whichever Gateway is asked for it; if it dies, background graphs are gone.
"""

import asyncio
import dataclasses
from collections.abc import AsyncGenerator, Generator, Mapping
from contextlib import aclosing, contextmanager
from dataclasses import dataclass
from typing import Any

from ray.exceptions import ActorDiedError, ActorUnavailableError, ObjectLostError, RayTaskError
from ray.serve.exceptions import ReplicaUnavailableError
from ray.serve.handle import DeploymentHandle

from cluster.graph_arguments import GraphAppArgs
from core.catalogue.description import ModelDescription
from core.deadline import Deadline
from core.errors import NotFound, RayscopeError, Unavailable
from core.graph.publisher import Published
from core.graph.queue import GraphQueue, Place
from core.graph.requests import Delivery, GraphDescription, GraphLimits, GraphQuestion, PruningOptions
from core.graph.rules import check_name
from core.graph.stages import AttributedGraph, Handed, PartialGraph, TracedGraph
from core.job_state import JobState, Kept, Progress
from core.jobs import JobBook, JobLimits
from deployments.client import asked, streamed
from deployments.graph.client import LOST
from deployments.graph.publisher import destinations

_LOST = (ActorDiedError, ActorUnavailableError, ReplicaUnavailableError, ObjectLostError)
_ATTEMPTS = 3
_QUICK_S = 15.0
_NO_DELIVERY = Delivery()


@dataclass(frozen=True, slots=True)
class Made:
    """A background graph, finished or not.

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


@dataclass(frozen=True, slots=True)
class _Admitted:
    """A background graph to make, with its place."""

    question: GraphQuestion
    place: Place


class GraphPipeline:
    """The ingress of a graph application; it has no HTTP route."""

    async def __init__(
        self,
        description: ModelDescription,
        args: GraphAppArgs,
        tracer: DeploymentHandle[Any],
        attributor: DeploymentHandle[Any],
        publisher: DeploymentHandle[Any],
    ) -> None:
        self._description = description
        self._args = args
        self._tracer, self._attributor, self._publisher = tracer, attributor, publisher
        self._destinations = destinations(args.uploads)
        self._queue = GraphQueue(args.max_graphs, args.max_queued_graphs)
        most = args.max_graphs + args.max_queued_graphs
        self._jobs: JobBook[_Admitted] = JobBook(
            self._background, JobLimits(running=most, waiting=most, kept_bytes=args.kept_gib * 2**30)
        )

    async def describe(self) -> tuple[ModelDescription, GraphDescription]:
        """What the application serves."""
        shape: Any = await asked(self._tracer.shape.remote())
        args = self._args
        limits = GraphLimits(
            token_limit=args.token_limit,
            generation_limit=args.generation_limit,
            max_feature_nodes=args.max_feature_nodes,
            most_feature_nodes=args.most_feature_nodes,
            most_logits=args.most_logits,
            batch_rows=args.batch_rows,
        )
        return self._description, GraphDescription(shape.name, shape.n_layers, shape.n_features, limits)

    async def busy(self) -> bool:
        """Whether a graph that is asked for now would be refused."""
        return self._queue.busy

    async def generate(self, question: GraphQuestion, deadline: Deadline) -> Published | Handed:
        """Makes a graph and waits for it."""
        made: Made | None = None
        place = self._place(question)
        async with aclosing(self._make(question, deadline, place)) as news:
            async for one in news:
                if isinstance(one, Made):
                    made = one
        if made is None or made.published is None:
            raise Unavailable("The graph was not finished.", "Send the request again.")
        return made.published

    async def submit(self, question: GraphQuestion) -> JobState:
        """Begins to make a graph."""
        place = self._place(question)
        try:
            job = self._jobs.submit(_Admitted(question, place))
        except BaseException:
            with place:
                raise
        # Nobody can stop it before it has begun: a job that never begins would keep its place.
        return _outside(await self._jobs.changed(job.id, job.changes, _QUICK_S))

    async def state(self, job_id: str) -> JobState:
        """How far a background graph is. Its output is whether it is only part of the graph, once there is one."""
        return _outside(self._jobs.state(job_id))

    async def changed(self, job_id: str, seen: int, timeout_s: float) -> JobState:
        """The same, once there is something that a reader has not seen; see `core.jobs`."""
        return _outside(await self._jobs.changed(job_id, seen, timeout_s))

    async def result(self, job_id: str, deadline: Deadline) -> Published | Handed:
        """Where a background graph went, or its document, or that of the part that is there."""
        made = self._made(job_id)
        if made.published is not None:
            return made.published
        question = dataclasses.replace(made.question, delivery=_NO_DELIVERY)
        with _keeping():
            return await asked(self._publisher.publish.remote(made.pruned, question, deadline))

    async def prune(
        self,
        job_id: str,
        options: PruningOptions,
        labels: Mapping[tuple[int, int], str] | None,
        delivery: Delivery,
        deadline: Deadline,
    ) -> Published | Handed:
        """A finished graph at other thresholds."""
        made = self._made(job_id)
        if made.effects is None:
            raise NotFound(f"The graph '{job_id[:100]}' is not finished.", "Ask again when its status is COMPLETED.")
        self._destinations.check(delivery)
        question = dataclasses.replace(
            made.question,
            pruning=options,
            delivery=delivery,
            labels=made.question.labels if labels is None else dict(labels),
        )
        with _keeping():
            pruned = await asked(self._attributor.prune.remote(made.effects, options))
            return await asked(self._publisher.publish.remote(pruned, question, deadline))

    async def delete(self, job_id: str) -> JobState:
        """Stops a background graph and forgets it."""
        return _outside(await self._jobs.delete(job_id))

    async def __del__(self) -> None:
        """Stops every background graph."""
        await self._jobs.aclose()

    def _made(self, job_id: str) -> Made:
        output = self._jobs.state(job_id).output
        if output is None:
            raise NotFound(f"There is nothing of the graph '{job_id[:100]}' yet.", "Ask for its status first.")
        return output.reference

    def _place(self, question: GraphQuestion) -> Place:
        """Whoever gets a place can be sure that the graph may have its name and go where it is to go."""
        check_name("slug_identifier", question.slug)
        self._destinations.check(question.delivery)
        return self._queue.reserve()

    async def _background(self, admitted: _Admitted) -> AsyncGenerator[Progress | Kept]:
        deadline = Deadline.after(self._args.job_timeout_s)
        async with aclosing(self._make(admitted.question, deadline, admitted.place)) as news:
            async for one in news:
                yield Kept(one, _bytes(one)) if isinstance(one, Made) else one

    async def _make(self, question: GraphQuestion, deadline: Deadline, place: Place) -> AsyncGenerator[Progress | Made]:
        """Everything from the queue to the last stage; begun anew when a stage's replica is lost."""
        with place:
            yield Progress("queued")
            await place.turn(deadline)
            for attempt in range(1, _ATTEMPTS + 1):
                try:
                    async with aclosing(self._attempt(question, deadline)) as news:
                        async for one in news:
                            yield one
                    return
                except Exception as error:
                    if not _is_lost(error):
                        raise
                    if attempt == _ATTEMPTS:
                        said = "Replicas died again and again while making this graph."
                        raise Unavailable(said, "Try again later.") from None

    async def _attempt(self, question: GraphQuestion, deadline: Deadline) -> AsyncGenerator[Progress | Made]:
        yield Progress("trace")
        traces = streamed(self._tracer, "trace", deadline, question.prompt, question.attribution, deadline)
        async with aclosing(traces) as news:
            async for one in news:
                if isinstance(one, TracedGraph):
                    traced = one
                    break
                yield Progress("attribute", one.done, one.total)
            else:
                raise RayscopeError("the tracer gave no graph")
        parts = await self._rows(traced, question.attribution.batch_size, deadline)
        rows = streamed(self._attributor, "attribute", deadline, traced, question, deadline, parts)
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
        yield Progress("publish", attributed.n_rows, attributed.n_rows)
        published = await asked(self._publisher.publish.remote(attributed.pruned, question, deadline))
        yield Made(question, attributed.pruned, attributed.effects, published)

    async def _rows(self, traced: TracedGraph, batch_size: int, deadline: Deadline) -> list[tuple[range, Handed]]:
        """Rows by several attributors at once, where that is wanted."""
        if len(traced.runs) < 2:
            return []
        calls = [asked(self._attributor.rows.remote(traced, run, batch_size, deadline)) for run in traced.runs]
        tasks = [asyncio.ensure_future(call) for call in calls]
        try:
            return list(zip(traced.runs, await asyncio.gather(*tasks), strict=True))
        finally:
            for task in tasks:
                task.cancel()  # what one has failed for, the others need not finish


def _is_lost(error: BaseException) -> bool:
    """Whether a stage's replica, or what it left in the object store, is gone."""
    return isinstance(error, _LOST) or (isinstance(error, RayTaskError) and isinstance(error.cause, _LOST))


@contextmanager
def _keeping() -> Generator[None]:
    """Says that a kept graph is lost, where it is: it lay with a replica that has died since."""
    try:
        yield
    except Exception as error:
        if not _is_lost(error):
            raise
        raise Unavailable(*LOST) from None


def _bytes(made: Made) -> int:
    handed: list[Any] = [made.pruned, made.effects, made.published]
    return sum(one.n_bytes for one in handed if isinstance(one, Handed))


def _outside(state: JobState) -> JobState:
    """A state as others see it: they learn whether there is a graph, and whether it is only part of it."""
    kept = state.output
    return dataclasses.replace(state, output=None if kept is None else kept.reference.published is None)
