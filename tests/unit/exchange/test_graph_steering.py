"""`/steer`: what is held where, what is refused in which words, and whether rows stand beside their tokens."""

import dataclasses
import json
from typing import Any

import pytest
import torch

from core.errors import InvalidRequest
from core.exchange.graph import ServedGraphs
from core.exchange.graph_steering import steer
from core.graph.intervention import PairOfTexts
from core.graph.requests import Intervention, InterventionQuestion
from core.wire.base import render
from core.wire.graph import SteerRequest
from tests.unit import tiny_tokenizers as tiny
from tests.unit.graph.architectures import D_MODEL, eager_model
from tests.unit.graph.plain_sets import random_set

from .graphs import N_LAYERS, letters, served_graphs

FEATURE: dict[str, Any] = {"layer": 1, "index": 7, "token_active_position": 2, "steer_position": 3, "delta": 4.5}
BODY: dict[str, Any] = {
    "model_id": "rayscope-demo",
    "prompt": "abcab",
    "features": [FEATURE],
    "n_tokens": 4,
    "top_k": 3,
}


@pytest.fixture(scope="module", params=[True, False], ids=["adds-bos", "adds-none"])
def graphs(request: pytest.FixtureRequest) -> ServedGraphs:
    return served_graphs(letters(adds_bos=request.param))


def question(graphs: ServedGraphs, **changes: Any) -> InterventionQuestion:
    return steer(SteerRequest.model_validate(BODY | changes), graphs).question


def refusal(graphs: ServedGraphs, **changes: Any) -> str:
    with pytest.raises(InvalidRequest) as refused:
        question(graphs, **changes)
    return refused.value.message


def answered(graphs: ServedGraphs, *, tuples: bool = False, stop: int | None = None, **changes: Any) -> Any:
    """The reply of a real engine, as JSON."""
    exchange = steer(SteerRequest.model_validate(BODY | changes), graphs, tuples=tuples)
    asked = exchange.question
    if stop is not None:
        asked = dataclasses.replace(asked, stop_ids=frozenset({stop}))
    pair = PairOfTexts(eager_model("llama"), random_set("relu", n_layers=N_LAYERS, d_model=D_MODEL), asked)
    while not pair.ended:
        pair.advance()
    return json.loads(render(exchange.reply(pair.answer()), "camel"))


def test_features_become_interventions(graphs: ServedGraphs) -> None:
    features = [
        FEATURE,
        {"layer": 0, "index": 39, "token_active_position": 5, "steer_position": 1, "ablate": True},
        {"layer": 2, "index": 0, "token_active_position": 4, "steer_generated_tokens": True, "delta": -1},
    ]
    asked = question(graphs, features=features, freeze_attention=True)
    assert asked.interventions == (
        Intervention(1, 7, 2, 3, 4.5),
        Intervention(0, 39, 5, 1, None),
        Intervention(2, 0, 4, None, -1.0),
    )
    assert asked.prompt.ids == (0, 2, 3, 4, 2, 3)
    assert asked.freeze_attention


@pytest.mark.parametrize("prompt", ["abcab", "<bos>abcab"])
def test_positions_are_those_of_the_graph_whoever_writes_bos(graphs: ServedGraphs, prompt: str) -> None:
    assert question(graphs, prompt=prompt).prompt == question(graphs).prompt
    assert question(graphs, prompt=prompt).prompt.ids[0] == 0


def test_the_rules_of_choice_are_the_requests(graphs: ServedGraphs) -> None:
    asked = question(graphs, temperature=0.7, freq_penalty=-1.5, seed=-1, n_tokens=3, top_k=2)
    assert (asked.temperature, asked.frequency_penalty, asked.n_tokens, asked.top_k) == (0.7, -1.5, 3, 2)
    assert asked.seed == 2**63 - 1
    assert question(graphs).seed is None
    assert asked.stop_ids == {1}


