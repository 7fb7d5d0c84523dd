"""Bodies of the OpenAI-compatible routes: what is understood, what is refused by name, and what replies look like."""

import json
from typing import Any

import pytest
from pydantic import ValidationError

from core.errors import DeadlineExceeded, InvalidRequest, Overloaded, Unauthorized
from core.wire.base import render
from core.wire.openai import ChatCompletionsRequest, CompletionsRequest, SteeringObject
from core.wire.openai_replies import (
    ChatChunkChoice,
    ChatCompletionsChunk,
    ChatDelta,
    CompletionChoice,
    CompletionsResponse,
    openai_error,
)

COMPLETION = {"model": "m", "prompt": "Hello"}
CHAT = {"model": "m", "messages": [{"role": "user", "content": "Hello"}]}


def completion(**changes: Any) -> CompletionsRequest:
    return CompletionsRequest.model_validate(COMPLETION | changes)


def chat(**changes: Any) -> ChatCompletionsRequest:
    return ChatCompletionsRequest.model_validate(CHAT | changes)


both = pytest.mark.parametrize("request_of", [completion, chat])


@pytest.mark.parametrize(
    ("prompt", "prompts"),
    [
        ("a text", ["a text"]),
        (["one", "two"], ["one", "two"]),
        ([1, 2, 3], [[1, 2, 3]]),
        ([[1, 2], [3]], [[1, 2], [3]]),
    ],
)
def test_a_prompt_is_a_text_or_token_ids_one_or_many(prompt: Any, prompts: Any) -> None:
    assert completion(prompt=prompt).prompts == prompts


@pytest.mark.parametrize("prompt", [[], [[]], [1, "a"], [-1], [True], {"text": "a"}, None])
def test_anything_else_is_no_prompt(prompt: Any) -> None:
    with pytest.raises(ValidationError):
        completion(prompt=prompt)


@both
@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("logit_bias", {"50256": -100}),
        ("response_format", {"type": "json_object"}),
        ("tools", [{"type": "function"}]),
        ("tool_choice", "required"),
        ("best_of", 4),
        ("suffix", "the end"),
        ("top_k", 5),
        ("reasoning_effort", "high"),
        ("steerring", {"features": []}),
    ],
)
def test_what_would_change_the_answer_and_is_not_done_is_refused_by_name(
    request_of: Any, name: str, value: object
) -> None:
    with pytest.raises(ValidationError) as refusal:
        request_of(**{name: value})
    (problem,) = refusal.value.errors()
    assert problem["ctx"]["param"] == name
    assert f"'{name}' is not supported" in problem["msg"]


@both
def test_what_asks_for_nothing_is_accepted(request_of: Any) -> None:
    request_of(
        user="u",
        metadata={"run": "7"},
        store=True,
        logit_bias={},
        tools=[],
        tool_choice="auto",
        response_format={"type": "text"},
        suffix=None,
        best_of=1,
        reasoning_effort=None,
        temperature=None,
        stop=None,
        stream=None,
        stream_options=None,
        n=None,
        seed=None,
        steering=None,
    )


@both
@pytest.mark.parametrize(
    "changes",
    [
        {"temperature": -0.1},
        {"temperature": 2.1},
        {"top_p": 0},
        {"top_p": 1.1},
        {"frequency_penalty": 2.5},
        {"presence_penalty": -2.5},
        {"max_tokens": 0},
        {"n": 0},
        {"seed": 2**63},
        {"stop": ""},
        {"stop": ["a"] * 17},
        {"temperature": float("nan")},
        {"max_tokens": True},
    ],
)
def test_numbers_out_of_range_are_refused(request_of: Any, changes: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        request_of(**changes)


@both
def test_one_stop_string_is_a_list_of_one(request_of: Any) -> None:
    assert request_of(stop="\n").stops == ["\n"]
    assert request_of(stop=["a", "b"]).stops == ["a", "b"]
    assert request_of().stops == []


def test_a_message_may_come_in_parts_of_text_only() -> None:
    parts = [{"type": "text", "text": "Le chat"}, {"type": "text", "text": " dort"}]
    assert chat(messages=[{"role": "user", "content": parts}]).messages[0].text == "Le chat dort"
    with pytest.raises(ValidationError):
        chat(messages=[{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}])


@pytest.mark.parametrize(
    "steering",
    [
        {"feature": []},
        {"features": [{"source": "1-res-demo", "index": 2}]},
        {"features": [{"source": "1-res-demo", "index": 2, "strength": 1.0, "multiplier": 2.0}]},
        {"features": [], "positions": "some"},
        {"features": [], "method": "ADD"},
        {"vectors": [{"hook": "blocks.0.hook_resid_post", "vector": [float("inf")], "strength": 1.0}]},
        {"features": [], "condition": {"source": "1-res-demo", "index": 2, "below": 1.0}},
    ],
)
def test_a_misspelt_or_incomplete_steering_object_is_refused(steering: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        SteeringObject.model_validate(steering)


def test_replies_are_snake_case_whatever_was_asked_for() -> None:
    choice = CompletionChoice(index=0, text="a", logprobs=None, finish_reason="stop")
    answer = CompletionsResponse(id="cmpl-1", created=1, model="m", choices=[choice])
    for case in ("camel", "snake"):
        assert json.loads(render(answer, case)) == {
            "id": "cmpl-1",
            "object": "text_completion",
            "created": 1,
            "model": "m",
            "choices": [{"index": 0, "text": "a", "logprobs": None, "finish_reason": "stop"}],
        }


def test_a_chunk_holds_only_what_is_new() -> None:
    delta = ChatChunkChoice(index=0, delta=ChatDelta(content="a"))
    chunk = json.loads(render(ChatCompletionsChunk(id="c", created=1, model="m", choices=[delta]), "camel"))
    assert chunk["choices"] == [{"index": 0, "delta": {"content": "a"}, "logprobs": None, "finish_reason": None}]
    assert "usage" not in chunk


@pytest.mark.parametrize(
    ("error", "kind", "code"),
    [
        (InvalidRequest("Too long.", "Send less."), "invalid_request_error", "invalid_request"),
        (Unauthorized("No."), "authentication_error", "unauthorized"),
        (Overloaded("Busy.", "Wait."), "rate_limit_error", "overloaded"),
        (DeadlineExceeded("Late."), "server_error", "deadline_exceeded"),
    ],
)
def test_an_error_has_openais_shape_with_the_advice_in_it(error: Any, kind: str, code: str) -> None:
    body = json.loads(render(openai_error(error, "prompt"), "camel"))
    message = error.message if error.hint is None else f"{error.message} {error.hint}"
    assert body == {"error": {"message": message, "type": kind, "param": "prompt", "code": code}}
