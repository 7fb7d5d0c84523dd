import json
from typing import Any

import pytest
from pydantic import BaseModel, ValidationError

from core.errors import InvalidRequest
from core.wire.activations import FeatureTarget
from core.wire.base import render
from core.wire.cluster import schema_problems
from core.wire.seed import (
    ActivationsAllRequest,
    ActivationsAllResponse,
    ActivationsTestRequest,
    ActivationsTestResponse,
    TopKByDecoderCosineSimilarityRequest,
    TopKByDecoderCosineSimilarityResponse,
)

SECRET = "change_me_secret"
# The requests and replies of the seed document.
TEST = {"text": "hello world", "model": "gpt2-small", "layer": "11-res-jb", "index": "14219", "secret": SECRET}
NEIGHBOURS = {"sae_id": "11-res-jb", "feature_id": 14219, "model": "gpt2-small", "k": 5, "secret": SECRET}
ALL = {
    "text": "hello world",
    "model": "gpt2-small",
    "source_set": "res-jb",
    "selected_layers": ["11-res-jb"],
    "secret": SECRET,
    "feature_filter": [14219, 8603, 23066],
}
TEST_REPLY = {
    "activations": {
        "index": 14219,
        "layer": "11-res-jb",
        "maxValue": 29.63844108581543,
        "maxValueIndex": 1,
        "values": [0.0, 29.63844108581543, 10.08434009552002],
    },
    "tokens": ["<|endoftext|>", "hello", " world"],
}
NEIGHBOURS_REPLY = {
    "feature_id": 14219,
    "top_k_features": [
        {"cosine_similarity": 1.0, "index": 14219},
        {"cosine_similarity": 0.5105236172676086, "index": 8603},
    ],
}
REQUESTS: list[tuple[type[BaseModel], dict[str, Any]]] = [
    (ActivationsTestRequest, TEST),
    (TopKByDecoderCosineSimilarityRequest, NEIGHBOURS),
    (ActivationsAllRequest, ALL),
]


@pytest.mark.parametrize(("model", "body"), REQUESTS)
def test_the_seeds_requests_are_accepted(model: Any, body: dict[str, Any]) -> None:
    assert model.model_validate(body).secret.get_secret_value() == SECRET


@pytest.mark.parametrize(("model", "body"), REQUESTS)
def test_the_secret_shows_nowhere(model: Any, body: dict[str, Any]) -> None:
    request = model.model_validate(body)
    assert SECRET not in repr(request) + str(request) + request.model_dump_json()
    for broken in (
        {key: value for key, value in body.items() if key != "model"},
        body | {"secret": [SECRET]},
    ):
        with pytest.raises(ValidationError) as refusal:
            model.model_validate(broken)
        problems = schema_problems(refusal.value.errors())
        assert SECRET not in str(refusal.value) + repr(problems)


def test_an_index_is_a_string_or_a_number() -> None:
    assert ActivationsTestRequest.model_validate(TEST).target() == FeatureTarget("11-res-jb", 14219)
    assert ActivationsTestRequest.model_validate(TEST | {"index": 14219}).target().index == 14219
    with pytest.raises(InvalidRequest, match="expected a non-negative integer"):
        ActivationsTestRequest.model_validate(TEST | {"index": 1.5}).target()


@pytest.mark.parametrize("case", ["camel", "snake"])
def test_the_seeds_replies_keep_their_shape(case: Any) -> None:
    assert json.loads(render(ActivationsTestResponse.model_validate(TEST_REPLY), case)) == TEST_REPLY
    neighbours = TopKByDecoderCosineSimilarityResponse.model_validate(NEIGHBOURS_REPLY)
    assert json.loads(render(neighbours, case)) == NEIGHBOURS_REPLY
    feature = TEST_REPLY["activations"] | {"sumValues": 0.0}
    body = ActivationsAllResponse.model_validate({"activations": [feature], "tokens": TEST_REPLY["tokens"]})
    assert feature.items() <= json.loads(render(body, case))["activations"][0].items()


def test_all_is_the_newer_question_in_older_words() -> None:
    top = ActivationsAllRequest.model_validate(ALL).as_top_features()
    assert top.source_set == "res-jb"
    assert top.selected_sources == ["11-res-jb"]
    assert top.wanted_features() == (8603, 14219, 23066)
    assert top.k(1000) == 25
    assert top.ignore_bos


def test_camel_case_is_understood_too() -> None:
    body = {"saeId": "11-res-jb", "featureId": 3, "model": "m", "k": 2}
    assert TopKByDecoderCosineSimilarityRequest.model_validate(body).feature_id == 3


@pytest.mark.parametrize("wrong", [{"k": 0}, {"feature_id": -1}])
def test_impossible_neighbours_are_refused(wrong: dict[str, int]) -> None:
    with pytest.raises(InvalidRequest):
        TopKByDecoderCosineSimilarityRequest.model_validate(NEIGHBOURS | wrong).check()
    TopKByDecoderCosineSimilarityRequest.model_validate(NEIGHBOURS).check()
