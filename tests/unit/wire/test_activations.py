import json
from typing import Any

import pytest
from pydantic import ValidationError

from core.errors import InvalidRequest
from core.wire.activations import (
    ActivationSingleBatchRequest,
    ActivationSingleRequest,
    FeatureTarget,
    VectorTarget,
    parse_index,
)
from core.wire.base import render
from core.wire.internals import ActivationAttentionRequest, ActivationRawRequest
from core.wire.positions import ActivationSourceRequest, ActivationSourceResponse, ActivationTopkByTokenRequest
from core.wire.rankings import ActivationAllBatchRequest, ActivationAllRequest

FEATURE = {"source": "0-res-demo", "index": "17"}
VECTOR = {"vector": [0.5, 1], "hook": "blocks.2.hook_resid_post"}


def single(**fields: Any) -> ActivationSingleRequest:
    return ActivationSingleRequest.model_validate({"prompt": "a", "model": "m", **fields})


def top(**fields: Any) -> ActivationAllRequest:
    body = {
        "prompt": "a",
        "model": "m",
        "sourceSet": "res-demo",
        "selectedSources": [],
        "sortByTokenIndexes": [],
        "ignoreBos": True,
    }
    return ActivationAllRequest.model_validate(body | fields)


def test_a_feature_or_a_vector_is_measured() -> None:
    assert single(**FEATURE).target() == FeatureTarget("0-res-demo", 17)
    assert single(**VECTOR).target() == VectorTarget((0.5, 1.0), "blocks.2.hook_resid_post")


def test_half_a_pair_next_to_a_whole_one_is_tolerated() -> None:
    assert single(**FEATURE, hook="blocks.2.hook_resid_post").target() == FeatureTarget("0-res-demo", 17)
    assert single(**VECTOR, source="0-res-demo").target() == VectorTarget((0.5, 1.0), "blocks.2.hook_resid_post")


@pytest.mark.parametrize(
    "fields", [{}, {"source": "0-res-demo"}, {"vector": [1.0]}, {"source": "a", "hook": "b"}, {**FEATURE, **VECTOR}]
)
def test_neither_and_both_are_refused_in_the_peers_words(fields: dict[str, Any]) -> None:
    with pytest.raises(InvalidRequest) as refusal:
        single(**fields).target()
    assert refusal.value.message == "Invalid request data: exactly one of layer/index or vector must be provided"


def test_an_empty_vector_is_refused() -> None:
    with pytest.raises(InvalidRequest, match="vector is empty"):
        single(vector=[], hook="blocks.2.hook_resid_post").target()


@pytest.mark.parametrize("index", ["", "-1", "1.0", "+1", " 1", "1_0", "१", "abc", "9" * 5000])
def test_an_index_is_a_plain_decimal(index: str) -> None:
    with pytest.raises(InvalidRequest, match="expected a non-negative integer"):
        parse_index(index)


