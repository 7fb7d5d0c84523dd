import json
from typing import Any

import pytest
from pydantic import ValidationError

from core.errors import InvalidRequest
from core.wire.base import render
from core.wire.seed_completion import CompletionRequest
from core.wire.steering import (
    GREEDY,
    NPLogprob,
    NPLogprobTop,
    NPSteerCompletionOutput,
    NPSteerMethod,
    NPSteerType,
    SteerCompletionRequest,
    SteerCompletionResponse,
)
from core.wire.steering_chat import (
    NPSteerChatMessage,
    NPSteerChatResult,
    SteerAssistantAxis,
    SteerAssistantAxisTurn,
    SteerCompletionChatRequest,
    SteerCompletionChatResponse,
)

TEXT: dict[str, Any] = {"prompt": "Le chat", **GREEDY}
CHAT: dict[str, Any] = {"prompt": [{"role": "user", "content": "x"}], **GREEDY, "steerSpecialTokens": False}
SNAKE = {"steerMethod": "steer_method", "normalizeSteering": "normalize_steering", "freqPenalty": "freq_penalty"} | {
    "nCompletionTokens": "n_completion_tokens",
    "strengthMultiplier": "strength_multiplier",
}
# The request of the seed document.
SEED = {
    "prompt": "Hey Gemma, whats it like to be you? Please don't be evasive.",
    "secret": "change_me_secret",
    "features": [{"layer": "12-gemmascope-res-16k", "index": 5932, "strength": 30.0}],
    "model": "gemma-2-2b",
    "instruct": True,
    "types": ["steered", "default"],
    "n_completion_tokens": 20,
    "temperature": 0.7,
    "strength_multiplier": 4,
    "freq_penalty": 0.0,
    "seed": 42,
}


def text(**changes: Any) -> SteerCompletionRequest:
    return SteerCompletionRequest.model_validate(TEXT | changes)


def test_what_may_be_left_out_has_the_published_default() -> None:
    request = SteerCompletionRequest.model_validate({k: v for k, v in TEXT.items() if k != "features"})
    assert (request.features, request.vectors, request.stream, request.n_logprobs) == (None, None, False, 0)
    assert (request.stream_mode, request.positions, request.condition, request.top_p) == (
        "cumulative",
        "all",
        None,
        None,
    )
    assert SteerCompletionChatRequest.model_validate(CHAT).is_assistant_axis is False


def test_both_casings_are_read_and_remembered() -> None:
    snake = {SNAKE.get(key, key): value for key, value in TEXT.items()}
    assert SteerCompletionRequest.model_validate(snake).case == "snake"
    assert text().case == "camel"
    assert SteerCompletionRequest.model_validate(snake).model_dump() == text().model_dump()


