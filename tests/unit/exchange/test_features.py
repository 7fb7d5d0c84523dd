"""`single` and `single-batch`: values, trimming and coordinates, against plain libraries."""

from typing import Any

import numpy as np
import pytest

from core.errors import InvalidRequest, NotFound
from core.exchange.features import single, single_batch
from tests.gpt2_with_saes import EVERY_SOURCE, Truth
from tests.tiny_models import D_MODEL, D_SAE

from .conftest import Tokens
from .front import BATCH_LIMIT, BOS, TOKEN_LIMIT, Front, near, prompt_of

TEXT = "The quick brown fox, le chat dort."
EMOJI = "Hello 🐈‍⬛ world"
TEXTS = [TEXT, "Hi", f"{BOS}Hi there", EMOJI]
ATTENTION = ["1-att-kk", "2-att-kk"]


def body(text: str, source: str = "2-res-jb", index: int = 7) -> dict[str, Any]:
    return {"prompt": text, "model": "gpt2-small", "source": source, "index": str(index)}


@pytest.mark.parametrize("text", TEXTS)
@pytest.mark.parametrize("source", EVERY_SOURCE)
def test_a_feature_has_its_values_without_the_leading_bos(
    front: Front, truth: Truth, tokens: Tokens, source: str, text: str
) -> None:
    ids = tokens.ids(text)
    features = truth.features(ids, source)
    index = int(features[1:].sum(0).argmax())
    found = front.answer(single, body(text, source, index))
    values = features[1:, index].numpy()
    assert found["tokens"] == tokens.strings(text)[1:]
    assert found["tokensIsSpecial"] == [False] * (len(ids) - 1)
    activation = found["activation"]
    assert activation["values"] == near(values)
    assert activation["maxValue"] == max(activation["values"])
    assert activation["maxValueIndex"] == activation["values"].index(activation["maxValue"])
    if source in ATTENTION:
        top = int(values.argmax())
        dfa = truth.dfa(ids, source, index, top + 1).numpy()[1:]
        assert activation["maxValueIndex"] == activation["dfaTargetIndex"] == top
        assert activation["dfaValues"] == near(dfa)
        assert activation["dfaMaxValue"] == near(dfa.max())
    else:
        assert activation["dfaValues"] is activation["dfaMaxValue"] is activation["dfaTargetIndex"] is None


def test_every_bos_inside_a_text_counts_as_zero(front: Front, truth: Truth, tokens: Tokens) -> None:
    text = f"Hi{BOS} there{BOS}"
    ids = tokens.ids(text)
    assert ids.count(ids[0]) == 3
    features = truth.features(ids, "2-res-jb")
    index = int(features[ids.index(ids[0], 1)].argmax())
    found = front.answer(single, body(text, "2-res-jb", index))
    wanted = [0.0 if token == ids[0] else float(features[place, index]) for place, token in enumerate(ids)][1:]
    assert found["activation"]["values"] == near(wanted)
    assert found["tokensIsSpecial"] == [token == ids[0] for token in ids[1:]]


def test_a_silent_feature_has_its_maximum_at_the_first_token(front: Front, truth: Truth, tokens: Tokens) -> None:
    features = truth.features(tokens.ids(TEXT), "1-mix")[1:]
    index = int((features.abs().sum(0) == 0).nonzero()[0])
    activation = front.answer(single, body(TEXT, "1-mix", index))["activation"]
    assert set(activation["values"]) == {0.0}
    assert (activation["maxValue"], activation["maxValueIndex"]) == (0.0, 0)


@pytest.mark.parametrize("text", ["", BOS])
@pytest.mark.parametrize("source", ["2-res-jb", "1-att-kk"])
def test_a_prompt_of_bos_alone_reports_it_as_zero(front: Front, source: str, text: str) -> None:
    found = front.answer(single, body(text, source))
    assert found["tokens"] == [BOS]
    assert found["tokensIsSpecial"] == [True]
    assert found["activation"]["values"] == [0.0]


