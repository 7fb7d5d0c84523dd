"""Steering over HTTP: the effect on the text, streams, refusals, and what happens when a client leaves."""

import json
import time
from collections.abc import Iterator
from typing import Any

import httpx
import neuronpedia_inference_client as npc
import pytest
import torch
from ray._common.test_utils import wait_for_condition

from core.demo import ARTEFACTS
from core.demo.steering import complete, language_of
from core.demo.steering import steered as steered_by_hook
from core.demo.tokenizer import load_tokenizer
from core.exchange.steering import MOST_TYPES
from tests.serve.conftest import DEMO, GPT2, SECRET, TOKEN_LIMIT, RunningCluster
from tests.truth import Truth, folder_sae

FRENCH = ["Le chat dort sur", "Les enfants chantent", "Elle mange"]
STRENGTH = 12.8
SPANISH = {"model": DEMO, "source": "1-res-demo", "index": 2, "strength": STRENGTH}
TEXT: dict[str, Any] = {
    "prompt": FRENCH[0],
    "model": DEMO,
    "steerMethod": "SIMPLE_ADDITIVE",
    "normalizeSteering": False,
    "types": ["STEERED", "DEFAULT"],
    "features": [SPANISH],
    "nCompletionTokens": 20,
    "temperature": 0,
    "strengthMultiplier": 1,
    "freqPenalty": 0,
    "seed": 16,
}
MESSAGES = [{"role": "user", "content": "Où dort le chat ?"}]
CHAT = TEXT | {"prompt": MESSAGES, "steerSpecialTokens": False}
ROUTES = pytest.mark.parametrize(
    ("path", "body"), [("/v1/steer/completion", TEXT), ("/v1/steer/completion-chat", CHAT)]
)


@pytest.fixture(scope="module")
def demo() -> Truth:
    return Truth(str(ARTEFACTS / "model"))


def completed(cluster: RunningCluster, **changes: Any) -> dict[str, str]:
    """The texts by type."""
    response = cluster.post("/v1/steer/completion", TEXT | changes)
    assert response.status_code == 200, response.text
    return {output["type"]: output["output"] for output in response.json()["outputs"]}


def events(lines: Iterator[str]) -> Iterator[Any]:
    """The bodies of server-sent events, comments left out."""
    for line in lines:
        assert line == "" or line.startswith((":", "data: ")), line
        if line.startswith("data: "):
            yield json.loads(line.removeprefix("data: "))


def streamed(cluster: RunningCluster, path: str, body: dict[str, Any]) -> list[Any]:
    with httpx.stream("POST", f"{cluster.url}{path}", json=body | {"stream": True}, timeout=60) as response:
        assert response.status_code == 200
        assert response.headers["content-type"].startswith("text/event-stream")
        return list(events(response.iter_lines()))


def running(cluster: RunningCluster) -> int:
    """Texts that the demo's replica is writing."""
    return cluster.get(f"/v1/steer/health?model={DEMO}").json()["stats"]["num_running_requests"]


@pytest.mark.parametrize("prompt", FRENCH)
def test_french_goes_on_in_spanish_where_it_is_steered(cluster: RunningCluster, demo: Truth, prompt: str) -> None:
    texts = completed(cluster, prompt=prompt)
    assert language_of(texts["DEFAULT"]) == "fr"
    assert language_of(texts["STEERED"]) == "es"
    row = folder_sae(ARTEFACTS / "res-demo" / "1-res-demo").W_dec[2].detach()
    tokenizer = load_tokenizer(ARTEFACTS / "model")
    assert texts["DEFAULT"].startswith(complete(demo.model, tokenizer, [prompt])[0])
    with steered_by_hook(demo.model, 1, row, STRENGTH):
        assert texts["STEERED"].startswith(complete(demo.model, tokenizer, [prompt])[0])