def test_in_a_conversation_the_end_of_a_turn_ends_the_text() -> None:
    hf = tiny.gemma()
    graphs = served_graphs(hf)
    eos, turn = hf.eos_token_id, hf.convert_tokens_to_ids("<end_of_turn>")
    chat = {"messages": [{"role": "user", "content": "cat"}, {"role": "assistant", "content": ""}], "features": []}
    written = {"prompt": "<start_of_turn>user\ncat<end_of_turn>\n<start_of_turn>model\n", "features": []}
    assert question(graphs, **chat).stop_ids == question(graphs, **written).stop_ids == {eos, turn}
    assert question(graphs, prompt="cat", features=[]).stop_ids == {eos}


# Wrong in every way at once: what is refused first shows the order.
EVERY_WAY: dict[str, Any] = {
    "layer": 99,
    "index": 99,
    "token_active_position": 99,
    "steer_position": 99,
    "steer_generated_tokens": True,
    "ablate": True,
    "delta": 1.0,
}


def test_features_are_refused_in_the_peers_words_and_order(graphs: ServedGraphs) -> None:
    steps = [
        ({}, "When ablate is True, delta must be None"),
        ({"ablate": False, "delta": None}, "When ablate is False, delta must be provided"),
        ({"delta": 2.0}, "When steer_generated_tokens is True, position must be None"),
        (
            {"steer_generated_tokens": False, "steer_position": None},
            "When steer_generated_tokens is False, position must be provided",
        ),
        ({"steer_position": 6}, "Position is out of bounds"),
        ({"steer_position": -1}, "Position is out of bounds"),
        ({"steer_position": 5}, "layer must be from 0 to 2, got 99"),
        ({"layer": 2}, "index must be from 0 to 39, got 99"),
        ({"index": 39}, "token_active_position must be from 0 to 5, got 99"),
    ]
    feature = EVERY_WAY
    for change, message in steps:
        feature = feature | change
        assert refusal(graphs, features=[feature]) == message
    assert question(graphs, features=[feature | {"token_active_position": 5}]).interventions


@pytest.mark.parametrize("name", ["layer", "index", "token_active_position"])
def test_nothing_counts_from_the_end(graphs: ServedGraphs, name: str) -> None:
    assert refusal(graphs, features=[FEATURE | {name: -1}]).startswith(f"{name} must be from 0 to ")


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"n_tokens": -1}, "n_tokens must be from 0 to 16, got -1"),
        ({"n_tokens": 17}, "n_tokens must be from 0 to 16, got 17"),
        ({"top_k": 10}, "top_k must be from 0 to 9, got 10"),
        ({"top_k": -1}, "top_k must be from 0 to 9, got -1"),
        ({"temperature": -0.5}, "temperature must be at least 0, got -0.5"),
        ({"freq_penalty": 101}, "freq_penalty must be from -100 to 100, got 101"),
        ({"features": [FEATURE] * 5}, "The number of features must be from 0 to 4, got 5"),
    ],
)
def test_numbers_out_of_range_are_named(graphs: ServedGraphs, wrong: dict[str, Any], message: str) -> None:
    assert refusal(graphs, **wrong) == message


def test_prompt_and_text_share_a_budget(graphs: ServedGraphs) -> None:
    description = graphs.description
    roomy = dataclasses.replace(description, limits=dataclasses.replace(description.limits, generation_limit=100))
    graphs = dataclasses.replace(graphs, description=roomy)
    assert question(graphs, n_tokens=74).n_tokens == 74
    assert refusal(graphs, n_tokens=75).startswith("No room to generate 75 tokens: the prompt has 6")


def test_a_feature_at_bos_is_left_out_and_the_others_stay(graphs: ServedGraphs) -> None:
    features = [FEATURE | {"steer_position": 0}, FEATURE, FEATURE | {"steer_position": 4}]
    assert [one.position for one in question(graphs, features=features).interventions] == [3, 4]
    prompt = "ab<bos>ab"
    features = [FEATURE | {"steer_position": at} for at in (2, 3, 4)]
    assert [one.position for one in question(graphs, prompt=prompt, features=features).interventions] == [2, 4]
    # Reading an activation there is no steering.
    read = FEATURE | {"token_active_position": 0}
    assert len(question(graphs, features=[read]).interventions) == 1


