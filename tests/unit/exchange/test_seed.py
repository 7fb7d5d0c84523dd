"""The routes that came before `/v1`: the same numbers in the older shapes, BOS reported as zero."""

from typing import Any

import pytest

from core.errors import InvalidRequest, NotFound
from core.exchange.rankings import all_features
from core.exchange.seed import (
    activations_all,
    activations_test,
    top_k_by_decoder_cosine_similarity,
    top_k_reply,
)
from tests.gpt2_with_saes import EVERY_SOURCE, Truth
from tests.tiny_models import D_SAE

from .conftest import Tokens
from .front import BOS, TOKEN_LIMIT, Front, near, prompt_of

TEXT = "The quick brown fox, le chat dort."


def feature(text: str = TEXT, source: str = "2-res-jb", index: Any = "7") -> dict[str, Any]:
    return {"text": text, "model": "gpt2-small", "layer": source, "index": index, "secret": ""}


def ranked(**changes: Any) -> dict[str, Any]:
    return {"text": TEXT, "model": "gpt2-small", "source_set": "res-jb", "selected_layers": []} | changes


@pytest.mark.parametrize("source", EVERY_SOURCE)
@pytest.mark.parametrize("text", [TEXT, f"Hi{BOS} there", ""])
def test_a_feature_has_its_values_with_every_bos_as_zero(
    front: Front, truth: Truth, tokens: Tokens, source: str, text: str
) -> None:
    ids = tokens.ids(text)
    features = truth.features(ids, source)
    index = int(features.sum(0).argmax())
    values = [0.0 if token == ids[0] else float(features[place, index]) for place, token in enumerate(ids)]
    top = values.index(max(values))
    assert front.answer(activations_test, feature(text, source, str(index))) == {
        "activations": {
            "index": index,
            "layer": source,
            "maxValue": near(values[top]),
            "maxValueIndex": top,
            "values": near(values),
        },
        "tokens": tokens.strings(text),
    }


def test_an_index_may_be_a_number(front: Front) -> None:
    assert front.answer(activations_test, feature(index=7)) == front.answer(activations_test, feature(index="7"))


@pytest.mark.parametrize("source_set", ["res-jb", "att-kk", "mix"])
def test_a_ranking_is_that_of_all_in_the_older_names(front: Front, source_set: str) -> None:
    options = {"sort_indexes": [2], "ignore_bos": True, "num_results": 9, "feature_filter": list(range(40))}
    older = front.answer(activations_all, ranked(source_set=source_set, **options))
    newer = front.answer(
        all_features,
        {
            "prompt": TEXT,
            "model": "gpt2-small",
            "sourceSet": source_set,
            "selectedSources": [],
            "sortByTokenIndexes": [2],
            "ignoreBos": True,
            "numResults": 9,
            "featureFilter": list(range(40)),
        },
    )
    assert older["tokens"] == newer["tokens"]
    assert older["counts"] is None
    assert [{"source" if k == "layer" else k: v for k, v in row.items()} for row in older["activations"]] == newer[
        "activations"
    ]


def test_what_an_older_request_leaves_out_has_its_default(front: Front, truth: Truth, tokens: Tokens) -> None:
    found = front.answer(activations_all, ranked(selected_layers=["1-res-jb"]))["activations"]
    features = truth.features(tokens.ids(TEXT), "1-res-jb")
    features[0] = 0
    wanted = features.amax(0).sort(descending=True, stable=True)
    assert [row["index"] for row in found] == wanted.indices[:25].tolist()
    assert [row["maxValue"] for row in found] == near(wanted.values[:25])
    assert {row["sumValues"] for row in found} == {0.0}


def test_neighbours_have_the_older_names(front: Front, truth: Truth) -> None:
    body = {"sae_id": "2-res-jb", "feature_id": 5, "model": "gpt2-small", "k": 4}
    found = front.look_up(top_k_by_decoder_cosine_similarity, body, top_k_reply)
    decoder = truth.saes["2-res-jb"].W_dec.detach()
    wanted = (decoder @ decoder[5]).topk(4)
    assert found["feature_id"] == 5
    assert [row["index"] for row in found["top_k_features"]] == wanted.indices.tolist()
    assert [row["cosine_similarity"] for row in found["top_k_features"]] == near(wanted.values)


@pytest.mark.parametrize(
    ("body", "error", "message"),
    [
        (feature(index=str(D_SAE)), InvalidRequest, "Feature index 96 is out of range"),
        (feature(index="-1"), InvalidRequest, "Invalid index '-1'"),
        (feature(index="x"), InvalidRequest, "Invalid index 'x'"),
        (feature(source="9-res-jb"), NotFound, "no source '9-res-jb'"),
        (feature(prompt_of(TOKEN_LIMIT + 1)), InvalidRequest, "Text too long: 41 tokens, max is 40$"),
    ],
)
def test_a_bad_feature_request_is_refused_with_the_reason(
    front: Front, body: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        front.answer(activations_test, body)


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"source_set": "none"}, NotFound, "Invalid source set: none"),
        ({"selected_layers": ["9-res-jb"]}, NotFound, "no source '9-res-jb'"),
        ({"sort_indexes": [99]}, InvalidRequest, r"Token indexes \[99\] to sort by are out of range"),
        ({"num_results": 0}, InvalidRequest, "numResults must be at least 1"),
        ({"feature_filter": [D_SAE]}, InvalidRequest, "featureFilter names feature 96"),
    ],
)
def test_a_bad_ranking_request_is_refused_with_the_reason(
    front: Front, changes: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        front.answer(activations_all, ranked(**changes))


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"feature_id": D_SAE}, InvalidRequest, "Feature index 96 is out of range"),
        ({"feature_id": -1}, InvalidRequest, "Feature index -1 is out of range"),
        ({"k": 0}, InvalidRequest, "k must be at least 1, got 0"),
        ({"sae_id": "none"}, NotFound, "no source 'none'"),
    ],
)
def test_a_bad_neighbour_request_is_refused_with_the_reason(
    front: Front, changes: dict[str, Any], error: type[Exception], message: str
) -> None:
    body = {"sae_id": "2-res-jb", "feature_id": 5, "model": "gpt2-small", "k": 4} | changes
    with pytest.raises(error, match=message):
        front.look_up(top_k_by_decoder_cosine_similarity, body, top_k_reply)


def test_an_empty_text_without_a_bos_is_refused(front_without_bos: Front) -> None:
    with pytest.raises(InvalidRequest, match="The prompt is empty"):
        front_without_bos.answer(activations_test, feature(""))