def test_a_vector_steers_like_the_feature_whose_row_it_is(cluster: RunningCluster) -> None:
    row = folder_sae(ARTEFACTS / "res-demo" / "1-res-demo").W_dec[2].detach().tolist()
    vector = {"steeringVector": row, "strength": STRENGTH, "hook": "blocks.1.hook_resid_post"}
    assert completed(cluster, features=None, vectors=[vector]) == completed(cluster)


def test_unsteered_text_is_the_same_whatever_accompanies_it(cluster: RunningCluster) -> None:
    drawn = {"temperature": 0.8, "seed": 5}
    alone = completed(cluster, types=["DEFAULT"], features=[], **drawn)
    assert completed(cluster, **drawn)["DEFAULT"] == alone["DEFAULT"]
    assert completed(cluster, types=["DEFAULT", "STEERED"], **drawn)["DEFAULT"] == alone["DEFAULT"]
    others = {completed(cluster, types=["DEFAULT"], temperature=0.8, seed=seed)["DEFAULT"] for seed in range(6)}
    assert len(others) > 1


def test_types_are_answered_in_order_and_as_often_as_listed(cluster: RunningCluster) -> None:
    types = ["DEFAULT", "STEERED", "DEFAULT"]
    outputs = cluster.post("/v1/steer/completion", TEXT | {"types": types}).json()["outputs"]
    assert [output["type"] for output in outputs] == types
    assert outputs[0] == outputs[2]
    assert all("logprobs" not in output for output in outputs)


@torch.no_grad()
def test_scores_are_those_of_a_plain_forward_pass(cluster: RunningCluster, demo: Truth) -> None:
    body = TEXT | {"types": ["DEFAULT"], "nLogprobs": 3, "nCompletionTokens": 6}
    (output,) = cluster.post("/v1/steer/completion", body).json()["outputs"]
    scores = output["logprobs"]
    assert "".join(score["token"] for score in scores) == output["output"]
    ids = demo.ids(TEXT["prompt"] + output["output"])
    logprobs = demo.model(input_ids=torch.tensor([ids])).logits[0].log_softmax(-1)
    start = len(ids) - len(scores)
    for at, score in enumerate(scores, start):
        assert score["logprob"] == pytest.approx(float(logprobs[at - 1, ids[at]]), abs=1e-3)
        best = logprobs[at - 1].topk(3)
        assert [top["logprob"] for top in score["topLogprobs"]] == pytest.approx(best.values.tolist(), abs=1e-3)
        assert score["topLogprobs"][0]["token"] == demo.tokenizer.decode([int(best.indices[0])])


def test_a_conversation_gets_one_more_turn(cluster: RunningCluster) -> None:
    answer = cluster.post("/v1/steer/completion-chat", CHAT).json()
    prompt = "<bos><|user|>\nOù dort le chat ?<|end|>\n<|assistant|>\n"
    assert answer["input"] == {"raw": prompt, "chatTemplate": MESSAGES}
    assert [output["type"] for output in answer["outputs"]] == ["STEERED", "DEFAULT"]
    for output in answer["outputs"]:
        *sent, turn = output["chatTemplate"]
        assert sent == MESSAGES
        assert turn["role"] == "assistant"
        assert turn["content"]
        assert output["raw"].startswith(prompt + turn["content"])
    assert answer["outputs"][0]["raw"] != answer["outputs"][1]["raw"]
    assert "assistantAxis" not in answer


@ROUTES
def test_a_stream_ends_with_the_answer_and_grows_towards_it(
    cluster: RunningCluster, path: str, body: dict[str, Any]
) -> None:
    whole = cluster.post(path, body).json()
    shown = streamed(cluster, path, body)
    assert shown[-1] == whole
    assert len(shown) > 1
    key = "raw" if "input" in whole else "output"
    for event in shown:
        assert event.keys() == whole.keys()
        for output, final in zip(event["outputs"], whole["outputs"], strict=True):
            assert final[key].startswith(output[key])


