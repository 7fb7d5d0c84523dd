"""Graphs, interventions and their neighbours over HTTP: the peer's wire, and the truth of plain core."""

import asyncio
import json
from pathlib import Path
from typing import Any

import httpx
import jsonschema
import pytest

from core.graph.document import read_document
from core.graph.rules import check
from tests.serve.conftest import DEMO, GRAPH_TOKEN_LIMIT, SECRET, RunningCluster
from tests.serve.demo_graphs import COUNT, LONG, STEER, demo, demo_effects, expected, graph_request

SCHEMA = json.loads((Path(__file__).parents[1] / "contract" / "data" / "graph-json.schema.json").read_text())
TEXTS = ("7", "1 2 ", "Hello", "Le chat dort sur", "The capital of France is", "uno dos tres cuatro", LONG[:40], LONG)


def graph(cluster: RunningCluster, request: dict[str, Any]) -> dict[str, Any]:
    """The graph that a request is answered with, opened as viewers open it."""
    response = cluster.post("/generate-graph", request)
    assert response.status_code == 200, response.text
    assert response.headers["content-type"] == "application/json"
    check_document(response.content)
    return response.json()


def check_document(content: bytes) -> None:
    document = json.loads(content, parse_constant=pytest.fail)
    assert [error.message for error in jsonschema.Draft7Validator(SCHEMA).iter_errors(document)] == []
    check(read_document(content))


def node_ids(document: dict[str, Any]) -> list[str]:
    return [node["node_id"] for node in document["nodes"]]


def assert_same_graph(document: dict[str, Any], other: dict[str, Any]) -> None:
    """The same nodes and links, numbers within rounding."""
    assert node_ids(document) == node_ids(other)
    for node, twin in zip(document["nodes"], other["nodes"], strict=True):
        numbers = ("influence", "activation", "token_prob")
        assert {key: node[key] for key in node if key not in numbers} == {
            key: twin[key] for key in twin if key not in numbers
        }
        for key in numbers:
            assert node[key] == (None if twin[key] is None else pytest.approx(twin[key], rel=1e-3, abs=1e-4))
    links, others = ({(one["source"], one["target"]): one["weight"] for one in d["links"]} for d in (document, other))
    scale = max(map(abs, others.values()))
    assert links.keys() == others.keys()
    assert all(weight == pytest.approx(others[ends], abs=1e-5 * scale) for ends, weight in links.items())


@pytest.mark.parametrize(
    "request_", [COUNT, graph_request("The capital of France is", max_feature_nodes=60)], ids=["count", "capital"]
)
def test_a_graph_is_the_one_that_gradients_give(cluster: RunningCluster, request_: dict[str, Any]) -> None:
    document = graph(cluster, request_)
    assert_same_graph(document, expected(request_))
    metadata = document["metadata"]
    assert metadata["slug"] == request_["slug_identifier"]
    assert metadata["prompt"] == "".join(metadata["prompt_tokens"])
    assert metadata["schema_version"] == 1
    assert metadata["info"]["generator"]["name"] == "Rayscope"
    assert metadata["generation_settings"]["max_feature_nodes"] == request_["max_feature_nodes"]
    assert metadata["pruning_settings"]["node_threshold"] == 0.8
    assert 0 < metadata["replacement_score"] < metadata["completeness_score"] < 1


def test_a_target_can_be_an_id_or_a_text(cluster: RunningCluster) -> None:
    _, tokenizer, _ = demo()
    (three,) = tokenizer.encode_rendered("3").ids
    other = 17
    request = graph_request("1 2 ", edge_threshold=0.85)
    document = graph(cluster, request | {"targets": ["3", other]})
    assert_same_graph(document, expected(request, (three, other)))
    logits = [node for node in document["nodes"] if node["feature_type"] == "logit"]
    assert {node["feature"] for node in logits} == {three, other}


def test_labels_stand_on_the_features_that_they_name(cluster: RunningCluster) -> None:
    plain = graph(cluster, COUNT)
    named = next(node for node in plain["nodes"] if node["feature_type"] == "cross layer transcoder")
    layer, index, _ = named["node_id"].split("_")
    labelled = graph(cluster, COUNT | {"labels": {f"{layer}_{index}": "numbers in order"}})
    clerps = {node["node_id"]: node["clerp"] for node in labelled["nodes"]}
    for node_id, clerp in clerps.items():
        if node_id.startswith(f"{layer}_{index}_"):
            assert clerp == "numbers in order"
        else:
            assert clerp != "numbers in order"
    assert clerps[named["node_id"]] == "numbers in order"


