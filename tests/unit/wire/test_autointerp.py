"""The bodies of the peer's routes: what is read, what is refused, and what never shows."""

import json
import pickle
from typing import Any

import pytest
from pydantic import SecretStr, ValidationError

from core.wire.autointerp import (
    FRENCH,
    ExplainDefaultRequest,
    NPActivation,
    ScoreEmbeddingRequest,
    ScoreFuzzDetectionBreakdownItem,
    ScoreFuzzDetectionRequest,
    ScoreFuzzDetectionResponse,
)
from core.wire.base import render

KEY = "sk-or-v1-not-to-be-seen"
EXPLAIN = {"activations": FRENCH, "openrouterKey": KEY, "model": "m"}
SCORE = EXPLAIN | {"explanation": "Cats", "type": "FUZZ"}


def test_either_spelling_and_unknown_keys_are_read() -> None:
    snake = {"activations": FRENCH, "openrouter_key": KEY, "model": "m", "max_tokens": 7, "verbose": True}
    request = ExplainDefaultRequest.model_validate(snake)
    assert request.openrouter_key is not None
    assert (request.openrouter_key.get_secret_value(), request.max_tokens, request.case) == (KEY, 7, "snake")


def test_a_reply_is_in_the_casing_of_the_request() -> None:
    item = ScoreFuzzDetectionBreakdownItem(str_tokens=["a"], ground_truth=True)
    reply = ScoreFuzzDetectionResponse(score=0.5, breakdown=[item], n_failed=1, request_id="r")
    camel, snake = (json.loads(render(reply, case)) for case in ("camel", "snake"))
    assert camel.keys() == {"score", "breakdown", "nFailed", "usage", "requestId"}
    assert snake.keys() == {"score", "breakdown", "n_failed", "usage", "request_id"}
    assert (camel["breakdown"][0]["strTokens"], snake["breakdown"][0]["str_tokens"]) == (["a"], ["a"])
    assert ExplainDefaultRequest.model_validate(EXPLAIN).case == "camel"
    python_client = ScoreFuzzDetectionRequest.model_validate_json(
        '{"activations": [], "explanation": "x", "openrouter_key": "k", "model": "m", "type": "FUZZ"}'
    )
    assert python_client.case == "snake"


@pytest.mark.parametrize("value", [0, 1, 0.5, -2.5])
def test_integers_and_floats_are_values(value: float) -> None:
    assert NPActivation.model_validate({"tokens": ["a"], "values": [value]}).values == [value]


@pytest.mark.parametrize("value", [True, "1", None, float("nan"), float("inf")])
def test_nothing_else_is_a_value(value: Any) -> None:
    with pytest.raises(ValidationError):
        NPActivation.model_validate({"tokens": ["a"], "values": [value]})


@pytest.mark.parametrize(
    "wrong",
    [
        {"type": "fuzz"},
        {"activations": [{"tokens": [1], "values": [1]}]},
        {"activations": None},
        {"explanation": None},
        {"openrouterKey": 5},
        {"model": 5},
        {"temperature": -1},
        {"temperature": float("nan")},
        {"maxTokens": 0},
        {"seed": -1},
        {"promptStyle": "openai"},
        {"provider": "other"},
    ],
)
def test_what_does_not_fit_is_refused_without_being_shown(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValidationError) as refusal:
        ScoreFuzzDetectionRequest.model_validate(SCORE | wrong)
    assert KEY not in str(refusal.value)


@pytest.mark.parametrize("left_out", ["activations", "model", "explanation", "type"])
def test_what_is_missing_is_named(left_out: str) -> None:
    with pytest.raises(ValidationError, match=left_out):
        ScoreFuzzDetectionRequest.model_validate({key: value for key, value in SCORE.items() if key != left_out})


def test_the_key_shows_nowhere() -> None:
    request = ScoreFuzzDetectionRequest.model_validate(SCORE)
    shown = [repr(request), str(request), f"{request}", request.model_dump_json(), repr(request.model_dump())]
    assert not [text for text in shown if KEY in text]
    assert "openrouter_key" not in repr(request)
    assert request.openrouter_key == SecretStr(KEY)
    assert pickle.loads(pickle.dumps(request)).openrouter_key == SecretStr(KEY)


def test_the_key_may_be_left_out() -> None:
    assert ExplainDefaultRequest.model_validate({"activations": FRENCH, "model": "m"}).openrouter_key is None


def test_an_embedding_request_needs_no_key_and_no_model() -> None:
    request = ScoreEmbeddingRequest.model_validate({"activations": FRENCH, "explanation": "Cats"})
    assert request.embedding_model is None
