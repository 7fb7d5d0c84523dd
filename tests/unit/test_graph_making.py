"""Promises of `deployments.graph.making`: what is asked again, and what is not, when a replica is lost."""

import asyncio
from collections.abc import AsyncGenerator, Callable
from typing import Any

import pytest
from ray.exceptions import ActorDiedError, ObjectLostError, RayTaskError

from core.deadline import Deadline
from core.errors import DeadlineExceeded, RayscopeError, TooLarge, Unavailable
from core.graph.plan import Progress as Rows
from core.graph.publisher import Published
from core.graph.requests import AttributionOptions, Delivery, GraphPrompt, GraphQuestion, PruningOptions
from core.graph.stages import AttributedGraph, Handed, PartialGraph, TracedGraph
from core.job_state import Progress
from deployments.graph.making import GraphMaking, Made, Stages

QUESTION = GraphQuestion(
    prompt=GraphPrompt((1, 2, 3), 1),
    attribution=AttributionOptions(batch_size=7),
    pruning=PruningOptions(),
    slug="a-graph",
    creator=None,
    labels={},
    delivery=Delivery(),
)
DEAD: Callable[[], Exception] = ActorDiedError


def gone() -> Exception:
    """What a stage says that did not find what it was given."""
    return RayTaskError("publish", "a traceback", ObjectLostError("ab" * 14, None, ""))


class Response:
    """What a handle's call gives: awaited, or read part by part."""

    def __init__(self, parts: list[Any]) -> None:
        self._parts = parts
        self.cancelled = False

    def __await__(self) -> Any:
        return self._next().__await__()

    async def __anext__(self) -> Any:
        if not self._parts:
            raise StopAsyncIteration
        return await self._next()

    async def _next(self) -> Any:
        part = self._parts.pop(0)
        if isinstance(part, Exception):
            raise part
        if isinstance(part, asyncio.Event):
            await part.wait()
        return part

    def cancel(self) -> None:
        self.cancelled = True


class Cluster:
    """Three stages that answer with numbered results, unless something else is due."""

    def __init__(self, *due: tuple[str, list[Any]], shards: int = 1) -> None:
        self.calls: list[tuple[str, Any]] = []
        self.responses: list[Response] = []
        self._due = list(due)
        self._runs = tuple(range(at, at + 1) for at in range(shards))

    def stages(self) -> Stages:
        stage: Any = self
        return Stages(stage, stage, stage)

    def options(self, *, stream: bool) -> "Cluster":
        assert stream
        return self

    def __getattr__(self, method: str) -> Any:
        return type("Method", (), {"remote": staticmethod(lambda *given: self._call(method, given))})

    def _call(self, method: str, given: tuple[Any, ...]) -> Response:
        self.calls.append((method, given[0]))
        number = sum(name == method for name, _ in self.calls)
        if self._due and self._due[0][0] == method:
            response = Response(self._due.pop(0)[1])
        else:
            response = Response(self._usual(method, number))
        self.responses.append(response)
        return response

    def _usual(self, method: str, number: int) -> list[Any]:
        left = Handed(f"{method} {number}", 1)
        if method == "trace":
            return [TracedGraph(left, self._runs)]
        if method == "attribute":
            return [PartialGraph(left), Rows(2, 2), AttributedGraph(left, left, 2)]
        return [Published(url="there")] if method == "publish" else [left]

    @property
    def asked(self) -> list[str]:
        return [method for method, _ in self.calls]


async def _all(news: AsyncGenerator[Progress | Made]) -> list[Progress | Made]:
    return [one async for one in news]


def made(cluster: Cluster, seconds: float = 60) -> list[Progress | Made]:
    async def run() -> list[Progress | Made]:
        return await _all(GraphMaking(cluster.stages(), QUESTION, Deadline.after(seconds)).news())

    return asyncio.run(run())


def test_a_graph_passes_through_three_stages_and_each_gets_what_the_one_before_has_left() -> None:
    cluster = Cluster()
    news = made(cluster)
    assert cluster.asked == ["trace", "attribute", "publish"]
    assert cluster.calls[1][1].value.reference == "trace 1"
    assert cluster.calls[2][1].reference == "attribute 1"
    progress = [one for one in news if isinstance(one, Progress)]
    assert progress == [Progress("trace"), Progress("attribute", 2, 2), Progress("publish", 2, 2)]
    partial, last = (one for one in news if isinstance(one, Made))
    assert (partial.published, last.published) == (None, Published(url="there"))
    assert news[-1] is last


@pytest.mark.parametrize(
    ("lost", "error", "asked"),
    [
        ("trace", DEAD, ["trace", "trace", "attribute", "publish"]),
        ("attribute", DEAD, ["trace", "attribute", "attribute", "publish"]),
        ("publish", DEAD, ["trace", "attribute", "publish", "publish"]),
        ("attribute", gone, ["trace", "attribute", "trace", "attribute", "publish"]),
        ("publish", gone, ["trace", "attribute", "publish", "attribute", "publish"]),
    ],
)
def test_a_stage_that_is_lost_is_asked_again_and_those_before_only_for_what_is_gone(
    lost: str, error: Callable[[], Exception], asked: list[str]
) -> None:
    cluster = Cluster((lost, [error()]))
    news = made(cluster)
    assert cluster.asked == asked
    finished = news[-1]
    assert isinstance(finished, Made)
    assert finished.published is not None


def test_what_is_gone_twice_is_made_from_the_beginning() -> None:
    cluster = Cluster(("publish", [gone()]), ("attribute", [gone()]))
    # The second attribution does not find what was traced, so the prompt is traced anew.
    cluster._due.insert(0, ("attribute", cluster._usual("attribute", 1)))
    made(cluster)
    assert cluster.asked == ["trace", "attribute", "publish", "attribute", "trace", "attribute", "publish"]


def test_replicas_that_die_again_and_again_are_not_asked_for_ever() -> None:
    cluster = Cluster(*[("publish", [DEAD()]) for _ in range(10)])
    with pytest.raises(Unavailable, match="again and again"):
        made(cluster)
    assert 1 < cluster.asked.count("publish") < 10
    assert cluster.asked.count("attribute") == 1


def test_what_a_stage_refuses_is_not_asked_again() -> None:
    cluster = Cluster(("attribute", [TooLarge("the graph takes 9 TB", "ask for fewer feature nodes")]))
    with pytest.raises(TooLarge, match="9 TB"):
        made(cluster)
    assert cluster.asked == ["trace", "attribute"]
    with pytest.raises(RayscopeError, match="no graph"):
        made(Cluster(("trace", [])))


def test_shards_are_asked_at_once_and_their_loss_costs_the_shards() -> None:
    cluster = Cluster(("rows", [DEAD()]), shards=2)
    made(cluster)
    assert cluster.asked == ["trace", "rows", "rows", "rows", "rows", "attribute", "publish"]


@pytest.mark.parametrize("stage", ["trace", "attribute", "publish", "rows"])
def test_who_waits_no_longer_than_the_deadline_stops_the_stage(stage: str) -> None:
    async def run() -> Cluster:
        cluster = Cluster((stage, [asyncio.Event()]), shards=2 if stage == "rows" else 1)
        with pytest.raises(DeadlineExceeded):
            await _all(GraphMaking(cluster.stages(), QUESTION, Deadline.after(0.05)).news())
        return cluster

    cluster = asyncio.run(run())
    assert stage in cluster.asked
    assert any(response.cancelled for response in cluster.responses)
