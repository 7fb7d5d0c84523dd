"""GraphPipeline: lets graphs through the stages, and keeps those that are made in the background.

    question -> [queue] -> Tracer -> Attributor -> Publisher -> receipt, or a reference to the document

How one graph gets from stage to stage, and what happens when a replica dies meanwhile, is in `making`. One replica,
because a background graph must be found by whichever Gateway is asked for it; if it dies, background graphs are gone.
"""

import dataclasses
from collections.abc import AsyncGenerator, Generator, Mapping
from contextlib import aclosing, contextmanager
from dataclasses import dataclass
from typing import Any

from ray.serve.handle import DeploymentHandle

from cluster.graph_arguments import GraphAppArgs
from core.catalogue.description import ModelDescription
from core.deadline import Deadline
from core.errors import NotFound, Unavailable
from core.graph.publisher import Published
from core.graph.queue import GraphQueue, Place
from core.graph.requests import Delivery, GraphDescription, GraphLimits, GraphQuestion, PruningOptions
from core.graph.rules import check_name
from core.graph.stages import Handed
from core.job_state import JobState, Kept, Progress
from core.jobs import JobBook, JobLimits
from deployments.client import asked
from deployments.graph.client import LOST
from deployments.graph.making import GraphMaking, Made, Stages, loss_of
from deployments.graph.publisher import destinations

_QUICK_S = 15.0
_NO_DELIVERY = Delivery()


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
        self._stages = Stages(tracer, attributor, publisher)
        self._destinations = destinations(args.uploads)
        self._queue = GraphQueue(args.max_graphs, args.max_queued_graphs)
        most = args.max_graphs + args.max_queued_graphs
        self._jobs: JobBook[_Admitted] = JobBook(
            self._background, JobLimits(running=most, waiting=most, kept_bytes=args.kept_gib * 2**30)
        )

    async def describe(self) -> tuple[ModelDescription, GraphDescription]:
        """What the application serves."""
        shape: Any = await asked(self._stages.tracer.shape.remote())
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
            return await asked(self._stages.publisher.publish.remote(made.pruned, question, deadline))

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
            pruned = await asked(self._stages.attributor.prune.remote(made.effects, options))
            return await asked(self._stages.publisher.publish.remote(pruned, question, deadline))

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
        """Everything from the queue to the last stage."""
        with place:
            yield Progress("queued")
            await place.turn(deadline)
            async with aclosing(GraphMaking(self._stages, question, deadline).news()) as news:
                async for one in news:
                    yield one


@contextmanager
def _keeping() -> Generator[None]:
    """Says that a kept graph is lost, where it is: it lay with a replica that has died since."""
    try:
        yield
    except Exception as error:
        if loss_of(error) is None:
            raise
        raise Unavailable(*LOST) from None


def _bytes(made: Made) -> int:
    handed: list[Any] = [made.pruned, made.effects, made.published]
    return sum(one.n_bytes for one in handed if isinstance(one, Handed))


def _outside(state: JobState) -> JobState:
    """A state as others see it: they learn whether there is a graph, and whether it is only part of it."""
    kept = state.output
    return dataclasses.replace(state, output=None if kept is None else kept.reference.published is None)