@pytest.mark.parametrize("text", TEXTS)
def test_without_a_bos_nothing_is_dropped(front_without_bos: Front, truth: Truth, tokens: Tokens, text: str) -> None:
    ids = tokens.ids(text, bos=False)
    found = front_without_bos.answer(single, body(text))
    assert found["tokens"] == tokens.strings(text, bos=False)
    assert found["activation"]["values"] == near(truth.features(ids, "2-res-jb")[:, 7])


@pytest.mark.parametrize("hook", ["blocks.0.hook_resid_post", "blocks.3.attn.hook_z", "blocks.2.mlp.hook_in"])
@pytest.mark.parametrize("text", ["Hi", TEXT])
def test_a_vector_is_projected_on_as_it_is(front: Front, truth: Truth, tokens: Tokens, hook: str, text: str) -> None:
    vector = [0.1 * (n - 7) for n in range(D_MODEL)]
    found = front.answer(single, {"prompt": text, "model": "gpt2-small", "vector": vector, "hook": hook})
    activation = truth.activation(tokens.ids(text, bos=False), hook).double().numpy()
    # GPT-2's tokenizer writes no BOS by itself, so there is none.
    assert found["tokens"] == tokens.strings(text, bos=False)
    assert found["activation"]["values"] == near(activation @ np.array(vector))
    assert found["activation"]["dfaValues"] is None


def test_half_a_pair_beside_a_whole_one_is_tolerated(front: Front) -> None:
    assert front.answer(single, body(TEXT) | {"vector": [1.0]}) == front.answer(single, body(TEXT))
    vector = {"prompt": TEXT, "model": "m", "vector": [1.0] * D_MODEL, "hook": "hook_embed"}
    assert front.answer(single, vector | {"index": "4"}) == front.answer(single, vector)


@pytest.mark.parametrize("source", ["2-res-jb", "1-att-kk", "1-mix", "4-mix"])
def test_a_batch_answers_each_prompt_as_if_alone(front: Front, source: str) -> None:
    request = {"model": "gpt2-small", "source": source, "index": "7", "prompts": [*TEXTS[:3], TEXT]}
    results = front.answer(single_batch, request)["results"]
    for text, result in zip(request["prompts"], results, strict=True):
        alone = front.answer(single, body(text, source))
        for name in ("values", "maxValue", "dfaValues", "dfaMaxValue"):
            assert result["activation"].pop(name) == near(alone["activation"].pop(name))
        assert result == alone
    assert results[0]["tokens"] == results[3]["tokens"]


def test_a_batch_projects_on_a_vector_too(front: Front) -> None:
    target = {"model": "gpt2-small", "vector": [0.5] * D_MODEL, "hook": "blocks.1.hook_resid_mid"}
    results = front.answer(single_batch, target | {"prompts": ["Hi", TEXT]})["results"]
    for text, result in zip(["Hi", TEXT], results, strict=True):
        alone = front.answer(single, target | {"prompt": text})["activation"]["values"]
        assert result["activation"]["values"] == near(alone)


PAIRS = "exactly one of layer/index or vector must be provided"


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"index": str(D_SAE)}, InvalidRequest, "Feature index 96 is out of range for 2-res-jb, which has 96 features"),
        ({"index": "999999999999"}, InvalidRequest, "out of range for 2-res-jb"),
        ({"index": "-1"}, InvalidRequest, "Invalid index '-1': expected a non-negative integer"),
        ({"index": "seven"}, InvalidRequest, "Invalid index 'seven'"),
        ({"index": "7.0"}, InvalidRequest, r"Invalid index '7\.0'"),
        ({"index": "²"}, InvalidRequest, "Invalid index '²'"),
        ({"index": ""}, InvalidRequest, "Invalid index ''"),
        ({"index": "9" * 30}, InvalidRequest, "Invalid index"),
        ({"source": "12-res-jb"}, NotFound, "gpt2-small serves no source '12-res-jb'"),
        ({"source": "res-jb"}, NotFound, "no source 'res-jb'"),
        ({"source": "x-res-jb"}, NotFound, "no source 'x-res-jb'"),
        ({"source": ""}, NotFound, "no source ''"),
        ({"source": None}, InvalidRequest, PAIRS),
        ({"index": None}, InvalidRequest, PAIRS),
        ({"vector": [1.0], "hook": "hook_embed"}, InvalidRequest, PAIRS),
        ({"source": None, "vector": [], "hook": "hook_embed"}, InvalidRequest, "vector is empty"),
        (
            {"source": None, "vector": [1.0], "hook": "blocks.0.hook_resid_pre"},
            InvalidRequest,
            "The vector has 1 numbers but blocks.0.hook_resid_pre has width 32",
        ),
        ({"source": None, "vector": [1.0] * 33, "hook": "hook_embed"}, InvalidRequest, "The vector has 33 numbers"),
        ({"source": None, "vector": [1.0], "hook": "nowhere"}, InvalidRequest, "no hook point 'nowhere'"),
        ({"source": None, "vector": [1.0], "hook": "blocks.77.hook_resid_pre"}, InvalidRequest, "blocks.77"),
    ],
)
def test_a_bad_request_is_refused_with_the_reason(
    front: Front, changes: dict[str, Any], error: type[Exception], message: str
) -> None:
    batch = {name: value for name, value in body(TEXT).items() if name != "prompt"} | {"prompts": [TEXT]}
    with pytest.raises(error, match=message):
        front.answer(single, body(TEXT) | changes)
    with pytest.raises(error, match=message):
        front.answer(single_batch, batch | changes)


