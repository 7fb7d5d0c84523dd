"""The persona monitor over HTTP: chats measured along the demo's assistant axis, before and after steering."""

import json
from typing import Any

import httpx
import neuronpedia_inference_client as npc
import numpy as np
import pytest
import torch
import yaml
from pydantic.alias_generators import to_snake
from safetensors.numpy import load_file

from core.demo import ARTEFACTS
from core.demo.steering import steered as steered_by_hook
from tests.serve.conftest import DEMO, SECRET, RunningCluster
from tests.truth import Truth, folder_sae

STRENGTH = 6.0
FEATURE = {"model": DEMO, "source": "1-res-demo", "index": 2, "strength": STRENGTH}
BODY: dict[str, Any] = {
    "prompt": [
        {"role": "user", "content": "Où dort le chat ?"},
        {"role": "assistant", "content": "Le chat dort sur le tapis."},
        {"role": "user", "content": "Merci !"},
    ],
    "model": DEMO,
    "steerMethod": "SIMPLE_ADDITIVE",
    "normalizeSteering": False,
    "types": ["STEERED", "DEFAULT"],
    "features": [FEATURE],
    "nCompletionTokens": 16,
    "temperature": 0,
    "strengthMultiplier": 1,
    "freqPenalty": 0,
    "seed": 16,
    "steerSpecialTokens": True,
    "isAssistantAxis": True,
}
PERSONA = ARTEFACTS / "persona"


@pytest.fixture(scope="module")
def demo() -> Truth:
    return Truth(str(ARTEFACTS / "model"))


@pytest.fixture(scope="module")
def answer(cluster: RunningCluster) -> Any:
    response = cluster.post("/v1/steer/completion-chat", BODY)
    assert response.status_code == 200, response.text
    return response.json()


def projection(mean: np.ndarray) -> float:
    """Neuronpedia's formula for the first component of an l2-mean axis, in float64."""
    axis = yaml.safe_load((PERSONA / "persona.yaml").read_text())["axes"][0]
    assert axis["scaler"] == "l2-mean"
    saved = {name: tensor.astype(np.float64) for name, tensor in load_file(PERSONA / axis["file"]).items()}
    shifted = mean - saved["scaler_mean"]
    scaled = shifted / max(np.linalg.norm(shifted), 1e-12)
    contrast = saved["contrast"].reshape(-1)
    return float((scaled - saved["mean"]) @ (-contrast / np.linalg.norm(contrast)))


def expected(demo: Truth, messages: list[dict[str, str]], strength: float) -> list[float]:
    """The value of each assistant message, from one plain forward over the closed conversation."""
    row = folder_sae(ARTEFACTS / "res-demo" / "1-res-demo").W_dec[2]
    rendered: list[list[int]] = [
        demo.tokenizer.apply_chat_template(messages[:n], tokenize=True, return_dict=True)["input_ids"] if n else []
        for n in range(len(messages) + 1)
    ]
    with torch.no_grad(), steered_by_hook(demo.model, 1, row, strength):
        states = demo.model(torch.tensor([rendered[-1]]), output_hidden_states=True).hidden_states[3][0].double()
    return [
        projection(states[len(rendered[at]) : len(rendered[at + 1])].mean(0).numpy())
        for at, message in enumerate(messages)
        if message["role"] == "assistant"
    ]


def test_turns_are_measured_before_and_after_steering(answer: Any, demo: Truth) -> None:
    assert [entry["type"] for entry in answer["assistantAxis"]] == ["STEERED", "DEFAULT"]
    for entry, output in zip(answer["assistantAxis"], answer["outputs"], strict=True):
        (title,) = entry["pcTitles"]
        messages = output["chatTemplate"]
        said = [message["content"] for message in messages if message["role"] == "assistant"]
        assert [turn["snippet"] for turn in entry["turns"]] == said
        values = [turn["pcValues"][title] for turn in entry["turns"]]
        assert values == pytest.approx(expected(demo, messages, 0.0), abs=1e-3)
        if entry["type"] == "STEERED":
            capped = [turn["pcValuesPostCap"][title] for turn in entry["turns"]]
            assert capped == pytest.approx(expected(demo, messages, STRENGTH), abs=1e-3)
            assert capped != pytest.approx(values, abs=1e-2)
        else:
            assert all("pcValuesPostCap" not in turn for turn in entry["turns"])


