"""A job's input becomes a conversation to continue by the handler's rules, and its state the envelope clients know."""

import json
from typing import Any

import pytest
from pydantic import ValidationError

from core.errors import InvalidRequest
from core.exchange.serverless import SYSTEM_PROMPT, as_chat, job_response, job_stream
from core.job_state import JobState
from core.wire.base import render
from core.wire.serverless import ServerlessRequest

VECTOR = {"hook": "blocks.1.hook_resid_post", "strength": 2.0, "steering_vector": [0.5] * 4}
USER = {"role": "user", "content": "Hello!"}


def chat(**input_: Any) -> Any:
    request = ServerlessRequest.model_validate({"input": {"prompt": [USER]} | input_})
    return as_chat(request.input, "rayscope-demo")


def test_what_is_left_out_has_the_handlers_default() -> None:
    body = chat()
    assert [str(kind) for kind in body.types] == ["DEFAULT"]
    assert (body.temperature, body.n_completion_tokens, body.strength_multiplier) == (0.7, 512, 1.0)
    assert (body.steer_method, body.normalize_steering, body.steer_special_tokens) == ("SIMPLE_ADDITIVE", False, False)
    assert (body.freq_penalty, body.vectors, body.features, body.is_assistant_axis) == (0.0, [], None, True)
    assert chat().seed != chat().seed


def test_an_input_is_read_as_leniently_as_the_handler_read_it() -> None:
    body = chat(temperature="0.5", n_completion_tokens="8", seed="42", strength_multiplier=2)
    assert (body.temperature, body.n_completion_tokens, body.seed, body.strength_multiplier) == (0.5, 8, 42, 2.0)


def test_vectors_arrive_as_they_were_sent() -> None:
    body = chat(
        types=["STEERED", "DEFAULT"], vectors=[VECTOR], steer_method="PROJECTION_CAP", steer_special_tokens=True
    )
    (vector,) = body.vectors
    assert (vector.hook, vector.strength, vector.steering_vector) == (VECTOR["hook"], 2.0, [0.5] * 4)
    assert (body.steer_method, body.steer_special_tokens) == ("PROJECTION_CAP", True)
    assert [str(kind) for kind in body.types] == ["STEERED", "DEFAULT"]


@pytest.mark.parametrize(
    ("input_", "message"),
    [
        ({"prompt": []}, "prompt is required"),
        ({"types": ["STEERED"]}, "vectors are required when STEERED type is requested"),
        ({"types": ["DEFAULT", "STEERED"], "vectors": [VECTOR]}, "STEERED must come before DEFAULT"),
        ({"prompt": [], "types": ["DEFAULT", "STEERED"]}, "prompt is required"),
        ({"types": ["DEFAULT", "STEERED"]}, "vectors are required when STEERED type is requested"),
    ],
)
def test_a_mistake_has_the_handlers_words_in_the_handlers_order(input_: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidRequest) as refusal:
        chat(**input_)
    assert refusal.value.text == message


@pytest.mark.parametrize(
    "input_",
    [{"types": []}, {"types": ["MAYBE"]}, {"temperature": "warm"}, {"n_completion_tokens": 0}, {"seed": 10**30}],
)
def test_what_is_no_input_at_all_is_refused_by_its_schema(input_: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        chat(**input_)


def test_the_system_prompt_is_added_once() -> None:
    (system, user) = chat().prompt
    assert (system.role, system.content) == ("system", SYSTEM_PROMPT)
    assert user.content == "Hello!"
    again = chat(prompt=[{"role": "system", "content": SYSTEM_PROMPT}, USER]).prompt
    assert [message.content for message in again] == [SYSTEM_PROMPT, "Hello!"]
    merged = chat(prompt=[{"role": "system", "content": "Be kind."}, USER]).prompt
    assert [message.content for message in merged] == [f"{SYSTEM_PROMPT}\n\nBe kind.", "Hello!"]
    resent = chat(prompt=[{"role": message.role, "content": message.content} for message in merged]).prompt
    assert [message.content for message in resent] == [message.content for message in merged]


def job(**changes: Any) -> JobState:
    state = {
        "id": "j1",
        "status": "IN_PROGRESS",
        "output": {"chat_template": []},
        "error": None,
        "delay_s": 0.25,
        "execution_s": 1.5,
    }
    return JobState(**(state | changes))


def test_a_finished_job_has_its_output_as_it_is() -> None:
    assert json.loads(render(job_response(job(status="COMPLETED")), "camel")) == {
        "id": "j1",
        "status": "COMPLETED",
        "output": {"chat_template": []},
        "delayTime": 250,
        "executionTime": 1500,
    }


def test_an_unfinished_or_failed_job_has_no_output() -> None:
    assert "output" not in json.loads(render(job_response(job()), "camel"))
    queued = json.loads(render(job_response(job(status="IN_QUEUE", execution_s=None, output=None)), "camel"))
    assert queued == {"id": "j1", "status": "IN_QUEUE", "delayTime": 250}
    failed = json.loads(render(job_response(job(status="FAILED", error="prompt is required")), "camel"))
    assert (failed["error"], "output" in failed) == ("prompt is required", False)


def test_a_stream_says_only_what_is_news() -> None:
    assert json.loads(render(job_stream(job(), news=True), "camel")) == {
        "status": "IN_PROGRESS",
        "stream": [{"output": {"chat_template": []}}],
    }
    assert json.loads(render(job_stream(job(status="COMPLETED"), news=False), "camel")) == {
        "status": "COMPLETED",
        "stream": [],
    }