def test_thresholds_of_0_and_1_are_exact(cluster: RunningCluster) -> None:
    effects = demo_effects(COUNT)
    everything = graph(cluster, COUNT | {"node_threshold": 1, "edge_threshold": 1})
    assert len(everything["links"]) > 1000
    features = [node for node in everything["nodes"] if node["feature_type"] == "cross layer transcoder"]
    assert len(features) <= len(effects.features)
    assert_same_graph(everything, expected(COUNT | {"node_threshold": 1, "edge_threshold": 1}))
    nothing = COUNT | {"node_threshold": 0, "edge_threshold": 0}
    assert_same_graph(graph(cluster, nothing), expected(nothing))
    response = cluster.post("/generate-graph", nothing | {"signed_url": "https://storage.example.com/graph"})
    assert response.status_code == 400
    assert "viewers cannot lay out" in response.json()["error"]
    few = graph(cluster, COUNT | {"node_threshold": 0.6, "edge_threshold": 0.9})
    assert set(node_ids(few)) < set(node_ids(everything))


def test_any_number_of_features_can_be_asked_for(cluster: RunningCluster) -> None:
    n_active = len(demo_effects(COUNT).features)
    everything = graph(cluster, COUNT | {"max_feature_nodes": 0})
    assert everything["links"] == graph(cluster, COUNT | {"max_feature_nodes": n_active + 1})["links"]
    assert "max_feature_nodes" not in everything["metadata"]["generation_settings"]


def test_a_prompt_of_one_token_has_a_graph(cluster: RunningCluster) -> None:
    document = graph(cluster, graph_request("7"))
    assert len(document["metadata"]["prompt_tokens"]) == 2
    assert_same_graph(document, expected(graph_request("7")))


def test_a_prompt_may_have_as_many_tokens_as_the_limit_says(cluster: RunningCluster) -> None:
    _, tokenizer, _ = demo()
    ids = tokenizer.encode_rendered(LONG * 3).ids
    text = tokenizer.hf.decode(ids[:GRAPH_TOKEN_LIMIT])
    assert len(tokenizer.encode_rendered(text).ids) == GRAPH_TOKEN_LIMIT
    wishes = {"max_feature_nodes": 50}
    assert graph(cluster, graph_request(text, **wishes))["nodes"]
    longer = text + " 7"
    n_tokens = len(tokenizer.encode_rendered(longer).ids)
    refused = cluster.post("/generate-graph", graph_request(longer, **wishes))
    assert refused.status_code == 400
    words = f"Prompt exceeds token limit ({n_tokens} > {GRAPH_TOKEN_LIMIT})"
    assert refused.json()["error"] == refused.json()["detail"] == words


def test_a_conversation_is_explained_as_its_template_writes_it(cluster: RunningCluster) -> None:
    messages = [{"role": "user", "content": "Hello!"}]
    document = graph(cluster, graph_request("", messages=messages, max_feature_nodes=100))
    assert "Hello!" in document["metadata"]["prompt"]
    assert document["metadata"]["prompt"] != "Hello!"


def test_the_forward_pass_tells_what_comes_next(cluster: RunningCluster) -> None:
    import torch

    model, tokenizer, _ = demo()
    answer = cluster.post("/forward-pass", {"prompt": "1 2 ", "max_n_logits": 5, "desired_logit_prob": 0.9}).json()
    ids = tokenizer.bos_prompt("1 2 ").ids
    with torch.no_grad():
        truth = model.module(input_ids=torch.tensor([list(ids)])).logits[0, -1].double().softmax(-1)
    assert answer["prompt"] == "1 2 "
    assert answer["input_tokens"] == list(tokenizer.str_tokens(ids))
    found = answer["salient_logits"]
    assert [one["token_id"] for one in found] == truth.argsort(descending=True)[: len(found)].tolist()
    for one in found:
        assert one["probability"] == pytest.approx(truth[one["token_id"]].item(), abs=1e-5)
        assert one["token"] == tokenizer.str_tokens([one["token_id"]])[0]
    assert answer["total_salient_tokens"] == len(found) <= 5
    assert answer["cumulative_probability"] == pytest.approx(sum(one["probability"] for one in found))


