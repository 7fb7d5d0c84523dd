"""What a client can get wrong: each mistake has its status, its message and a way out, and none is a 500."""

import json
import logging

import httpx
import pytest
from ray import serve

from cluster.arguments import ModelAppArgs
from tests.ray_testing import deploy, replicas
from tests.serve.conftest import DEMO, GPT2, SECRET, TOKEN_LIMIT, RunningCluster

SINGLE = {"prompt": "Hello", "model": DEMO, "source": "1-res-demo", "index": "3"}
ALL = {
    "prompt": "Hello",
    "model": DEMO,
    "sourceSet": "res-demo",
    "selectedSources": [],
    "sortByTokenIndexes": [],
    "ignoreBos": True,
}
TOPK = {"prompt": "Hello", "model": DEMO, "source": "1-res-demo", "topK": 2, "ignoreBos": True}


@pytest.mark.parametrize(
    ("path", "body", "status", "words"),
    [
        ("/v1/activation/single", SINGLE | {"model": "nobody"}, 404, "not served"),
        ("/v1/activation/single", SINGLE | {"source": "9-res-demo"}, 404, "9-res-demo"),
        ("/v1/activation/single", SINGLE | {"source": "nonsense"}, 404, "nonsense"),
        ("/v1/activation/single", SINGLE | {"index": "99999999"}, 400, "out of range"),
        ("/v1/activation/single", SINGLE | {"index": "-1"}, 400, "non-negative"),
        ("/v1/activation/single", SINGLE | {"index": "three"}, 400, "non-negative"),
        ("/v1/activation/single", SINGLE | {"index": 3}, 422, "schema"),
        ("/v1/activation/single", {"prompt": "Hello", "model": DEMO}, 400, "exactly one of"),
        ("/v1/activation/single", SINGLE | {"vector": [1.0], "hook": "blocks.0.hook_resid_pre"}, 400, "exactly one"),
        (
            "/v1/activation/single",
            {"prompt": "x", "model": DEMO, "vector": [1.0], "hook": "blocks.0.hook_resid_pre"},
            400,
            "width",
        ),
        (
            "/v1/activation/single",
            {"prompt": "x", "model": DEMO, "vector": [1.0], "hook": "blocks.77.hook_resid_pre"},
            400,
            "hook point",
        ),
        ("/v1/activation/single", SINGLE | {"prompt": "a b " * 200}, 400, "too long"),
        ("/v1/activation/single", SINGLE | {"prompt": "\ud83d"}, 400, "Unicode"),
        ("/v1/activation/single-batch", {"prompts": [], "model": DEMO, "source": "1-res-demo", "index": "1"}, 400, ""),
        (
            "/v1/activation/single-batch",
            {"prompts": ["a"] * 5, "model": DEMO, "source": "1-res-demo", "index": "1"},
            400,
            "maximum of 4",
        ),
        ("/v1/activation/all", ALL | {"sourceSet": "nope"}, 404, "Invalid source set"),
        ("/v1/activation/all", ALL | {"numResults": 0}, 400, "at least 1"),
        ("/v1/activation/all", ALL | {"sortByTokenIndexes": [99]}, 400, "out of range"),
        ("/v1/activation/all", ALL | {"sortByTokenIndexes": [-1]}, 400, "out of range"),
        ("/v1/activation/all", ALL | {"featureFilter": [10**9]}, 400, "featureFilter"),
        ("/v1/activation/all", ALL | {"selectedSources": ["0-nope"]}, 404, "0-nope"),
        ("/v1/activation/topk-by-token", TOPK | {"source": "x"}, 404, "'x'"),
        ("/v1/activation/attention", {"prompt": "x", "model": DEMO, "layer": 44, "head": 0}, 400, "Invalid layer"),
        ("/v1/activation/attention", {"prompt": "x", "model": DEMO, "layer": 0, "head": 99}, 400, "Invalid head"),
        ("/v1/activation/raw", {"prompts": ["x"], "model": DEMO, "layers": [8]}, 400, "out of range"),
        ("/v1/activation/raw", {"prompts": ["x"], "layers": [0]}, 400, "several models"),
        ("/v1/util/sae-vector", {"model": DEMO, "source": "1-res-demo", "index": -1}, 400, "out of range"),
        ("/v1/util/sae-vector", {"model": DEMO, "source": "1-res-demo", "index": 10**7}, 400, "out of range"),
        (
            "/v1/util/sae-topk-by-decoder-cossim",
            {"vector": [1.0], "model": DEMO, "source": "1-res-demo", "numResults": 1},
            400,
            "width",
        ),
        (
            "/v1/util/sae-topk-by-decoder-cossim",
            {"vector": [1.0], "model": DEMO, "source": "fake", "numResults": 1},
            404,
            "Invalid SAE ID or type: fake",
        ),
        (
            "/v1/util/similarity-matrix-pred",
            {"modelId": DEMO, "sourceId": "1-res-demo", "index": 0, "text": "x"},
            400,
            "not temporal",
        ),
        ("/v1/apply-chat-template", {"messages": [{"role": "user", "content": "x"}], "model": GPT2}, 400, "template"),
    ],
)
def test_a_mistake_is_refused_with_the_reason(
    cluster: RunningCluster, path: str, body: dict[str, object], status: int, words: str
) -> None:
    response = httpx.post(f"{cluster.url}{path}", content=json.dumps(body), timeout=60)
    answer = response.json()
    assert response.status_code == status, answer
    assert words in answer["error"]
    assert answer["code"]
    assert answer["requestId"] == response.headers["x-request-id"]


