"""What `GraphClient` does when a graph's document is gone before it is fetched."""

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest
from ray import serve
from ray.exceptions import ObjectLostError

from core.deadline import Deadline
from core.errors import Unavailable
from core.graph.stages import Handed
from deployments.graph.client import GraphClient
from tests.unit.test_graph_making import QUESTION, Response

NOTHING: Any = None


class Pipeline:
    """A pipeline whose documents are lost so many times."""

    def __init__(self, losses: int) -> None:
        self._losses = losses
        self.asked = 0
        self.generate = self

    def remote(self, *_: Any) -> Response:
        self.asked += 1
        lost = self.asked <= self._losses
        return Response([Handed(Response([ObjectLostError("ab" * 14, None, "") if lost else b"{}"]), 2)])


@pytest.fixture
def pipeline(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Pipeline]:
    one = Pipeline(request.param)
    monkeypatch.setattr(serve, "get_app_handle", lambda _: one)
    monkeypatch.setattr(serve, "get_deployment_handle", lambda *_: one)
    yield one


@pytest.mark.parametrize("pipeline", [0, 1], indirect=True)
def test_a_document_that_is_lost_is_asked_for_again(pipeline: Pipeline) -> None:
    client = GraphClient("graphs", NOTHING)
    published = asyncio.run(client.generate(QUESTION, Deadline.after(10)))
    assert published.content == b"{}"


@pytest.mark.parametrize("pipeline", [99], indirect=True)
def test_what_is_always_lost_is_said_to_be(pipeline: Pipeline) -> None:
    with pytest.raises(Unavailable, match="lost"):
        asyncio.run(GraphClient("graphs", NOTHING).generate(QUESTION, Deadline.after(10)))
    assert pipeline.asked == 2