def test_the_seeds_steering_request_is_answered_with_objects_or_tuples(cluster: RunningCluster) -> None:
    objects = cluster.post("/steer", STEER)
    assert objects.status_code == 200, objects.text
    answer = objects.json()
    assert set(answer) == {
        "DEFAULT_GENERATION",
        "STEERED_GENERATION",
        "DEFAULT_LOGITS_BY_TOKEN",
        "STEERED_LOGITS_BY_TOKEN",
    }
    assert answer["DEFAULT_GENERATION"].endswith(cluster_text(answer["DEFAULT_LOGITS_BY_TOKEN"]))
    assert "Le chat dort sur" in answer["DEFAULT_GENERATION"]
    _, tokenizer, _ = demo()
    n_prompt = len(tokenizer.bos_prompt("Le chat dort sur").ids)
    for key in ("DEFAULT_LOGITS_BY_TOKEN", "STEERED_LOGITS_BY_TOKEN"):
        rows = answer[key]
        assert all(row["top_logits"] == [] for row in rows[: n_prompt - 1])
        assert all(len(row["top_logits"]) == 3 for row in rows[n_prompt - 1 :])
    following = answer["DEFAULT_LOGITS_BY_TOKEN"][n_prompt]["token"]
    assert answer["DEFAULT_LOGITS_BY_TOKEN"][n_prompt - 1]["top_logits"][0]["token"] == following

    tuples = cluster.post("/steer?format=tuples", STEER).json()
    assert tuples["STEERED_GENERATION"] == answer["STEERED_GENERATION"]
    assert tuples["STEERED_LOGITS_BY_TOKEN"] == [
        [row["token"], [[one["token"], one["prob"]] for one in row["top_logits"]]]
        for row in answer["STEERED_LOGITS_BY_TOKEN"]
    ]


def cluster_text(rows: list[dict[str, Any]]) -> str:
    return "".join(row["token"] for row in rows)


def test_steering_changes_the_text_and_steering_nothing_does_not(cluster: RunningCluster) -> None:
    effects = demo_effects(graph_request(STEER["prompt"]))
    features = effects.features
    last = int(features.position.max())
    strongest = max(
        range(len(features)), key=lambda i: float(features.activation[i]) * int(features.position[i] == last)
    )
    layer, index = int(features.layer[strongest]), int(features.index[strongest])
    there = {"layer": layer, "index": index, "token_active_position": last, "steer_position": last}
    nothing = cluster.post("/steer", STEER | {"features": [there | {"delta": 0}]}).json()
    assert nothing["STEERED_GENERATION"].startswith(nothing["DEFAULT_GENERATION"])
    much = cluster.post("/steer", STEER | {"features": [there | {"delta": 500}]}).json()
    assert much["DEFAULT_GENERATION"] == nothing["DEFAULT_GENERATION"]
    assert not much["STEERED_GENERATION"].startswith(much["DEFAULT_GENERATION"])


FEATURE = {"layer": 1, "index": 17, "token_active_position": 2}


EVERYTHING_WRONG = {"ablate": True, "delta": 1.0, "steer_generated_tokens": True, "steer_position": 99}


@pytest.mark.parametrize(
    ("mended", "words"),
    [
        ({}, "When ablate is True, delta must be None"),
        ({"ablate": False, "delta": None}, "When ablate is False, delta must be provided"),
        ({"delta": None}, "When steer_generated_tokens is True, position must be None"),
        (
            {"delta": None, "steer_generated_tokens": False, "steer_position": None},
            "When steer_generated_tokens is False, position must be provided",
        ),
        ({"delta": None, "steer_generated_tokens": False}, "Position is out of bounds"),
        ({"delta": None, "steer_generated_tokens": False, "steer_position": -1}, "Position is out of bounds"),
    ],
)
def test_a_feature_that_contradicts_itself_is_refused_in_the_peers_words_and_order(
    cluster: RunningCluster, mended: dict[str, Any], words: str
) -> None:
    response = cluster.post("/steer", STEER | {"features": [FEATURE | EVERYTHING_WRONG | mended]})
    assert response.status_code == 400
    assert response.json()["error"] == response.json()["detail"] == words


@pytest.mark.parametrize(
    "feature", [{"layer": 4}, {"layer": -1}, {"index": 1024}, {"index": -1}, {"token_active_position": 77}]
)
def test_a_feature_that_does_not_exist_is_refused_and_no_server_error(
    cluster: RunningCluster, feature: dict[str, Any]
) -> None:
    body = STEER | {"features": [FEATURE | {"delta": 1.0, "steer_position": 2} | feature]}
    assert cluster.post("/steer", body).status_code == 400


@pytest.mark.parametrize("path", ["/generate-graph", "/steer", "/graphs"])
def test_a_model_that_is_not_served_is_refused_in_the_peers_words(cluster: RunningCluster, path: str) -> None:
    body = {"/steer": STEER}.get(path, COUNT) | {"model_id": "google/gemma-9"}
    response = cluster.post(path, body)
    assert response.status_code == 400
    words = f"Model 'google/gemma-9' is not available. Only '{DEMO}' is currently loaded."
    assert response.json()["error"] == response.json()["detail"] == words


