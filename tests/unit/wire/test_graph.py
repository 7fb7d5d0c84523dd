import json
from typing import Any

import pytest
from pydantic import ValidationError

from core.errors import InvalidRequest
from core.wire.base import render
from core.wire.cluster import DetailedErrorBody
from core.wire.graph import (
    ForwardPassRequest,
    ForwardPassResponse,
    GraphGenerationRequest,
    LogitsByToken,
    ParseChatPromptRequest,
    SalientLogit,
    SteerRequest,
    SteerResponse,
    SteerTuplesResponse,
    TopLogit,
)
from core.wire.graph_jobs import GraphJobResponse, GraphProgress, GraphPruneRequest, GraphServerlessInput
from core.wire.serverless import ServerlessInput, ServerlessRequest

# The requests of the seed document, word for word.
SEED_GRAPH: dict[str, Any] = {
    "prompt": "1 2 ",
    "model_id": "google/gemma-2-2b",
    "batch_size": 48,
    "max_n_logits": 10,
    "desired_logit_prob": 0.95,
    "node_threshold": 0.8,
    "edge_threshold": 0.85,
    "slug_identifier": "count-1-2",
    "max_feature_nodes": 5000,
}
SEED_STEER: dict[str, Any] = {
    "model_id": "google/gemma-2-2b",
    "prompt": "Fait: Michael Jordan joue au",
    "features": [
        {"layer": 20, "index": 1454, "token_active_position": 6, "steer_position": 6, "ablate": True},
        {"layer": 20, "index": 341, "token_active_position": 7, "steer_position": 7, "delta": 350},
        {"layer": 20, "index": 341, "token_active_position": 7, "steer_generated_tokens": True, "delta": 350},
    ],
    "n_tokens": 10,
    "top_k": 3,
    "temperature": 0,
    "freq_penalty": 0,
    "freeze_attention": False,
}


def test_the_seeds_requests_are_understood() -> None:
    graph = GraphGenerationRequest.model_validate(SEED_GRAPH)
    assert (graph.edge_threshold, graph.max_feature_nodes, graph.signed_url) == (0.85, 5000, None)
    steer = SteerRequest.model_validate(SEED_STEER)
    first, second, third = steer.features
    assert (first.ablate, first.delta, first.steer_position) == (True, None, 6)
    assert (second.ablate, second.delta, second.steer_generated_tokens) == (False, 350.0, False)
    assert (third.steer_position, third.steer_generated_tokens) == (None, True)


def test_what_may_be_left_out_has_the_published_default() -> None:
    graph = GraphGenerationRequest.model_validate({"model_id": "m", "slug_identifier": ""})
    assert (graph.prompt, graph.messages, graph.batch_size, graph.max_feature_nodes) == ("", None, 48, 10000)
    assert (graph.node_threshold, graph.edge_threshold, graph.compress) == (0.8, 0.98, False)
    steer = SteerRequest.model_validate({"model_id": "m", "features": []})
    assert (steer.n_tokens, steer.top_k, steer.temperature, steer.freq_penalty, steer.seed) == (10, 5, 0.0, 0.0, None)
    look = ForwardPassRequest.model_validate({})
    assert (look.prompt, look.max_n_logits, look.desired_logit_prob, look.model_id) == ("", 10, 0.95, None)


def camel(value: Any) -> Any:
    if isinstance(value, dict):
        words = {key: key.split("_") for key in value}
        return {first + "".join(map(str.title, rest)): camel(value[key]) for key, (first, *rest) in words.items()}
    return [camel(one) for one in value] if isinstance(value, list) else value


def test_camel_case_is_understood_too() -> None:
    assert camel({"token_active_position": 1}) == {"tokenActivePosition": 1}
    assert SteerRequest.model_validate(camel(SEED_STEER)) == SteerRequest.model_validate(SEED_STEER)
    assert GraphGenerationRequest.model_validate(camel(SEED_GRAPH)) == GraphGenerationRequest.model_validate(SEED_GRAPH)