def test_a_stream_ends_with_the_axis(cluster: RunningCluster, answer: Any) -> None:
    with httpx.stream(
        "POST", f"{cluster.url}/v1/steer/completion-chat", json=BODY | {"stream": True}, timeout=60
    ) as stream:
        events = [json.loads(line.removeprefix("data: ")) for line in stream.iter_lines() if line.startswith("data: ")]
    assert events[-1] == answer
    assert all("assistantAxis" not in event for event in events[:-1])


def test_the_axis_is_there_only_for_who_asks(cluster: RunningCluster) -> None:
    assert "assistantAxis" not in cluster.post("/v1/steer/completion-chat", BODY | {"isAssistantAxis": False}).json()


def test_the_published_client_reads_the_axis(cluster: RunningCluster, answer: Any) -> None:
    request = npc.SteerCompletionChatPostRequest.from_dict({to_snake(key): value for key, value in BODY.items()})
    configuration = npc.Configuration(host=f"{cluster.locked_url}/v1", api_key={"SimpleSecretAuth": SECRET})
    with npc.ApiClient(configuration) as api_client:
        read = npc.DefaultApi(api_client).steer_completion_chat_post(request)
    assert read.assistant_axis is not None
    assert [entry.type for entry in read.assistant_axis] == ["STEERED", "DEFAULT"]
    turn = read.assistant_axis[0].turns[-1]
    assert turn.pc_values == pytest.approx(answer["assistantAxis"][0]["turns"][-1]["pcValues"])


def test_a_callers_own_directions_are_read_over_any_text(cluster: RunningCluster, demo: Truth) -> None:
    rng = np.random.default_rng(0)
    direction, centre = rng.normal(size=(2, 128))
    read = {"name": "mine", "hook": "blocks.1.hook_resid_post", "direction": direction.tolist()}
    reads = [read, read | {"name": "centred", "centre": centre.tolist(), "normalize": "l2", "over": "all"}]
    body = {key: value for key, value in BODY.items() if key not in ("steerSpecialTokens", "isAssistantAxis")}
    asked = body | {"prompt": "Le chat dort sur", "types": ["DEFAULT"], "vectorReads": reads}
    answer = cluster.post("/v1/steer/completion", asked).json()
    ids = demo.ids("Le chat dort sur")
    written = demo.tokenizer(answer["outputs"][0]["output"], add_special_tokens=False)["input_ids"]
    with torch.no_grad():
        x = demo.model(torch.tensor([ids + written]), output_hidden_states=True).hidden_states[2][0].double().numpy()
    whole = x.mean(0) - centre
    expected = [
        [x[: len(ids)].mean(0) @ direction, x[len(ids) :].mean(0) @ direction],
        [(whole / np.linalg.norm(whole)) @ direction],
    ]
    (entry,) = answer["vectorReads"]
    assert [found["name"] for found in entry["reads"]] == ["mine", "centred"]
    for found, values in zip(entry["reads"], expected, strict=True):
        assert found["values"] == pytest.approx(values, abs=2e-3)


def test_over_a_chat_they_are_read_per_message(cluster: RunningCluster) -> None:
    read = {"name": "mine", "hook": "blocks.1.hook_resid_post", "direction": [1.0] * 128}
    answer = cluster.post("/v1/steer/completion-chat", BODY | {"vectorReads": [read]}).json()
    assert [len(entry["reads"][0]["values"]) for entry in answer["vectorReads"]] == [4, 4]


def test_a_direction_that_does_not_fit_is_refused_before_anything_is_written(cluster: RunningCluster) -> None:
    read = {"name": "mine", "hook": "blocks.1.hook_resid_post", "direction": [1.0] * 7}
    response = cluster.post("/v1/steer/completion-chat", BODY | {"vectorReads": [read], "stream": True})
    assert response.status_code == 400
    assert "has 7 numbers" in response.json()["error"]