@pytest.mark.parametrize(
    "wish",
    [
        {"node_threshold": 1.5},
        {"edge_threshold": -0.1},
        {"max_n_logits": 0},
        {"max_n_logits": 1000},
        {"desired_logit_prob": 2},
        {"batch_size": 0},
        {"max_feature_nodes": -1},
        {"targets": []},
        {"targets": ["two words"]},
        {"targets": [10**6]},
        {"labels": {"9_1": "x"}},
        {"labels": {"nonsense": "x"}},
        {"slug_identifier": "no/slashes"},
        {"enable_qk_tracing": True},
        {"prompt": "\x00" * 200},
        {"transcoder_set": "clt-of-nobody"},
    ],
    ids=str,
)
def test_what_can_not_be_done_is_refused_with_a_reason(cluster: RunningCluster, wish: dict[str, Any]) -> None:
    response = cluster.post("/generate-graph", COUNT | wish)
    assert response.status_code == 400, response.text
    assert response.json()["error"]


def test_a_chat_prompt_is_read_back(cluster: RunningCluster) -> None:
    prompt = "<bos><|user|>\nLe chat dort sur le tapis.<|end|>\n<|assistant|>\n"
    answer = cluster.post("/parse-chat-prompt", {"prompt": prompt}).json()
    assert answer["is_chat"]
    assert answer["messages"][0] == {"role": "user", "content": "Le chat dort sur le tapis."}
    assert answer["messages"][1]["role"] == "assistant"
    assert answer["prompt"] == prompt.removeprefix("<bos>")
    assert answer["unsteerable_positions"] == [0]
    plain = cluster.post("/parse-chat-prompt", {"prompt": "Le chat dort"}).json()
    assert (plain["messages"], plain["is_chat"], plain["prompt"]) == (None, False, "Le chat dort")


def test_nobody_is_busy_when_nothing_is_asked(cluster: RunningCluster) -> None:
    assert cluster.get("/check-busy").json() == {"busy": False}


def test_graphs_at_once_are_bit_for_bit_those_made_one_after_the_other(cluster: RunningCluster) -> None:
    requests = [graph_request(text, slug_identifier=f"graph-{at}") for at, text in enumerate(TEXTS)]
    alone = [graph(cluster, request) for request in requests]

    async def run() -> list[Any]:
        async with httpx.AsyncClient(timeout=120) as client:
            asking = [client.post(f"{cluster.url}/generate-graph", json=request) for request in reversed(requests)]
            steering = [client.post(f"{cluster.url}/steer", json=STEER) for _ in range(3)]
            return [response.json() for response in await asyncio.gather(*asking, *steering)]

    steered = cluster.post("/steer", STEER).json()
    *together, first, second, third = asyncio.run(run())
    for one, other in zip(alone, reversed(together), strict=True):
        assert (one["nodes"], one["links"]) == (other["nodes"], other["links"])
    assert len({len(one["links"]) for one in alone}) == len(TEXTS)
    for answer in (first, second, third):
        assert answer["STEERED_GENERATION"] == steered["STEERED_GENERATION"]
        assert answer["DEFAULT_GENERATION"] == steered["DEFAULT_GENERATION"]


@pytest.mark.parametrize("path", ["/generate-graph", "/forward-pass", "/steer", "/parse-chat-prompt", "/graphs"])
def test_a_locked_door_refuses_in_the_peers_words(cluster: RunningCluster, path: str) -> None:
    body = {"/steer": STEER, "/forward-pass": {"prompt": "1 2 "}, "/parse-chat-prompt": {"prompt": "1"}}.get(
        path, COUNT
    )
    url = f"{cluster.locked_url}{path}"
    missing = httpx.post(url, json=body, timeout=60)
    assert (missing.status_code, missing.json()["detail"]) == (400, "x-secret-key header missing")
    assert missing.json()["error"] == missing.json()["detail"]
    wrong = httpx.post(url, json=body, headers={"x-secret-key": "wrong"}, timeout=60)
    assert (wrong.status_code, wrong.json()["detail"]) == (403, "Invalid x-secret-key")
    # Whatever else is wrong with a request, who may not ask is not told.
    assert httpx.post(url, json={}, timeout=60).status_code == 400
    right = httpx.post(url, json=body, headers={"x-secret-key": SECRET}, timeout=60)
    assert right.status_code in (200, 202), right.text


def test_who_asks_whether_the_cluster_is_busy_needs_no_secret(cluster: RunningCluster) -> None:
    response = httpx.get(f"{cluster.locked_url}/check-busy", timeout=60)
    assert (response.status_code, response.json()) == (200, {"busy": False})
    assert httpx.get(f"{cluster.locked_url}/graphs/x.y", timeout=60).status_code == 400