@pytest.mark.parametrize(
    ("kind", "body", "wrong"),
    [
        (GraphGenerationRequest, SEED_GRAPH, {"model_id": None}),
        (GraphGenerationRequest, SEED_GRAPH, {"batch_size": "many"}),
        (GraphGenerationRequest, SEED_GRAPH, {"node_threshold": float("nan")}),
        (GraphGenerationRequest, SEED_GRAPH, {"labels": {"0_1": 5}}),
        (GraphGenerationRequest, SEED_GRAPH, {"targets": [[1]]}),
        (GraphGenerationRequest, SEED_GRAPH, {"messages": [{"role": "user"}]}),
        (SteerRequest, SEED_STEER, {"features": None}),
        (SteerRequest, SEED_STEER, {"features": [{"layer": 1, "index": 2}]}),
        (SteerRequest, SEED_STEER, {"temperature": float("inf")}),
        (SteerRequest, SEED_STEER, {"n_tokens": 1.5}),
        (ForwardPassRequest, {}, {"prompt": 5}),
        (ParseChatPromptRequest, {}, {}),
    ],
)
def test_what_the_schema_forbids_is_no_request(kind: Any, body: dict[str, Any], wrong: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        kind.model_validate(body | wrong)


@pytest.mark.parametrize("case", ["camel", "snake"])
def test_replies_are_in_snake_case_whatever_is_asked_for(case: Any) -> None:
    logit = SalientLogit(token="3", token_id=7, probability=0.5)
    reply = ForwardPassResponse(
        prompt="1 2 ", input_tokens=["1"], salient_logits=[logit], total_salient_tokens=1, cumulative_probability=0.5
    )
    assert json.loads(render(reply, case)) == {
        "prompt": "1 2 ",
        "input_tokens": ["1"],
        "salient_logits": [{"token": "3", "token_id": 7, "probability": 0.5}],
        "total_salient_tokens": 1,
        "cumulative_probability": 0.5,
    }


@pytest.mark.parametrize("case", ["camel", "snake"])
def test_steered_texts_shout_their_keys(case: Any) -> None:
    row = LogitsByToken(token=" au", top_logits=[TopLogit(token=" basket", prob=0.5)])
    objects = SteerResponse(
        DEFAULT_GENERATION="a", STEERED_GENERATION="b", DEFAULT_LOGITS_BY_TOKEN=[row], STEERED_LOGITS_BY_TOKEN=[]
    )
    assert json.loads(render(objects, case)) == {
        "DEFAULT_GENERATION": "a",
        "STEERED_GENERATION": "b",
        "DEFAULT_LOGITS_BY_TOKEN": [{"token": " au", "top_logits": [{"token": " basket", "prob": 0.5}]}],
        "STEERED_LOGITS_BY_TOKEN": [],
    }
    tuples = SteerTuplesResponse(
        DEFAULT_GENERATION="a",
        STEERED_GENERATION="b",
        DEFAULT_LOGITS_BY_TOKEN=[("F", []), (" au", [(" basket", 0.5)])],
        STEERED_LOGITS_BY_TOKEN=[],
    )
    assert json.loads(render(tuples, case))["DEFAULT_LOGITS_BY_TOKEN"] == [["F", []], [" au", [[" basket", 0.5]]]]


def test_an_error_is_found_under_either_name() -> None:
    body = DetailedErrorBody(error="lone \ud800", code="invalid_request", hint=None, request_id="r")
    shown = json.loads(render(body, "snake"))
    assert shown == {
        "error": "lone ?",
        "detail": "lone ?",
        "code": "invalid_request",
        "hint": None,
        "requestId": "r",
    }


def test_a_job_shows_what_there_is() -> None:
    waiting = GraphJobResponse(id="j", status="IN_QUEUE", progress=GraphProgress(stage="queued", rows_done=0))
    assert json.loads(render(waiting, "camel")) == {
        "id": "j",
        "status": "IN_QUEUE",
        "progress": {"stage": "queued", "rows_done": 0},
    }


@pytest.mark.parametrize(
    ("body", "kind"),
    [
        (SEED_GRAPH, GraphGenerationRequest),
        (SEED_GRAPH | {"request_type": "graph"}, GraphGenerationRequest),
        ({"request_type": "forward-pass", "prompt": "1 2 "}, ForwardPassRequest),
        (SEED_STEER | {"request_type": "steer"}, SteerRequest),
        ({"request_type": "parse-chat-prompt", "prompt": "1 2 "}, ParseChatPromptRequest),
    ],
)
def test_a_serverless_job_is_the_routes_own_request(body: dict[str, Any], kind: Any) -> None:
    job = GraphServerlessInput.model_validate(body | {"deadline": 1760000000})
    assert job.deadline == 1760000000.0
    wanted = {key: value for key, value in body.items() if key != "request_type"}
    assert job.request() == kind.model_validate(wanted)


def test_a_serverless_job_of_no_known_type_is_refused_in_the_peers_words() -> None:
    job = GraphServerlessInput.model_validate({"request_type": "health"})
    with pytest.raises(InvalidRequest) as refused:
        job.request()
    assert refused.value.message == "Unknown request type: health"


def test_a_serverless_job_that_is_not_of_its_type_is_refused_with_the_reason() -> None:
    job = GraphServerlessInput.model_validate({"request_type": "steer", "prompt": "x", "features": [{"layer": "y"}]})
    with pytest.raises(InvalidRequest) as refused:
        job.request()
    assert refused.value.message == "The input is no steer request: model_id: Field required"


@pytest.mark.parametrize(
    ("input_", "kind"),
    [
        ({"action": "health"}, ServerlessInput),
        ({"prompt": [{"role": "user", "content": "Hello!"}], "model_id": "m", "deadline": 1}, ServerlessInput),
        ({}, ServerlessInput),
        (SEED_GRAPH, GraphServerlessInput),
        ({"slugIdentifier": "count", "modelId": "m", "prompt": "1 2 "}, GraphServerlessInput),
        ({"request_type": "forward-pass", "prompt": "1 2 "}, GraphServerlessInput),
        ({"requestType": "nothing", "action": "generate"}, GraphServerlessInput),
    ],
)
def test_the_serverless_surface_tells_the_two_kinds_of_jobs_apart(input_: dict[str, Any], kind: type[Any]) -> None:
    request = ServerlessRequest.model_validate({"input": input_})
    assert type(request.input) is kind
    assert ServerlessRequest(input=request.input).input is request.input


def test_a_signed_url_is_never_shown() -> None:
    signed = {"signed_url": "https://storage/x?signature=secret"}
    shown = [
        GraphGenerationRequest.model_validate(SEED_GRAPH | signed),
        GraphPruneRequest.model_validate(signed),
        ServerlessRequest.model_validate({"input": SEED_GRAPH | signed}),
        ServerlessRequest.model_validate({"input": SEED_GRAPH | {"signedUrl": signed["signed_url"]}}),
        ServerlessRequest.model_validate({"input": signed}),
    ]
    for body in shown:
        assert "secret" not in f"{body!r} {body}"
    assert shown[0].signed_url == shown[2].input.request().signed_url == shown[3].input.request().signed_url
    for wrong in ({"input": signed | {"request_type": 1}}, {"input": signed | {"types": ["MAYBE"]}}):
        with pytest.raises(ValidationError) as refused:
            ServerlessRequest.model_validate(wrong)
        assert "secret" not in str(refused.value)
    with pytest.raises(InvalidRequest) as refusal:
        GraphServerlessInput.model_validate({"signed_url": ["https://storage/x?signature=secret"]}).request()
    assert "secret" not in f"{refusal.value.text} {refusal.value!r}"
