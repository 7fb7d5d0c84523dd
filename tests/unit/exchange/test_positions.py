"""`source`, `topk-by-token` and `similarity-matrix-pred`: one SAE, position by position."""

from typing import Any

import numpy as np
import pytest
import torch

from core.errors import InvalidRequest, NotFound
from core.exchange.positions import active_features, prediction_similarity, top_k_by_token, top_k_by_token_batch
from tests.gpt2_with_saes import EVERY_SOURCE, Truth
from tests.tiny_models import D_SAE

from .conftest import Tokens
from .front import BATCH_LIMIT, BOS, TOKEN_LIMIT, Front, near, prompt_of

TEXT = "The quick brown fox, le chat dort."
TEXTS = [TEXT, "Hi", f"Hi{BOS} there", "Hello 🐈‍⬛ world"]


def active(features: torch.Tensor, first: int) -> dict[str, list[list[float]]]:
    """Non-zero activations from position `first` on, by feature in order of first appearance."""
    found: dict[str, list[list[float]]] = {}
    for position in range(first, len(features)):
        for index in features[position].nonzero().flatten().tolist():
            found.setdefault(str(index), []).append([position, float(features[position, index])])
    return found


@pytest.mark.parametrize("source", EVERY_SOURCE)
def test_every_active_feature_is_listed_in_order_of_appearance(
    front: Front, truth: Truth, tokens: Tokens, source: str
) -> None:
    request = {"prompts": TEXTS, "model": "gpt2-small", "source": source}
    for text, result in zip(TEXTS, front.answer(active_features, request)["results"], strict=True):
        wanted = active(truth.features(tokens.ids(text), source), 1)
        found = result["activeFeatures"]
        assert result["tokens"] == tokens.strings(text)
        assert list(found) == list(wanted)
        for index, entries in wanted.items():
            assert [place for place, _ in found[index]] == [place for place, _ in entries]
            assert all(isinstance(place, int) for place, _ in found[index])
            np.testing.assert_allclose([v for _, v in found[index]], [v for _, v in entries], rtol=2e-4, atol=6e-4)
            assert all(value == round(value, 3) for _, value in found[index])


def test_without_a_bos_the_first_token_is_listed(front_without_bos: Front, truth: Truth, tokens: Tokens) -> None:
    request = {"prompts": [TEXT], "model": "gpt2-small", "source": "2-res-jb"}
    (result,) = front_without_bos.answer(active_features, request)["results"]
    wanted = active(truth.features(tokens.ids(TEXT, bos=False), "2-res-jb"), 0)
    assert list(result["activeFeatures"]) == list(wanted)
    assert result["tokens"] == tokens.strings(TEXT, bos=False)


def test_a_prompt_of_bos_alone_has_no_active_features(front: Front) -> None:
    request = {"prompts": [""], "model": "gpt2-small", "source": "2-res-jb"}
    assert front.answer(active_features, request)["results"] == [{"tokens": [BOS], "activeFeatures": {}}]


def assert_tops(
    found: dict[str, Any], features: torch.Tensor, strings: list[str], k: int, first: int, bos_first: bool
) -> None:
    assert found["tokens"] == strings[first:]
    assert [result["tokenPosition"] for result in found["results"]] == list(range(first, len(strings)))
    for result in found["results"]:
        place = result["tokenPosition"]
        row = features[place]
        assert result["token"] == strings[place]
        assert result["isSpecial"] == (bos_first and place == 0)
        indexes = [top["featureIndex"] for top in result["topFeatures"]]
        values = [top["activationValue"] for top in result["topFeatures"]]
        assert len(set(indexes)) == len(indexes) == k
        assert values == near(row.sort(descending=True).values[:k])
        assert values == near(row[indexes])
        assert values == sorted(values, reverse=True)


@pytest.mark.parametrize("source", EVERY_SOURCE)
@pytest.mark.parametrize("ignore_bos", [True, False])
def test_each_token_has_its_strongest_features(
    front: Front, truth: Truth, tokens: Tokens, source: str, ignore_bos: bool
) -> None:
    request = {"prompt": TEXT, "model": "gpt2-small", "source": source, "topK": 7, "ignoreBos": ignore_bos}
    features, strings = truth.features(tokens.ids(TEXT), source), tokens.strings(TEXT)
    assert_tops(front.answer(top_k_by_token, request), features, strings, 7, int(ignore_bos), True)


@pytest.mark.parametrize(
    ("source", "asked", "given"),
    [("2-res-jb", None, 5), ("2-res-jb", 0, 1), ("2-res-jb", -3, 1), ("2-res-jb", 10**6, D_SAE), ("1-mix", 96, 64)],
)
def test_the_number_of_features_is_clamped(
    front: Front, truth: Truth, tokens: Tokens, source: str, asked: int | None, given: int
) -> None:
    request = {"prompt": "Hi", "model": "gpt2-small", "source": source, "topK": asked, "ignoreBos": True}
    features, strings = truth.features(tokens.ids("Hi"), source), tokens.strings("Hi")
    assert_tops(front.answer(top_k_by_token, request), features, strings, given, 1, True)


@pytest.mark.parametrize("ignore_bos", [True, False])
def test_without_a_bos_no_position_is_left_out(
    front_without_bos: Front, truth: Truth, tokens: Tokens, ignore_bos: bool
) -> None:
    request = {"prompt": TEXT, "model": "gpt2-small", "source": "2-res-jb", "topK": 3, "ignoreBos": ignore_bos}
    features = truth.features(tokens.ids(TEXT, bos=False), "2-res-jb")
    found = front_without_bos.answer(top_k_by_token, request)
    assert_tops(found, features, tokens.strings(TEXT, bos=False), 3, 0, False)