@pytest.mark.parametrize(
    "wrong",
    [
        {"prompt": 5},
        {"nCompletionTokens": 0},
        {"nCompletionTokens": 3.0},
        {"nCompletionTokens": True},
        {"temperature": -0.1},
        {"temperature": "0"},
        {"temperature": float("nan")},
        {"types": []},
        {"types": ["steered"]},
        {"steerMethod": "simple_additive"},
        {"normalizeSteering": 1},
        {"seed": "16"},
        {"nLogprobs": 11},
        {"nLogprobs": -1},
        {"stream": "yes"},
        {"streamMode": "chunks"},
        {"positions": "prefill"},
        {"topP": 0},
        {"topP": 1.1},
        {"features": [{"model": "m", "source": "s", "index": 1.0, "strength": 1}]},
        {"features": [{"model": "m", "source": "s", "index": 1}]},
        {"features": None, "vectors": [{"steeringVector": ["1"], "strength": 1, "hook": "h"}]},
    ],
)
def test_what_the_schema_forbids_is_no_request(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        text(**wrong)


def test_numbers_may_be_written_as_integers() -> None:
    request = text(temperature=1, seed=7, strengthMultiplier=2, freqPenalty=-1, topP=1)
    assert (request.temperature, request.seed, request.top_p) == (1.0, 7.0, 1.0)


def test_a_vector_with_nan_is_left_to_the_check_that_names_it() -> None:
    vector = {"steeringVector": [float("nan"), float("inf")], "strength": 1, "hook": "blocks.0.hook_resid_pre"}
    directions = text(features=None, vectors=[vector]).directions()
    assert len(directions) == 1


def test_either_features_or_vectors_by_presence() -> None:
    assert text(features=[]).directions() == []
    assert text(features=None, vectors=[]).directions() == []
    for both in ({"features": [], "vectors": []}, {"features": None}):
        with pytest.raises(InvalidRequest, match="exactly one of features or vectors must be provided"):
            text(**both).directions()


def test_ablation_is_a_method_of_ours() -> None:
    assert text(steerMethod="ABLATION").steer_method is NPSteerMethod.ABLATION


def test_a_reply_leaves_out_what_there_is_not() -> None:
    output = NPSteerCompletionOutput(type=NPSteerType.STEERED, output="x")
    assert json.loads(render(SteerCompletionResponse(outputs=[output]), "camel")) == {
        "outputs": [{"type": "STEERED", "output": "x"}]
    }
    conversation = NPSteerChatResult(chat_template=[NPSteerChatMessage(role="user", content="x")], raw="r")
    reply = SteerCompletionChatResponse(outputs=[conversation], input=conversation)
    shown = {"chatTemplate": [{"role": "user", "content": "x"}], "raw": "r"}
    assert json.loads(render(reply, "camel")) == {"outputs": [shown], "input": shown}


def test_a_reply_has_scores_and_axes_in_either_casing() -> None:
    score = NPLogprob(token="a", logprob=-0.5, top_logprobs=[NPLogprobTop(token="a", logprob=-0.5)])
    output = NPSteerCompletionOutput(type=NPSteerType.DEFAULT, output="a", logprobs=[score])
    for case, key in (("camel", "topLogprobs"), ("snake", "top_logprobs")):
        shown = json.loads(render(SteerCompletionResponse(outputs=[output]), case))  # pyright: ignore
        assert shown["outputs"][0]["logprobs"][0][key] == [{"token": "a", "logprob": -0.5}]
    turn = SteerAssistantAxisTurn(pc_values={"Role": 1.0}, snippet="Hello")
    axis = SteerAssistantAxis(type=NPSteerType.DEFAULT, pc_titles=["Role"], turns=[turn])
    conversation = NPSteerChatResult(chat_template=[], raw="")
    reply = SteerCompletionChatResponse(outputs=[], input=conversation, assistant_axis=[axis])
    shown = json.loads(render(reply, "camel"))["assistantAxis"]
    assert shown == [
        {"type": "DEFAULT", "pcTitles": ["Role"], "turns": [{"pcValues": {"Role": 1.0}, "snippet": "Hello"}]}
    ]


def test_the_seeds_request_is_the_same_wish_in_older_words() -> None:
    request = CompletionRequest.model_validate(SEED)
    assert request.secret.get_secret_value() == "change_me_secret"
    assert "change_me_secret" not in repr(request) + request.model_dump_json()
    options = request.as_options()
    assert options.types == [NPSteerType.STEERED, NPSteerType.DEFAULT]
    (feature,) = options.features or []
    assert (feature.source, feature.index, feature.strength) == ("12-gemmascope-res-16k", 5932, 30.0)
    assert (options.strength_multiplier, options.seed, options.n_completion_tokens) == (4.0, 42.0, 20)
    assert options.steer_method is NPSteerMethod.SIMPLE_ADDITIVE


def test_the_seeds_types_are_keys_and_count_once() -> None:
    request = CompletionRequest.model_validate(SEED | {"types": ["default", "default"]})
    assert request.as_options().types == [NPSteerType.DEFAULT]