def test_an_unknown_source_is_told_what_is_served(front: Front) -> None:
    with pytest.raises(NotFound) as refusal:
        front.answer(single, body(TEXT, "9-res-jb"))
    assert refusal.value.status == 404
    assert "res-jb (0-res-jb to 3-res-jb)" in (refusal.value.hint or "")


def test_a_prompt_may_be_as_long_as_the_limit_and_no_longer(front: Front, tokens: Tokens) -> None:
    longest, too_long = prompt_of(TOKEN_LIMIT), prompt_of(TOKEN_LIMIT + 1)
    assert len(tokens.ids(longest)) == TOKEN_LIMIT
    assert len(front.answer(single, body(longest))["tokens"]) == TOKEN_LIMIT - 1
    with pytest.raises(InvalidRequest) as refusal:
        front.answer(single, body(too_long))
    assert refusal.value.message == f"Text too long: {TOKEN_LIMIT + 1} tokens, max is {TOKEN_LIMIT}"

    target = {"model": "gpt2-small", "source": "2-res-jb", "index": "7"}
    front.answer(single_batch, target | {"prompts": [longest, "Hi"]})
    with pytest.raises(InvalidRequest) as refusal:
        front.answer(single_batch, target | {"prompts": ["Hi", too_long]})
    expected = f"Text too long: {TOKEN_LIMIT + 1} tokens, max is {TOKEN_LIMIT} for batch requests"
    assert refusal.value.message == expected


def test_a_batch_has_at_least_one_prompt_and_at_most_the_limit(front: Front) -> None:
    target = {"model": "gpt2-small", "source": "2-res-jb", "index": "7"}
    assert len(front.answer(single_batch, target | {"prompts": ["Hi"] * BATCH_LIMIT})["results"]) == BATCH_LIMIT
    with pytest.raises(InvalidRequest, match="At least one prompt is required"):
        front.answer(single_batch, target | {"prompts": []})
    with pytest.raises(InvalidRequest, match=f"Batch size {BATCH_LIMIT + 1} exceeds maximum of {BATCH_LIMIT}"):
        front.answer(single_batch, target | {"prompts": ["Hi"] * (BATCH_LIMIT + 1)})


def test_an_empty_prompt_without_a_bos_is_refused(front_without_bos: Front, front: Front) -> None:
    with pytest.raises(InvalidRequest, match="The prompt is empty"):
        front_without_bos.answer(single, body(""))
    with pytest.raises(InvalidRequest, match="The prompt is empty"):  # no BOS where a vector is concerned
        front.answer(single, {"prompt": "", "model": "m", "vector": [1.0] * D_MODEL, "hook": "hook_embed"})


def test_half_an_emoji_is_refused(front: Front) -> None:
    with pytest.raises(InvalidRequest, match="not valid Unicode: lone surrogate"):
        front.answer(single, body("Hi \ud83d"))
