import json

import pytest
from pydantic import ValidationError

from core.wire.base import render
from core.wire.cluster import (
    CapabilitiesResponse,
    Endpoints,
    ErrorBody,
    HealthResponse,
    JobsInfo,
    ModelInfo,
    ModelsResponse,
    OpenAIModelInfo,
    ReadyResponse,
    SaeCache,
    SchemaErrorBody,
    WorkersInfo,
    schema_problems,
)
from core.wire.rankings import ActivationAllRequest


def test_health_has_the_clusters_own_fields_and_the_serverless_counts() -> None:
    jobs = JobsInfo(completed=1, failed=2, in_progress=3, in_queue=4)
    workers = WorkersInfo(idle=0, initializing=1, ready=2, running=2)
    for case in ("camel", "snake"):
        assert json.loads(render(HealthResponse(status="healthy", jobs=jobs, workers=workers), case)) == {
            "status": "healthy",
            "jobs": {"completed": 1, "failed": 2, "inProgress": 3, "inQueue": 4, "retried": 0},
            "workers": {"idle": 0, "initializing": 1, "ready": 2, "running": 2, "throttled": 0, "unhealthy": 0},
        }


def test_openai_clients_find_the_models_in_their_own_words() -> None:
    listing = ModelsResponse(models=[], data=[OpenAIModelInfo(id="rayscope-demo")])
    for case in ("camel", "snake"):
        assert json.loads(render(listing, case)) == {
            "object": "list",
            "models": [],
            {"camel": "transcoderSets", "snake": "transcoder_sets"}[case]: [],
            "data": [{"id": "rayscope-demo", "object": "model", "created": 0, "owned_by": "rayscope"}],
        }


def test_ready_knows_three_states() -> None:
    body = {"status": "starting", "applications": {"gateway": "DEPLOYING"}}
    assert json.loads(render(ReadyResponse.model_validate(body), "camel")) == body
    with pytest.raises(ValidationError):
        ReadyResponse.model_validate(body | {"status": "fine"})


def test_capabilities_are_snake_case_in_schema_and_reply() -> None:
    for model in (CapabilitiesResponse, SaeCache, Endpoints):
        schema = model.model_json_schema()
        assert set(schema["properties"]) == set(model.model_fields)
    cache = SaeCache.model_validate(dict.fromkeys(SaeCache.model_fields, 1))
    assert set(json.loads(render(cache, "camel"))) == set(SaeCache.model_fields)


def test_capabilities_have_every_key_of_the_peer() -> None:
    keys = """model backend device max_concurrent_requests max_tokens token_limit lens_token_limit
    activation_token_limit vram_budget_bytes vram_budget_available_bytes sae_cache max_num_results capture_points
    grad_support hooks_available graph_replay generation_only static_points static_writes frozen_points
    writes_available num_layers sae_sets endpoints"""
    assert set(CapabilitiesResponse.model_fields) == set(keys.split())


def test_models_are_described_in_either_casing() -> None:
    info = ModelInfo.model_validate(
        {
            "id": "rayscope-demo",
            "aliases": [],
            "weights": "rayscope-demo",
            "dtype": "float32",
            "device": "cpu",
            "n_layers": 4,
            "d_model": 64,
            "vocab_size": 1000,
            "chat_template": True,
            "source_sets": [{"id": "res-demo", "sources": [], "n_sources": 4}],
            "runners": [{"name": "demo", "source_sets": ["res-demo"]}],
            "limits": {"token_limit": 200, "generation_limit": 512, "batch_limit": 16, "max_num_results": 1000},
        }
    )
    camel, snake = json.loads(render(info, "camel")), json.loads(render(info, "snake"))
    assert (camel["nLayers"], camel["limits"]["tokenLimit"], camel["sourceSets"][0]["nSources"]) == (4, 200, 4)
    assert (snake["n_layers"], snake["limits"]["token_limit"], snake["source_sets"][0]["n_sources"]) == (4, 200, 4)


def test_an_error_has_the_same_keys_for_every_client() -> None:
    body = ErrorBody(error="Text too long", code="invalid_request", hint=None, request_id="r1")
    for case in ("camel", "snake"):
        assert json.loads(render(body, case)) == {
            "error": "Text too long",
            "code": "invalid_request",
            "hint": None,
            "requestId": "r1",
        }


def test_an_error_may_quote_what_is_not_unicode() -> None:
    body = ErrorBody(error="Unsupported type '\ud800'", code="c", hint="\udfff", request_id="r")
    assert json.loads(render(body, "camel"))["error"] == "Unsupported type '?'"


def test_schema_problems_never_repeat_what_was_sent() -> None:
    with pytest.raises(ValidationError) as refusal:
        ActivationAllRequest.model_validate({"prompt": 12345, "model": "classified"})
    problems = schema_problems(refusal.value.errors())
    body = SchemaErrorBody(error="e", code="c", hint=None, request_id="r", detail=problems)
    text = render(body, "camel").decode()
    assert "12345" not in text
    assert "classified" not in text
    assert ["prompt"] in [problem["loc"] for problem in json.loads(text)["detail"]]
    assert set(json.loads(text)["detail"][0]) == {"loc", "msg", "type"}
    assert "12345" not in str(refusal.value)