def test_the_prompt_limit_is_exact(cluster: RunningCluster) -> None:
    tokens = cluster.post("/v1/tokenize", {"text": "a" * 20, "model": DEMO}).json()["tokens"]
    assert len(tokens) > 2
    text, length = "", 0
    while length < TOKEN_LIMIT:
        text += " 7"
        length = len(cluster.post("/v1/tokenize", {"text": text, "model": DEMO}).json().get("tokens", []))
    assert length == TOKEN_LIMIT
    assert cluster.post("/v1/activation/single", SINGLE | {"prompt": text}).status_code == 200
    over = cluster.post("/v1/activation/single", SINGLE | {"prompt": text + " 7"})
    assert over.status_code == 400
    assert over.json()["error"] == f"Text too long: {TOKEN_LIMIT + 1} tokens, max is {TOKEN_LIMIT}"


@pytest.mark.parametrize(
    "prompt", ["", "a", "日本語 и русский", "👩‍👩‍👧‍👦 🏳️‍🌈", "\u0000\u200b", "<bos>", "<bos><bos>x"]
)
def test_any_text_is_a_prompt(cluster: RunningCluster, prompt: str) -> None:
    for model, source in ((DEMO, "1-res-demo"), (GPT2, "1-res-jb")):
        single = cluster.post("/v1/activation/single", SINGLE | {"prompt": prompt, "model": model, "source": source})
        assert single.status_code == 200, single.text
        answer = single.json()
        assert len(answer["activation"]["values"]) == len(answer["tokens"]) == len(answer["tokensIsSpecial"]) >= 1
        by_token = cluster.post(
            "/v1/activation/topk-by-token", TOPK | {"prompt": prompt, "model": model, "source": source}
        )
        assert by_token.status_code == 200


def test_the_reply_has_the_casing_of_the_request(cluster: RunningCluster) -> None:
    camel = cluster.post("/v1/activation/all", ALL).json()
    assert "sumValues" in camel["activations"][0]
    snake = {"source_set": "res-demo", "selected_sources": [], "sort_by_token_indexes": [], "ignore_bos": True}
    answer = cluster.post("/v1/activation/all", {"prompt": "Hello", "model": DEMO} | snake).json()
    assert "sum_values" in answer["activations"][0]
    assert cluster.post("/v1/activation/all", {"prompt": "Hello", "model": DEMO, "SourceSet": "x"}).status_code == 422


def test_malformed_json_is_a_schema_error_without_the_input(cluster: RunningCluster) -> None:
    response = httpx.post(f"{cluster.url}/activations-test", content='{"secret": "hunter2", ', timeout=60)
    assert response.status_code == 422
    assert "hunter2" not in response.text
    wrong_type = cluster.post("/activations-test", {"secret": "hunter2", "text": 5, "model": DEMO})
    assert wrong_type.status_code == 422
    assert "hunter2" not in wrong_type.text


def test_a_model_that_sleeps_answers_late_or_says_so_in_time(cluster: RunningCluster) -> None:
    """Scaled to zero, a model needs seconds to wake: a hurried client gets a typed error, a patient one its answer."""
    from deployments.app import build_model_app

    args = {"model": "google/gemma-2-2b-it", "device": "cpu", "runners": [{"min_replicas": 0}]}
    deploy(build_model_app, ModelAppArgs.model_validate(args), "sleeper", None)
    assert replicas("sleeper", "Runner") == 0
    body = {"prompts": ["Hi"], "model": "gemma-2-2b-it", "layers": [0]}
    late = cluster.post("/v1/activation/raw", body, **{"x-request-timeout-seconds": "3"})
    assert (late.status_code, late.json()["code"]) == (504, "deadline_exceeded")
    assert cluster.post("/v1/activation/raw", body).status_code == 200
    serve.delete("sleeper")


def test_json_is_understood_without_a_content_type(cluster: RunningCluster) -> None:
    for content_type in ({}, {"content-type": "application/x-www-form-urlencoded"}):
        response = httpx.post(
            f"{cluster.url}/v1/tokenize", content=json.dumps({"text": "a", "model": DEMO}), headers=content_type
        )
        assert response.status_code == 200


def test_a_locked_door_wants_the_secret(cluster: RunningCluster, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    url = f"{cluster.locked_url}/v1/activation/single"
    for headers in ({}, {"x-secret-key": "wrong"}, {"x-secret-key": SECRET + " "[:0] + "x"}):
        refused = httpx.post(url, json=SINGLE, headers=headers, timeout=60)
        assert refused.status_code == 401
        assert refused.json()["error"] == "Invalid or missing X-SECRET-KEY header"
        assert "access-control-allow-origin" in httpx.post(url, json=SINGLE, headers={"origin": "http://x"}).headers
    assert httpx.post(url, json=SINGLE, headers={"X-Secret-Key": SECRET}, timeout=60).status_code == 200
    assert httpx.get(f"{cluster.locked_url}/health", timeout=60).json()["status"] == "healthy"
    body = {"text": "Hello", "model": DEMO, "layer": "1-res-demo", "index": "3"}
    assert httpx.post(f"{cluster.locked_url}/activations-test", json=body, timeout=60).status_code == 401
    body["secret"] = SECRET
    assert httpx.post(f"{cluster.locked_url}/activations-test", json=body, timeout=60).status_code == 200


def test_a_huge_body_is_refused_before_it_is_parsed(cluster: RunningCluster) -> None:
    response = cluster.post("/v1/activation/single", SINGLE | {"prompt": "x" * 11_000_000})
    assert response.status_code == 413