def test_rows_stand_beside_the_tokens_that_they_follow(graphs: ServedGraphs) -> None:
    reply = answered(graphs)
    names = letters(adds_bos=False).convert_ids_to_tokens(list(range(61)))
    rows = reply["DEFAULT_LOGITS_BY_TOKEN"]
    assert [row["token"] for row in rows[:6]] == ["<bos>", "a", "b", "c", "a", "b"]
    assert len(rows) == len(reply["STEERED_LOGITS_BY_TOKEN"]) == 6 + 4
    assert [len(row["top_logits"]) for row in rows] == [0] * 5 + [3] * 5
    ids = [names.index(row["token"]) for row in rows]
    with torch.no_grad():
        shares = eager_model("llama").module(input_ids=torch.tensor([ids])).logits[0].softmax(-1)
    for at, row in enumerate(rows[5:], 5):
        best = shares[at].topk(3)
        assert [one["token"] for one in row["top_logits"]] == [names[id_] for id_ in best.indices]
        assert [one["prob"] for one in row["top_logits"]] == pytest.approx(best.values.tolist(), abs=2e-6)
        if at + 1 < len(rows):
            assert rows[at + 1]["token"] == row["top_logits"][0]["token"]


def test_texts_are_their_tokens_joined_and_the_steered_one_is_longer(graphs: ServedGraphs) -> None:
    reply = answered(graphs, features=[FEATURE | {"delta": 40}])
    assert reply["DEFAULT_GENERATION"] == "".join(row["token"] for row in reply["DEFAULT_LOGITS_BY_TOKEN"])
    steered = reply["STEERED_LOGITS_BY_TOKEN"]
    tokens = "".join(row["token"] for row in steered)
    assert reply["STEERED_GENERATION"] == tokens + steered[-1]["top_logits"][0]["token"]
    assert reply["STEERED_GENERATION"].startswith("<bos>abcab")
    assert steered[-1] != reply["DEFAULT_LOGITS_BY_TOKEN"][-1]


def test_tuples_say_the_same_as_objects(graphs: ServedGraphs) -> None:
    objects, tuples = answered(graphs), answered(graphs, tuples=True)
    for name in ("DEFAULT", "STEERED"):
        assert tuples[f"{name}_GENERATION"] == objects[f"{name}_GENERATION"]
        assert tuples[f"{name}_LOGITS_BY_TOKEN"] == [
            [row["token"], [[one["token"], one["prob"]] for one in row["top_logits"]]]
            for row in objects[f"{name}_LOGITS_BY_TOKEN"]
        ]


@pytest.mark.parametrize("which", ["DEFAULT", "STEERED"])
@pytest.mark.parametrize("after", [1, 2])
def test_a_text_that_ends_early_has_a_row_for_each_of_its_tokens(graphs: ServedGraphs, which: str, after: int) -> None:
    names = letters(adds_bos=False).convert_ids_to_tokens(list(range(61)))
    strong = [FEATURE | {"delta": 40, "steer_position": 5}]
    whole = answered(graphs, features=strong)
    stop = whole[f"{which}_LOGITS_BY_TOKEN"][5 + after]["token"]
    cut = answered(graphs, features=strong, stop=names.index(stop))
    rows = cut[f"{which}_LOGITS_BY_TOKEN"]
    assert rows[-1]["token"] == stop
    assert len(rows) == 6 + [row["token"] for row in whole[f"{which}_LOGITS_BY_TOKEN"][6:]].index(stop) + 1
    assert len(rows[-1]["top_logits"]) == 3
    assert cut[f"{which}_GENERATION"] == "".join(row["token"] for row in rows)
