"""Serverless jobs of the graph routes without a cluster: a client of the stages that says what the test wants."""

import asyncio
import json
import time
from typing import Any

import pytest

from core.deadline import Deadline
from core.errors import InvalidRequest, UploadFailed
from core.exchange.graph import ServedGraphs
from core.graph.publisher import Published
from core.graph.requests import (
    ForwardPassAnswer,
    ForwardPassQuestion,
    GraphQuestion,
    InterventionAnswer,
    InterventionQuestion,
    WrittenText,
)
from core.wire.graph_jobs import GraphServerlessInput
from deployments.graph.serverless import graph_output
from tests.unit.exchange.graphs import letters, served_graphs

TIMEOUT_S = 300.0
GRAPH = {"prompt": "abcab", "model_id": "rayscope-demo", "slug_identifier": "my-graph"}
UPLOAD = GRAPH | {"signed_url": "https://storage/x?signature=secret"}
TEXT = WrittenText((0, 2, 3), 2, (((4, 0.5),), ((5, 0.25),)))


class Stages:
    """Stands in for `Directory` and for the one `GraphClient` in it."""

    def __init__(self, error: Exception | None = None) -> None:
        self.served: ServedGraphs = served_graphs(letters(adds_bos=True))
        self.looked_for: list[tuple[str | None, str | None]] = []
        self.questions: list[Any] = []
        self.deadlines: list[Deadline] = []
        self.looks = 0
        self._error = error

    async def refresh(self) -> None:
        self.looks += 1

    async def find_graphs(self, model: str | None, transcoder_set: str | None = None) -> "Stages":
        assert self.looks == 1
        self.looked_for.append((model, transcoder_set))
        return self

    async def generate(self, question: GraphQuestion, deadline: Deadline) -> Published:
        self._note(question, deadline)
        return Published(url="https://storage/x")

    async def forward_pass(self, question: ForwardPassQuestion, deadline: Deadline) -> ForwardPassAnswer:
        self._note(question, deadline)
        return ForwardPassAnswer((5,), (0.75,))

    async def intervene(self, question: InterventionQuestion, deadline: Deadline) -> InterventionAnswer:
        self._note(question, deadline)
        return InterventionAnswer(TEXT, TEXT)

    def _note(self, question: Any, deadline: Deadline) -> None:
        self.questions.append(question)
        self.deadlines.append(deadline)
        if self._error is not None:
            raise self._error


def output(stages: Any, **input_: Any) -> Any:
    made = asyncio.run(graph_output(GraphServerlessInput.model_validate(input_), stages, TIMEOUT_S))
    json.dumps(made)  # an output is JSON
    return made


def test_a_job_that_makes_a_graph_may_leave_its_type_out() -> None:
    stages = Stages()
    receipts = [output(stages, **UPLOAD), output(Stages(), request_type="graph", **UPLOAD)]
    assert (
        receipts
        == [
            {
                "success": "Graph uploaded successfully to url: https://storage/x",
                "error": None,
                "url": None,
                "detail": None,
            }
        ]
        * 2
    )
    (question,) = stages.questions
    assert (question.slug, question.delivery.signed_url) == ("my-graph", UPLOAD["signed_url"])
    assert stages.looked_for == [("rayscope-demo", None)]


def test_a_graph_that_storage_did_not_take_is_answered_in_the_peers_words() -> None:
    refused = output(Stages(UploadFailed("The storage answered 403.", None, 403)), **UPLOAD)
    assert (refused["success"], refused["error"]) == (None, "Failed to upload file")
    assert refused["detail"] == "The storage answered 403."


def test_other_types_have_their_routes_own_replies() -> None:
    looked = output(Stages(), request_type="forward-pass", prompt="abc", transcoder_set="plt-demo")
    assert looked["input_tokens"] == ["<bos>", "a", "b", "c"]
    assert looked["salient_logits"] == [{"token": "d", "token_id": 5, "probability": 0.75}]
    held = output(Stages(), request_type="steer", model_id="rayscope-demo", prompt="a", features=[], n_tokens=1)
    assert held.keys() == {
        "DEFAULT_GENERATION",
        "STEERED_GENERATION",
        "DEFAULT_LOGITS_BY_TOKEN",
        "STEERED_LOGITS_BY_TOKEN",
    }
    assert held["DEFAULT_LOGITS_BY_TOKEN"][1] == {"token": "a", "top_logits": [{"token": "c", "prob": 0.5}]}
    read = output(Stages(), request_type="parse-chat-prompt", prompt="abc")
    assert read == {"messages": None, "is_chat": False, "prompt": "abc", "unsteerable_positions": [0]}


@pytest.mark.parametrize("input_", [GRAPH, {"request_type": "steer"}, {"request_type": "nothing"}])
def test_a_job_whose_deadline_has_passed_says_by_how_much_and_asks_nobody(input_: dict[str, Any]) -> None:
    stages = Stages()
    before = time.time()
    missed = output(stages, **(input_ | {"deadline": before - 30}))
    assert (stages.looks, stages.questions) == (0, [])
    assert missed.keys() == {"error", "server_time", "deadline", "delta_seconds"}
    assert missed["error"].startswith("Request deadline exceeded by 3")
    assert missed["delta_seconds"] == pytest.approx(missed["server_time"] - missed["deadline"])
    assert missed["server_time"] >= before


def test_work_ends_when_nobody_waits_any_more_or_when_a_job_has_had_its_time() -> None:
    now = time.time()
    soon, late, never = Stages(), Stages(), Stages()
    output(soon, deadline=now + 20, **UPLOAD)
    output(late, deadline=now + 10 * TIMEOUT_S, **UPLOAD)
    output(never, **UPLOAD)
    assert soon.deadlines == [Deadline(now + 20)]
    for stages in (late, never):
        (deadline,) = stages.deadlines
        assert now + TIMEOUT_S <= deadline.at_s <= time.time() + TIMEOUT_S


def test_a_mistake_is_the_routes_own_refusal() -> None:
    with pytest.raises(InvalidRequest, match="Unknown request type: nothing"):
        output(Stages(), request_type="nothing", prompt="abc")
    with pytest.raises(InvalidRequest, match=r"Prompt exceeds token limit \(13 > 12\)"):
        output(Stages(), **(GRAPH | {"prompt": "a" * 13}))
