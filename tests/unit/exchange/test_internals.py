"""`raw` and `attention`: what the model itself computes."""

import dataclasses
from typing import Any

import numpy as np
import pytest

from core.errors import InvalidRequest
from core.exchange.internals import RAW_BATCH_LIMIT, attention, raw
from core.questions import ResidualAnswer
from tests.gpt2_with_saes import N_HEADS, Truth
from tests.tiny_models import D_MODEL, GPT2_LAYERS

from .conftest import Tokens
from .front import TOKEN_LIMIT, Front, near, prompt_of

TEXT = "The quick brown fox, le chat dort."
TEXTS = [TEXT, "Hi", "Hello 🐈‍⬛ world"]


@pytest.mark.parametrize(
    ("asked", "layers"), [(None, range(GPT2_LAYERS)), ([], range(GPT2_LAYERS)), ([5, 0, 5, 11], [0, 5, 11])]
)
def test_raw_is_the_residual_stream_at_the_last_token(
    front: Front, truth: Truth, tokens: Tokens, asked: list[int] | None, layers: Any
) -> None:
    found = front.answer(raw, {"prompts": TEXTS, "model": "gpt2-small", "layers": asked})
    assert (found["hookPoint"], found["type"]) == ("residual_stream", "final_output_token")
    assert (found["dtype"], found["device"]) == ("float32", "cpu")
    for text, result in zip(TEXTS, found["results"], strict=True):
        ids = tokens.ids(text)
        assert result["tokenIds"] == list(ids)
        assert result["tokenStrings"] == tokens.strings(text)
        assert [read["layer"] for read in result["activations"]] == list(layers)
        for read in result["activations"]:
            assert read["tokenIndices"] == [len(ids) - 1]
            expected = truth.activation(ids, f"blocks.{read['layer']}.hook_resid_post")[-1]
            assert read["values"] == [near(expected.numpy())]


def test_raw_needs_no_model_name(front: Front) -> None:
    assert front.answer(raw, {"prompts": ["Hi"]}) == front.answer(raw, {"prompts": ["Hi"], "model": "gpt2-small"})


@pytest.mark.parametrize(("dtype", "decimals"), [("float32", None), ("bfloat16", 4), ("float16", 4)])
def test_raw_is_rounded_where_the_model_computes_in_half_precision(
    front: Front, dtype: str, decimals: int | None
) -> None:
    values = np.linspace(-2, 3, 2 * D_MODEL, dtype=np.float32).reshape(2, D_MODEL)
    exchange = raw(front.parsed(raw, {"prompts": ["Hi"], "layers": [0, 1]}), front.served)
    reply = front.read(exchange.reply([ResidualAnswer((0, 1), values, dtype, "cuda:0")]))
    for row, read in zip(values.astype(float), reply["results"][0]["activations"], strict=True):
        assert read["values"] == [row.tolist() if decimals is None else [round(value, decimals) for value in row]]
    assert reply["dtype"] == dtype


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"layers": [0, 12]}, r"Layers \[12\] are out of range; this model has 12 layers \(0-11\)\."),
        ({"layers": [-1]}, r"Layers \[-1\] are out of range; this model has 12 layers"),
        ({"hookPoint": "mlp"}, "Unsupported hook_point 'mlp'. Only 'residual_stream' is supported."),
        ({"type": "all"}, "Unsupported type 'all'. Only 'final_output_token' is supported."),
        ({"prompts": []}, "At least one prompt is required"),
        ({"prompts": ["Hi"] * 17}, "Batch size 17 exceeds maximum of 16"),
        ({"prompts": ["Hi", prompt_of(TOKEN_LIMIT + 1)]}, "Text too long: 41 tokens, max is 40$"),
    ],
)
def test_a_bad_raw_request_is_refused_with_the_reason(front: Front, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidRequest, match=message):
        front.answer(raw, {"prompts": ["Hi"], "model": "gpt2-small"} | changes)


def test_raw_takes_16_prompts_of_full_length(front: Front) -> None:
    assert RAW_BATCH_LIMIT == 16
    found = front.answer(raw, {"prompts": [prompt_of(TOKEN_LIMIT)] * RAW_BATCH_LIMIT, "layers": [1]})
    assert len(found["results"]) == RAW_BATCH_LIMIT