@pytest.mark.parametrize(
    "fields",
    [
        {"index": 17},
        {"source": 0},
        {"model": None},
        {"prompt": ["a"]},
        {"vector": ["1"]},
        {"vector": [True]},
        {"vector": [float("nan")]},
    ],
)
def test_a_field_of_the_wrong_type_is_a_schema_error(fields: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        single(**fields)


@pytest.mark.parametrize("value", [3.0, True, "3"])
def test_an_integer_is_an_integer(value: object) -> None:
    with pytest.raises(ValidationError):
        top(numResults=value)
    with pytest.raises(ValidationError):
        top(sortByTokenIndexes=[value])


@pytest.mark.parametrize("value", [0, 1, "true", None])
def test_a_boolean_is_a_boolean(value: object) -> None:
    with pytest.raises(ValidationError):
        top(ignoreBos=value)


@pytest.mark.parametrize("build", [ActivationSingleBatchRequest, ActivationSourceRequest, ActivationAllBatchRequest])
def test_a_batch_has_at_least_one_prompt_and_at_most_the_limit(build: Any) -> None:
    def batch(n: int) -> Any:
        example = build.model_json_schema()["examples"][0]
        return build.model_validate(example | {"prompts": ["a"] * n})

    batch(4).check_batch(4)
    with pytest.raises(InvalidRequest, match=r"^At least one prompt is required"):
        batch(0).check_batch(4)
    with pytest.raises(InvalidRequest, match=r"^Batch size 5 exceeds maximum of 4"):
        batch(5).check_batch(4)


def test_the_number_of_results_defaults_to_25_and_is_capped() -> None:
    assert top().k(1000) == 25
    assert top(numResults=None).k(1000) == 25
    assert top(numResults=7).k(1000) == 7
    assert top(numResults=5000).k(1000) == 1000
    assert top(numResults=None).k(10) == 10


@pytest.mark.parametrize("wanted", [0, -1])
def test_fewer_than_one_result_is_refused(wanted: int) -> None:
    with pytest.raises(InvalidRequest, match="numResults must be at least 1"):
        top(numResults=wanted).k(1000)


def test_features_per_token_are_clamped_as_the_peer_clamps_them() -> None:
    body = {"prompt": "a", "model": "m", "source": "s", "ignoreBos": False}
    ask = lambda top_k: ActivationTopkByTokenRequest.model_validate(body | {"topK": top_k}).k(100)  # noqa: E731
    assert [ask(None), ask(3), ask(0), ask(-2), ask(1000)] == [5, 3, 1, 1, 100]


def test_tokens_to_sort_by_have_to_exist() -> None:
    top(sortByTokenIndexes=[0, 4]).check_sort_indexes(5)
    with pytest.raises(InvalidRequest, match=r"\[-1, 5\] .* 5 tokens \(0-4\)"):
        top(sortByTokenIndexes=[5, 2, -1]).check_sort_indexes(5)


def test_a_feature_filter_is_a_set_of_indexes() -> None:
    assert top().wanted_features() is None
    assert top(featureFilter=[]).wanted_features() is None
    assert top(featureFilter=[9, 3, 9]).wanted_features() == (3, 9)
    assert top(feature_filter=[9]).wanted_features() == (9,)
    with pytest.raises(InvalidRequest, match="negative feature index: -4"):
        top(featureFilter=[1, -4]).wanted_features()


def test_raw_reads_the_residual_stream_at_the_last_token_only() -> None:
    ActivationRawRequest(prompts=["a"]).check(16)
    with pytest.raises(InvalidRequest) as refusal:
        ActivationRawRequest(prompts=["a"], hook_point="mlp").check(16)
    assert refusal.value.message == "Unsupported hook_point 'mlp'. Only 'residual_stream' is supported."
    with pytest.raises(InvalidRequest) as refusal:
        ActivationRawRequest(prompts=["a"], type="mean").check(16)
    assert refusal.value.message == "Unsupported type 'mean'. Only 'final_output_token' is supported."
    with pytest.raises(InvalidRequest, match=r"^Batch size 17 exceeds maximum of 16"):
        ActivationRawRequest(prompts=["a"] * 17).check(16)


def test_raw_layers_are_ascending_without_repeats_and_all_by_default() -> None:
    assert ActivationRawRequest(prompts=["a"], layers=[2, 0, 2]).wanted_layers(4) == (0, 2)
    assert ActivationRawRequest(prompts=["a"], layers=[]).wanted_layers(3) == (0, 1, 2)
    assert ActivationRawRequest(prompts=["a"]).wanted_layers(3) == (0, 1, 2)
    with pytest.raises(InvalidRequest) as refusal:
        ActivationRawRequest(prompts=["a"], layers=[4, 0, -1]).wanted_layers(4)
    assert refusal.value.message == "Layers [-1, 4] are out of range; this model has 4 layers (0-3)."


def test_loose_routes_coerce() -> None:
    request = ActivationAttentionRequest.model_validate({"prompt": "a", "model": "m", "layer": "1", "head": 2.0})
    assert (request.layer, request.head) == (1, 2)
    assert ActivationRawRequest.model_validate({"prompts": ["a"], "layers": ["1"]}).layers == [1]


def test_a_head_has_to_exist() -> None:
    def ask(layer: int, head: int) -> None:
        ActivationAttentionRequest(prompt="a", model="m", layer=layer, head=head).check(4, 2)

    ask(3, 1)
    with pytest.raises(InvalidRequest) as refusal:
        ask(4, 0)
    assert refusal.value.message == "Invalid layer: 4. Must be in [0, 4)."
    with pytest.raises(InvalidRequest, match="Invalid head: -1"):
        ask(0, -1)


def test_a_token_index_travels_as_an_integer() -> None:
    body = {"results": [{"tokens": ["a", "b"], "active_features": {"3": [(1, 2.0)]}}]}
    text = render(ActivationSourceResponse.model_validate(body), "snake")
    assert b'"activeFeatures":{"3":[[1,2.0]]}' in text
    assert json.loads(text)["results"][0]["tokens"] == ["a", "b"]
