import json
from typing import Any

import pytest
from pydantic import ValidationError

from core.errors import InvalidRequest
from core.wire.base import render
from core.wire.features import (
    NPFeature,
    SimilarityMatrixRequest,
    SimilarityMatrixResponse,
    UtilSaeTopkByDecoderCossimRequest,
    UtilSaeVectorRequest,
    UtilSaeVectorResponse,
)

FEATURE = {"model": "m", "source": "0-res-demo", "index": 17}


def neighbours(**fields: Any) -> UtilSaeTopkByDecoderCossimRequest:
    body = {"model": "m", "source": "0-res-demo", "numResults": 5}
    return UtilSaeTopkByDecoderCossimRequest.model_validate(body | fields)


def test_neighbours_of_a_feature_or_of_a_vector() -> None:
    assert neighbours(feature=FEATURE).query() == NPFeature(**FEATURE)
    assert neighbours(vector=[1, 2]).query() == (1.0, 2.0)


@pytest.mark.parametrize("fields", [{}, {"feature": FEATURE, "vector": [1.0]}])
def test_neither_and_both_are_refused_in_the_peers_words(fields: dict[str, Any]) -> None:
    with pytest.raises(InvalidRequest) as refusal:
        neighbours(**fields).query()
    assert refusal.value.message == "Invalid request data: exactly one of feature or vector must be provided"


def test_an_empty_vector_is_refused() -> None:
    with pytest.raises(InvalidRequest, match="vector is empty"):
        neighbours(vector=[]).query()


def test_a_negative_index_never_counts_from_the_end() -> None:
    with pytest.raises(InvalidRequest, match="Feature index -1 is out of range for 0-res-demo"):
        neighbours(feature=FEATURE | {"index": -1}).query()
    with pytest.raises(InvalidRequest, match="Feature index -1"):
        UtilSaeVectorRequest(model="m", source="s", index=-1).check()
    UtilSaeVectorRequest(model="m", source="s", index=0).check()


def test_the_number_of_neighbours_is_clamped_as_the_peer_clamps_it() -> None:
    assert [neighbours(numResults=n).k() for n in (-3, 0, 1, 128, 129)] == [1, 1, 1, 128, 128]


def test_what_the_reply_echoes_can_be_written() -> None:
    with pytest.raises(ValidationError):
        neighbours(feature=FEATURE | {"source": "\ud800"})


def test_the_similarity_matrix_is_always_snake_case() -> None:
    request = SimilarityMatrixRequest.model_validate({"modelId": "m", "sourceId": "s", "index": "3", "text": "a"})
    assert request.case == "camel"
    body = json.loads(render(SimilarityMatrixResponse(similarity_matrix=[[1.0]], tokens=["a"]), "camel"))
    assert body == {"similarity_matrix": [[1.0]], "tokens": ["a"]}


@pytest.mark.parametrize("case", ["camel", "snake"])
def test_a_vectors_hook_is_always_camel_case(case: Any) -> None:
    body = json.loads(render(UtilSaeVectorResponse(vector=[1.0], hook_name="h"), case))
    assert body == {"vector": [1.0], "hookName": "h"}