@ROUTES
def test_deltas_joined_are_the_answer(cluster: RunningCluster, path: str, body: dict[str, Any]) -> None:
    whole = cluster.post(path, body).json()
    shown = streamed(cluster, path, body | {"streamMode": "delta"})
    key = "raw" if "input" in whole else "output"
    for index, final in enumerate(whole["outputs"]):
        assert "".join(event["outputs"][index][key] for event in shown) == final[key]


def test_the_reply_and_the_stream_have_the_casing_of_the_request(cluster: RunningCluster) -> None:
    snake = {
        "steer_method": "SIMPLE_ADDITIVE",
        "normalize_steering": False,
        "n_completion_tokens": 2,
        "strength_multiplier": 1,
        "freq_penalty": 0,
        "steer_special_tokens": True,
    }
    body = {key: CHAT[key] for key in ("prompt", "model", "types", "features", "temperature", "seed")} | snake
    assert "chat_template" in cluster.post("/v1/steer/completion-chat", body).json()["input"]
    assert "chat_template" in streamed(cluster, "/v1/steer/completion-chat", body)[0]["input"]


@pytest.mark.parametrize(
    ("changes", "status", "words"),
    [
        ({"model": "nobody"}, 404, "not served"),
        ({"vectors": []}, 400, "exactly one of features or vectors"),
        ({"features": []}, 400, "at least one"),
        ({"features": [SPANISH | {"source": "9-res-demo"}]}, 404, "9-res-demo"),
        ({"features": [SPANISH | {"index": 10**6}]}, 400, "out of range"),
        ({"features": [SPANISH | {"strength": "12"}]}, 422, "schema"),
        ({"prompt": "a b " * 200}, 400, "too long"),
        ({"prompt": "\ud83d"}, 400, "Unicode"),
        (
            {
                "features": None,
                "vectors": [{"steeringVector": [float("nan")] * 128, "strength": 1, "hook": "blocks.0.hook_resid_pre"}],
            },
            400,
            "inf or nan",
        ),
        ({"nLogprobs": 11}, 422, "schema"),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
def test_a_mistake_is_refused_before_anything_is_streamed(
    cluster: RunningCluster, changes: dict[str, Any], status: int, words: str, stream: bool
) -> None:
    content = json.dumps(TEXT | changes | {"stream": stream})
    response = httpx.post(f"{cluster.url}/v1/steer/completion", content=content, timeout=60)
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/json"
    assert words in response.json()["error"]


def test_a_model_without_a_template_takes_no_messages(cluster: RunningCluster) -> None:
    response = cluster.post("/v1/steer/completion-chat", CHAT | {"model": GPT2, "types": ["DEFAULT"], "features": []})
    assert response.status_code == 400
    assert "no chat template" in response.json()["error"]
    assert "/v1/steer/completion" in response.json()["error"]


def test_a_long_wish_is_cut_to_the_budget(cluster: RunningCluster) -> None:
    models = {entry["id"]: entry for entry in cluster.get("/v1/models").json()["models"]}
    limits = models[DEMO]["limits"]
    assert limits["tokenLimit"] == TOKEN_LIMIT
    # Almost uniform randomness hardly ever ends a text by itself.
    body = TEXT | {"types": ["DEFAULT"] * 4, "temperature": 1000, "nCompletionTokens": 10**6, "nLogprobs": 1}
    outputs = cluster.post("/v1/steer/completion", body).json()["outputs"]
    prompt = len(cluster.post("/v1/tokenize", {"text": TEXT["prompt"], "model": DEMO}).json()["tokens"])
    assert max(len(output["logprobs"]) for output in outputs) == limits["generationLimit"] - prompt


def test_a_client_that_leaves_frees_its_rows(cluster: RunningCluster) -> None:
    long = TEXT | {"types": ["DEFAULT"] * MOST_TYPES, "temperature": 1000, "nCompletionTokens": 10**6}
    started_s = time.monotonic()
    cluster.post("/v1/steer/completion", long)
    whole_s = time.monotonic() - started_s
    with httpx.stream(
        "POST", f"{cluster.url}/v1/steer/completion", json=long | {"stream": True}, timeout=60
    ) as response:
        shown = events(response.iter_lines())
        next(shown)
        assert running(cluster) == MOST_TYPES
        left_s = time.monotonic()
    wait_for_condition(lambda: running(cluster) == 0, timeout=60, retry_interval_ms=50)
    assert time.monotonic() - left_s < whole_s / 2


def test_health_names_the_model_and_what_it_does(cluster: RunningCluster) -> None:
    answer = cluster.get(f"/v1/steer/health?model={DEMO}").json()
    assert answer["stats"]["model_name"] == DEMO
    assert answer["stats"]["num_running_requests"] == 0
    assert DEMO in answer["summary"]


def test_the_seeds_route_wants_the_secret_in_the_body_and_answers_by_type(cluster: RunningCluster) -> None:
    body = {
        "prompt": "Où dort le chat ?",
        "features": [{"layer": "1-res-demo", "index": 2, "strength": STRENGTH}],
        "model": DEMO,
        "instruct": True,
        "types": ["steered", "default"],
        "n_completion_tokens": 12,
        "temperature": 0.7,
        "strength_multiplier": 1,
        "freq_penalty": 0.0,
        "seed": 42,
    }
    url = f"{cluster.locked_url}/completion"
    assert httpx.post(url, json=body, timeout=60).status_code == 401
    answer = httpx.post(url, json=body | {"secret": SECRET}, timeout=60).json()
    assert answer.keys() == {"steered", "default"}
    for written in answer.values():
        user, reply = written["chat_template"]
        assert user == {"content": body["prompt"], "role": "user"}
        assert reply["role"] == "model"
        assert f"<|assistant|>\n{reply['content']}" in written["raw"]
    assert answer["steered"]["raw"] != answer["default"]["raw"]


@pytest.fixture(scope="module")
def client(cluster: RunningCluster) -> Iterator[npc.DefaultApi]:
    configuration = npc.Configuration(host=f"{cluster.locked_url}/v1", api_key={"SimpleSecretAuth": SECRET})
    with npc.ApiClient(configuration) as api_client:
        yield npc.DefaultApi(api_client)


PUBLISHED = {
    "model": DEMO,
    "steer_method": npc.NPSteerMethod.SIMPLE_ADDITIVE,
    "normalize_steering": False,
    "types": [npc.NPSteerType.STEERED, npc.NPSteerType.DEFAULT],
    "features": [npc.NPSteerFeature(**SPANISH)],
    "n_completion_tokens": 20,
    "temperature": 0.0,
    "strength_multiplier": 1.0,
    "freq_penalty": 0.0,
    "seed": 16,
}


def test_the_published_client_completes(client: npc.DefaultApi) -> None:
    answer = client.steer_completion_post(npc.SteerCompletionRequest(prompt=FRENCH[0], n_logprobs=2, **PUBLISHED))
    steered, plain = answer.outputs
    assert (steered.type, plain.type) == ("STEERED", "DEFAULT")
    assert (language_of(steered.output), language_of(plain.output)) == ("es", "fr")
    assert plain.logprobs is not None
    assert all(len(score.top_logprobs) == 2 for score in plain.logprobs)


def test_the_published_client_chats(client: npc.DefaultApi) -> None:
    messages = [npc.NPSteerChatMessage(**message) for message in MESSAGES]
    answer = client.steer_completion_chat_post(
        npc.SteerCompletionChatPostRequest(prompt=messages, steer_special_tokens=False, **PUBLISHED)
    )
    assert answer.input.chat_template == messages
    assert [output.type for output in answer.outputs] == ["STEERED", "DEFAULT"]
    assert all(output.chat_template[-1].role == "assistant" for output in answer.outputs)
    assert answer.assistant_axis is None
