"""`sae-vector` and `sae-topk-by-decoder-cossim`: what weights alone can tell."""

from typing import Any

import pytest
import torch

from core.errors import InvalidRequest, NotFound
from core.exchange.weights import neighbours, neighbours_reply, sae_vector, sae_vector_reply
from tests.gpt2_with_saes import EVERY_SOURCE, Truth
from tests.tiny_models import D_MODEL, D_SAE

from .front import Front, near


def cosines(truth: Truth, source: str, query: torch.Tensor) -> torch.Tensor:
    decoder = truth.saes[source].W_dec.detach().double()
    return decoder @ query.double() / (decoder.norm(dim=-1) * query.double().norm())


def near_to(front: Front, source: str, count: int, **query: Any) -> Any:
    body = {"model": "gpt2-small", "source": source, "numResults": count} | query
    return front.look_up(neighbours, body, neighbours_reply)


@pytest.mark.parametrize("source", EVERY_SOURCE)
def test_the_vector_of_a_feature_is_its_encoder_column(front: Front, truth: Truth, source: str) -> None:
    for index in (0, 5, 63):
        body = {"model": "gpt2-small", "source": source, "index": index}
        found = front.look_up(sae_vector, body, sae_vector_reply)
        sae = truth.saes[source]
        column = sae.W_enc[:, index] if hasattr(sae, "W_enc") else sae.W_dec[index]
        assert found == {"vector": near(column.detach().numpy()), "hookName": truth.hooks[source]}


@pytest.mark.parametrize("source", EVERY_SOURCE)
@pytest.mark.parametrize("count", [1, 10])
def test_neighbours_of_a_feature_start_with_itself(front: Front, truth: Truth, source: str, count: int) -> None:
    feature = {"model": "gpt2-small", "source": source, "index": 5}
    found = near_to(front, source, count, feature=feature)
    wanted = cosines(truth, source, truth.saes[source].W_dec[5].detach()).sort(descending=True)
    assert found["feature"] == feature
    entries = found["topkDecoderCossimFeatures"]
    assert [entry["feature"]["index"] for entry in entries] == wanted.indices[:count].tolist()
    assert [entry["cosineSimilarity"] for entry in entries] == near(wanted.values[:count])
    assert entries[0]["feature"] == feature
    assert entries[0]["cosineSimilarity"] == pytest.approx(1.0, abs=1e-6)


@pytest.mark.parametrize("source", ["2-res-jb", "1-mix"])
def test_neighbours_of_a_vector_ignore_its_length(front: Front, truth: Truth, source: str) -> None:
    vector = torch.linspace(-3, 5, D_MODEL)
    found = near_to(front, source, 8, vector=vector.tolist())
    wanted = cosines(truth, source, vector).sort(descending=True)
    assert found["feature"] is None
    entries = found["topkDecoderCossimFeatures"]
    assert [entry["feature"]["index"] for entry in entries] == wanted.indices[:8].tolist()
    assert [entry["cosineSimilarity"] for entry in entries] == near(wanted.values[:8])
    assert near_to(front, source, 8, vector=(100 * vector).tolist())["topkDecoderCossimFeatures"][0] == near_entry(
        entries[0]
    )


def near_entry(entry: dict[str, Any]) -> dict[str, Any]:
    return entry | {"cosineSimilarity": near(entry["cosineSimilarity"])}


def test_the_query_row_is_read_from_the_source_of_the_request(front: Front, truth: Truth) -> None:
    elsewhere = {"model": "another", "source": "0-res-jb", "index": 5}
    found = near_to(front, "2-res-jb", 3, feature=elsewhere)
    assert found["feature"] == elsewhere
    wanted = cosines(truth, "2-res-jb", truth.saes["2-res-jb"].W_dec[5].detach()).topk(3).indices.tolist()
    assert [entry["feature"]["index"] for entry in found["topkDecoderCossimFeatures"]] == wanted
    assert {entry["feature"]["source"] for entry in found["topkDecoderCossimFeatures"]} == {"2-res-jb"}


@pytest.mark.parametrize(
    ("source", "asked", "given"), [("2-res-jb", 0, 1), ("2-res-jb", -4, 1), ("2-res-jb", 500, D_SAE), ("1-mix", 99, 64)]
)
def test_the_number_of_neighbours_is_clamped(front: Front, source: str, asked: int, given: int) -> None:
    found = near_to(front, source, asked, vector=[1.0] * D_MODEL)
    assert len(found["topkDecoderCossimFeatures"]) == given


@pytest.mark.parametrize(
    ("source", "index", "error", "message"),
    [
        ("2-res-jb", D_SAE, InvalidRequest, "Feature index 96 is out of range for 2-res-jb, which has 96 features"),
        ("2-res-jb", -1, InvalidRequest, "Feature index -1 is out of range for 2-res-jb"),
        ("1-mix", 64, InvalidRequest, "which has 64 features"),
        ("fake-source", 0, NotFound, "fake-source"),
    ],
)
def test_a_feature_that_is_not_there_is_refused(
    front: Front, source: str, index: int, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        front.look_up(sae_vector, {"model": "m", "source": source, "index": index}, sae_vector_reply)
    with pytest.raises(error, match=message):
        near_to(front, source, 3, feature={"model": "m", "source": source, "index": index})


ONE_OF = "exactly one of feature or vector must be provided"
FEATURE = {"model": "m", "source": "2-res-jb", "index": 5}


@pytest.mark.parametrize(
    ("query", "message"),
    [
        ({}, ONE_OF),
        ({"feature": FEATURE, "vector": [1.0] * D_MODEL}, ONE_OF),
        ({"vector": []}, "vector is empty"),
        ({"vector": [1.0] * 31}, "The vector has 31 numbers but the decoder of 2-res-jb has width 32"),
        ({"vector": [1.0] * 33}, "The vector has 33 numbers"),
    ],
)
def test_a_bad_query_is_refused_with_the_reason(front: Front, query: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidRequest, match=message):
        near_to(front, "2-res-jb", 3, **query)


def test_a_vector_of_the_wrong_width_for_a_transcoder_is_refused_too(front: Front) -> None:
    with pytest.raises(InvalidRequest, match="The vector has 31 numbers but the decoder of 3-mix has width 32"):
        near_to(front, "3-mix", 3, vector=[1.0] * 31)


@pytest.mark.parametrize("source", ["fake-source", "neurons", "7"])
def test_neighbours_in_an_unknown_source_are_refused_in_the_peers_words(front: Front, source: str) -> None:
    with pytest.raises(NotFound, match=f"Invalid SAE ID or type: {source}") as refusal:
        near_to(front, source, 3, vector=[1.0] * D_MODEL)
    assert "res-jb" in (refusal.value.hint or "")
