import json
import math
from typing import ClassVar

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import Field, ValidationError

from core.wire.base import Case, Number, RequestModel, WireModel, render, reply_case

OLD_CLIENT = "OpenAPI-Generator/1.10.1/python"


class Direction(RequestModel):
    name: str
    steering_vector: list[Number] = Field(default=[])


class Question(RequestModel):
    prompt: str
    source_set: str = ""
    directions: list[Direction] = Field(default=[])
    direction: Direction | None = None
    template_kwargs: dict[str, bool] | None = None


class Answer(WireModel):
    max_value: float
    dfa_values: list[float] | None = None


class SnakeAnswer(Answer):
    wire_case: ClassVar[Case | None] = "snake"


@pytest.mark.parametrize(
    ("body", "case"),
    [
        ({"prompt": "a", "sourceSet": "b"}, "camel"),
        ({"prompt": "a", "source_set": "b"}, "snake"),
        ({"prompt": "a"}, None),
        ({"prompt": "a", "directions": []}, None),
        ({"prompt": "a", "directions": [{"name": "x"}, {"name": "y", "steeringVector": []}]}, "camel"),
        ({"prompt": "a", "direction": {"name": "x", "steering_vector": [1.0]}}, "snake"),
        ({"prompt": "a", "sourceSet": "b", "direction": {"name": "x", "steering_vector": []}}, "camel"),
        ({"templateKwargs": {"enable_thinking": True}, "prompt": "a"}, "camel"),
        ({"prompt": "a", "some_other_key": 1, "someOtherKey": 2}, None),
        ({"source_set": "a", "templateKwargs": None, "prompt": "a"}, "snake"),
    ],
)
def test_a_request_remembers_the_casing_of_its_first_telling_key(body: dict[str, object], case: Case | None) -> None:
    assert Question.model_validate(body).case == case
    assert Question.model_validate_json(json.dumps(body)).case == case


def test_both_spellings_mean_the_same() -> None:
    camel = Question.model_validate({"prompt": "a", "sourceSet": "b"})
    snake = Question.model_validate({"prompt": "a", "source_set": "b"})
    assert camel.source_set == snake.source_set == "b"


def test_long_number_lists_are_not_searched_for_keys() -> None:
    class Counted(list[float]):
        seen = 0

        def __iter__(self):
            Counted.seen += 1
            return super().__iter__()

    Direction.model_validate({"name": "x", "steering_vector": Counted([1.0] * 1000)})
    assert Counted.seen <= 1  # the validation itself


@pytest.mark.parametrize(
    ("sent", "user_agent", "default", "chosen"),
    [
        ("camel", OLD_CLIENT, "snake", "camel"),
        ("snake", None, "camel", "snake"),
        (None, OLD_CLIENT, "camel", "snake"),
        (None, "OpenAPI-Generator/1.9.0/python", "camel", "snake"),
        (None, "OpenAPI-Generator/2.0.0/python", "camel", "camel"),
        (None, "OpenAPI-Generator/1.10.1/typescript", "camel", "camel"),
        (None, "node", "camel", "camel"),
        (None, None, "snake", "snake"),
    ],
)
def test_a_reply_follows_the_body_then_the_client_then_the_cluster(
    sent: Case | None, user_agent: str | None, default: Case, chosen: Case
) -> None:
    assert reply_case(sent, user_agent, default) == chosen


def test_a_reply_is_written_in_the_casing_asked_for_nulls_included() -> None:
    assert json.loads(render(Answer(max_value=1.5), "camel")) == {"maxValue": 1.5, "dfaValues": None}
    assert json.loads(render(Answer(max_value=1.5), "snake")) == {"max_value": 1.5, "dfa_values": None}


def test_a_reply_may_insist_on_its_casing() -> None:
    assert json.loads(render(SnakeAnswer(max_value=0), "camel")) == {"max_value": 0.0, "dfa_values": None}


@given(st.lists(st.floats(), max_size=20))
def test_a_reply_is_json_whatever_the_numbers(values: list[float]) -> None:
    def refuse(constant: str) -> None:
        raise AssertionError(constant)

    body = json.loads(render(Answer(max_value=math.nan, dfa_values=values), "camel"), parse_constant=refuse)
    assert body["maxValue"] is None
    assert body["dfaValues"] == [value if math.isfinite(value) else None for value in values]


@pytest.mark.parametrize("number", [True, "1", math.nan, math.inf, -math.inf, None, [1.0]])
def test_a_number_is_a_finite_number(number: object) -> None:
    with pytest.raises(ValidationError):
        Direction.model_validate({"name": "x", "steering_vector": [number]})


def test_whole_numbers_are_numbers() -> None:
    assert Direction.model_validate({"name": "x", "steering_vector": [1, 2.5]}).steering_vector == [1.0, 2.5]