@pytest.mark.parametrize("source", ["2-res-jb", "1-mix", "4-mix"])
def test_a_batch_answers_each_prompt_as_if_alone(front: Front, truth: Truth, tokens: Tokens, source: str) -> None:
    texts = [TEXT, "Hi", "Hello 🐈‍⬛ world", TEXT]
    request = {"prompts": texts, "model": "gpt2-small", "source": source, "topK": 4, "ignoreBos": True}
    for text, result in zip(texts, front.answer(top_k_by_token_batch, request)["results"], strict=True):
        assert_tops(result, truth.features(tokens.ids(text), source), tokens.strings(text), 4, 1, True)


@torch.no_grad()
def test_similarities_are_those_of_centred_predictions(front: Front, truth: Truth, tokens: Tokens) -> None:
    request = {"modelId": "gpt2-small", "sourceId": "4-mix", "index": 3, "text": TEXT}
    found = front.answer(prediction_similarity, request)
    ids = tokens.ids(TEXT, bos=False)  # GPT-2's tokenizer writes no BOS by itself
    rows = truth.activation(ids, truth.hooks["4-mix"]).unsqueeze(0)
    predicted = truth.saes["4-mix"].encode_with_predictions(rows)[1][0].double().numpy()
    centred = predicted - predicted.mean(0)
    lengths = np.linalg.norm(centred, axis=1)
    matrix = (centred @ centred.T / lengths[:, None] / lengths[None])[1:, 1:]
    assert found.keys() == {"similarity_matrix", "tokens"}
    assert found["tokens"] == tokens.strings(TEXT, bos=False)[1:]
    np.testing.assert_allclose(found["similarity_matrix"], matrix, atol=1e-3)
    np.testing.assert_allclose(np.diag(found["similarity_matrix"]), 1.0, atol=1e-5)


def test_one_token_is_similar_to_nothing(front: Front) -> None:
    request = {"modelId": "gpt2-small", "sourceId": "4-mix", "index": 3, "text": "Q"}
    assert front.answer(prediction_similarity, request) == {"similarity_matrix": [], "tokens": []}


@pytest.mark.parametrize("source", ["2-res-jb", "1-mix", "1-att-kk"])
def test_similarities_of_any_other_sae_are_refused(front: Front, source: str) -> None:
    request = {"modelId": "gpt2-small", "sourceId": source, "index": 3, "text": TEXT}
    with pytest.raises(InvalidRequest, match="SAE architecture is not temporal"):
        front.answer(prediction_similarity, request)


BASE = {"model": "gpt2-small", "source": "2-res-jb"}
ONE = [
    (top_k_by_token, lambda text, source: {**BASE, "source": source, "prompt": text, "ignoreBos": True}),
    (
        prediction_similarity,
        lambda text, source: {"modelId": "m", "sourceId": source, "index": 0, "text": text},
    ),
]
MANY = [
    (active_features, lambda texts, source: {**BASE, "source": source, "prompts": texts}),
    (top_k_by_token_batch, lambda texts, source: {**BASE, "source": source, "prompts": texts, "ignoreBos": True}),
]


@pytest.mark.parametrize(("route", "body"), ONE)
def test_bad_requests_about_one_prompt_are_refused_with_the_reason(
    front: Front, front_without_bos: Front, route: Any, body: Any
) -> None:
    with pytest.raises(NotFound, match="no source '9-res-jb'"):
        front.answer(route, body(TEXT, "9-res-jb"))
    with pytest.raises(InvalidRequest, match=r"Text too long: \d+ tokens, max is 40"):
        front.answer(route, body(prompt_of(TOKEN_LIMIT + 2), "4-mix"))
    with pytest.raises(InvalidRequest, match="The prompt is empty"):
        front_without_bos.answer(route, body("", "4-mix"))
    front.answer(route, body(prompt_of(TOKEN_LIMIT), "4-mix"))


@pytest.mark.parametrize(("route", "body"), MANY)
def test_bad_requests_about_several_prompts_are_refused_with_the_reason(
    front: Front, front_without_bos: Front, route: Any, body: Any
) -> None:
    with pytest.raises(NotFound, match="no source '9-res-jb'"):
        front.answer(route, body([TEXT], "9-res-jb"))
    with pytest.raises(InvalidRequest, match="Text too long: 41 tokens, max is 40 for batch requests"):
        front.answer(route, body(["Hi", prompt_of(TOKEN_LIMIT + 1)], "2-res-jb"))
    with pytest.raises(InvalidRequest, match="The prompt is empty"):
        front_without_bos.answer(route, body(["Hi", ""], "2-res-jb"))
    with pytest.raises(InvalidRequest, match="At least one prompt is required"):
        front.answer(route, body([], "2-res-jb"))
    with pytest.raises(InvalidRequest, match=f"Batch size {BATCH_LIMIT + 1} exceeds maximum of {BATCH_LIMIT}"):
        front.answer(route, body(["Hi"] * (BATCH_LIMIT + 1), "2-res-jb"))
    front.answer(route, body([prompt_of(TOKEN_LIMIT)] * BATCH_LIMIT, "2-res-jb"))