def sparse(pattern: np.ndarray) -> dict[tuple[int, int], float]:
    """The eight strongest keys of each query that reach 0.005."""
    return {
        (query, key): float(pattern[query, key])
        for query in range(len(pattern))
        for key in np.argsort(-pattern[query], kind="stable")[:8].tolist()
        if pattern[query, key] >= 0.005
    }


@pytest.mark.parametrize("layer", [0, 5, 11])
@pytest.mark.parametrize("head", range(N_HEADS))
@pytest.mark.parametrize("text", [TEXT, "Hi"])
def test_attention_lists_the_strongest_keys_of_each_query(
    front: Front, truth: Truth, tokens: Tokens, layer: int, head: int, text: str
) -> None:
    found = front.answer(attention, {"prompt": text, "model": "gpt2-small", "layer": layer, "head": head})
    pattern = truth.pattern(tokens.ids(text), layer)[head].numpy()
    length = len(pattern)
    assert (found["seqLen"], found["tokens"]) == (length, tokens.strings(text))
    assert found["attentionIndices"] == sorted(found["attentionIndices"])
    places = [divmod(index, length) for index in found["attentionIndices"]]
    listed = dict(zip(places, found["attentionValues"], strict=True))
    wanted = sparse(pattern)
    for place in listed.keys() | wanted.keys():  # what lies on the edge of a limit may fall on either side
        if listed.keys() >= {place} <= wanted.keys():
            assert listed[place] == pytest.approx(wanted[place], abs=1.1e-4)
            assert listed[place] == round(listed[place], 4)
        else:
            assert pattern[place] == pytest.approx(0.005, abs=1e-4) or tied_at_the_cut(pattern[place[0]], place[1])
    assert found["maxActivation"] == pytest.approx(pattern[1:, 1:].max(), abs=1.1e-4)


def tied_at_the_cut(row: np.ndarray, key: int) -> bool:
    ordered = np.sort(row)[::-1]
    return len(ordered) > 8 and abs(row[key] - ordered[7]) < 1e-5 and abs(ordered[7] - ordered[8]) < 1e-5


def test_one_token_attends_to_nothing_worth_showing(front: Front) -> None:
    found = front.answer(attention, {"prompt": "", "model": "gpt2-small", "layer": 0, "head": 0})
    assert found == {
        "seqLen": 1,
        "attentionIndices": [],
        "attentionValues": [],
        "maxActivation": 0.0,
        "tokens": ["<|endoftext|>"],
    }


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"layer": 12}, r"Invalid layer: 12. Must be in \[0, 12\)."),
        ({"layer": -1}, r"Invalid layer: -1. Must be in \[0, 12\)."),
        ({"head": 4}, r"Invalid head: 4. Must be in \[0, 4\)."),
        ({"head": -1}, r"Invalid head: -1. Must be in \[0, 4\)."),
        ({"prompt": prompt_of(TOKEN_LIMIT + 1)}, "Text too long: 41 tokens, max is 40$"),
    ],
)
def test_a_bad_attention_request_is_refused_with_the_reason(
    front: Front, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(InvalidRequest, match=message):
        front.answer(attention, {"prompt": TEXT, "model": "gpt2-small", "layer": 0, "head": 0} | changes)


def test_neither_needs_a_bos_nor_takes_an_empty_prompt_without_one(
    front_without_bos: Front, truth: Truth, tokens: Tokens
) -> None:
    ids = tokens.ids(TEXT, bos=False)
    found = front_without_bos.answer(raw, {"prompts": [TEXT], "layers": [3]})["results"][0]
    assert found["tokenIds"] == list(ids)
    expected = truth.activation(ids, "blocks.3.hook_resid_post")[-1]
    assert found["activations"][0]["values"] == [near(expected.numpy())]
    head = {"model": "gpt2-small", "layer": 1, "head": 1}
    assert front_without_bos.answer(attention, head | {"prompt": TEXT})["seqLen"] == len(ids)
    for route, body in ((raw, {"prompts": [""]}), (attention, head | {"prompt": ""})):
        with pytest.raises(InvalidRequest, match="The prompt is empty"):
            front_without_bos.answer(route, body)


def test_raw_accepts_a_larger_batch_where_the_cluster_does(front: Front) -> None:
    description = front.served.description
    generous = dataclasses.replace(description, limits=dataclasses.replace(description.limits, batch_limit=20))
    request = front.parsed(raw, {"prompts": ["Hi"] * 20})
    assert len(raw(request, dataclasses.replace(front.served, description=generous)).questions) == 20
