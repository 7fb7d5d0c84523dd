"""`/v1/steer/completion`: what reaches an engine, what is refused before it, and the answer made of its reports."""

import dataclasses
import itertools
import json
from typing import Any

import numpy as np
import pytest

from core.demo import ARTEFACTS
from core.demo.tokenizer import load_tokenizer
from core.errors import InvalidRequest, NotFound
from core.exchange.served import ServedModel
from core.exchange.steering import completion
from core.exchange.writing import Writing
from core.generation.requests import Growth
from core.steering.specification import Condition, FeatureDirection, HookPlace, Method, Push, VectorDirection
from core.wire.base import render
from core.wire.steering import SteerCompletionRequest
from tests.unit import tiny_tokenizers
from tests.unit.exchange.writers import (
    D_MODEL,
    D_SAE,
    DEMO,
    GENERATION_LIMIT,
    HEAD_DIM,
    N_HEADS,
    TOKEN_LIMIT,
    asked,
    growths,
    prompts,
    served,
    vector,
)

TEXT = "Le chat dort sur"
FEATURE = {"model": DEMO, "source": "1-res-demo", "index": 2, "strength": 12.8}


@pytest.fixture(scope="module")
def model() -> ServedModel:
    return served(load_tokenizer(ARTEFACTS / "model"))


def writing(model: ServedModel, prompt: str = TEXT, **changes: Any) -> Writing[Any]:
    return completion(SteerCompletionRequest.model_validate(asked(prompt=prompt, **changes)), model)


def steered(model: ServedModel, **changes: Any) -> Any:
    (only,) = writing(model, **{"types": ["STEERED"]} | changes).continuations
    assert only.steering is not None
    return only.steering


def read(response: Any) -> Any:
    return json.loads(render(response, "camel"))


def test_every_listed_type_is_one_continuation_in_order(model: ServedModel) -> None:
    types = ["DEFAULT", "STEERED", "STEERED", "DEFAULT"]
    continuations = writing(model, types=types).continuations
    assert [one.steering is not None for one in continuations] == [False, True, True, False]
    assert len({one.sampling for one in continuations}) == 1
    assert len(prompts(continuations)) == 1


@pytest.mark.parametrize("prompt", [TEXT, f"<bos>{TEXT}"])
def test_a_prompt_has_one_bos(model: ServedModel, prompt: str) -> None:
    (first, _) = writing(model, prompt).continuations
    bos = model.tokenizer.bos_id
    assert first.prompt[0] == bos
    assert first.prompt.count(bos or -1) == 1
    assert first.special_positions == (0,)


def test_the_rules_of_choice_are_the_requests(model: ServedModel) -> None:
    changes = {"temperature": 0.7, "seed": 7.9, "freqPenalty": 0.5, "nLogprobs": 3, "topP": 0.9, "nCompletionTokens": 5}
    sampling = writing(model, **changes).continuations[0].sampling
    assert (sampling.temperature, sampling.seed, sampling.frequency_penalty) == (0.7, 7, 0.5)
    assert (sampling.n_logprobs, sampling.top_p, sampling.max_tokens) == (3, 0.9, 5)
    assert sampling.stop_ids == {model.tokenizer.hf.eos_token_id}


@pytest.mark.parametrize("seed", [-1, 1e300, -0.5])
def test_any_number_is_a_seed(model: ServedModel, seed: float) -> None:
    found = writing(model, seed=seed).continuations[0].sampling.seed
    assert found is not None
    assert 0 <= found < 2**63


def test_what_may_be_written_ends_where_the_budget_ends(model: ServedModel) -> None:
    (first, _) = writing(model, nCompletionTokens=10_000).continuations
    assert len(first.prompt) + first.sampling.max_tokens == GENERATION_LIMIT


def test_a_feature_is_pushed_by_strength_times_multiplier(model: ServedModel) -> None:
    steering = steered(model, strengthMultiplier=-2, normalizeSteering=True, positions="generated")
    assert steering.pushes == (Push(FeatureDirection("1-res-demo", 2), -25.6),)
    assert (steering.method, steering.normalize, steering.positions) == (Method.SIMPLE_ADDITIVE, True, "generated")
    assert steering.special_tokens  # the peer steers BOS of a plain text
    assert steering.condition is None


def test_a_vector_keeps_its_numbers_and_its_hook_point(model: ServedModel) -> None:
    numbers = np.linspace(-1, 1, D_MODEL).tolist()
    (push,) = steered(model, **vector(steeringVector=numbers, hook="blocks.3.hook_resid_pre")).pushes
    assert isinstance(push.direction, VectorDirection)
    assert push.direction.hook == HookPlace(3, "resid_pre")
    assert push.direction.vector.dtype == np.float32
    assert push.direction.vector.tolist() == pytest.approx(numbers)
    (push,) = steered(model, **vector(steeringVector=[1] * N_HEADS * HEAD_DIM, hook="blocks.0.attn.hook_z")).pushes
    assert push.direction.hook == HookPlace(0, "attn.hook_z")


def test_directions_keep_the_order_of_the_request(model: ServedModel) -> None:
    features = [FEATURE | {"index": index} for index in (5, 3, 5)]
    assert [push.direction.index for push in steered(model, features=features).pushes] == [5, 3, 5]


def test_a_cap_may_have_two_ends(model: ServedModel) -> None:
    steering = steered(model, steerMethod="PROJECTION_CAP", features=[FEATURE | {"atLeast": -3}])
    assert (steering.method, steering.pushes[0].at_least) == (Method.PROJECTION_CAP, -3.0)


def test_a_condition_may_read_where_is_written(model: ServedModel) -> None:
    for source in ("0-res-demo", "1-res-demo"):
        steering = steered(model, condition={"source": source, "index": 4, "above": 1.5})
        assert steering.condition == Condition(source, 4, 1.5)


@pytest.mark.parametrize("source", ["1-att-demo", "2-plt-demo"])
def test_every_source_that_is_written_somewhere_can_steer(model: ServedModel, source: str) -> None:
    assert steered(model, features=[FEATURE | {"source": source}]).pushes


@pytest.mark.parametrize("directions", [{"features": []}, {"features": None, "vectors": []}])
def test_nothing_to_steer_with_is_fine_as_long_as_nothing_is_steered(
    model: ServedModel, directions: dict[str, Any]
) -> None:
    (only,) = writing(model, types=["DEFAULT"], **directions).continuations
    assert only.steering is None
    with pytest.raises(InvalidRequest, match="at least one feature or vector"):
        writing(model, **directions)


@pytest.mark.parametrize(
    ("changes", "error", "words"),
    [
        ({"vectors": []}, InvalidRequest, "exactly one of features or vectors must be provided"),
        ({"features": None}, InvalidRequest, "exactly one of features or vectors must be provided"),
        ({"features": [FEATURE | {"source": "9-res-demo"}]}, NotFound, "no source '9-res-demo'"),
        ({"features": [FEATURE | {"index": D_SAE}]}, InvalidRequest, f"index {D_SAE} is out of range"),
        ({"features": [FEATURE | {"index": -1}]}, InvalidRequest, "index -1 is out of range"),
        ({"features": [FEATURE | {"source": "2-mid-demo"}]}, InvalidRequest, "Unsupported hook name"),
        ({"features": [FEATURE | {"strength": 1e300}]}, InvalidRequest, "strength is too large"),
        ({"strengthMultiplier": 1e308, "features": [FEATURE | {"strength": -10}]}, InvalidRequest, "too large"),
        ({"features": [FEATURE | {"atLeast": 1}]}, InvalidRequest, "atLeast is the lower bound of PROJECTION_CAP"),
        (
            {"steerMethod": "PROJECTION_CAP", "features": [FEATURE | {"atLeast": 13}]},
            InvalidRequest,
            "lower bound 13 is above its upper bound 12.8",
        ),
        (vector(steeringVector=[1.0]), InvalidRequest, f"has 1 numbers, but .* has {D_MODEL}"),
        (vector(hook="blocks.1.attn.hook_z"), InvalidRequest, f"has {N_HEADS * HEAD_DIM}"),
        (vector(hook="blocks.4.hook_resid_post"), InvalidRequest, "Invalid layer: 4"),
        (vector(hook="blocks.1.hook_resid_mid"), InvalidRequest, "Unsupported hook name"),
        (vector(steeringVector=[float("nan")] * D_MODEL), InvalidRequest, "inf or nan"),
        (vector(steeringVector=[float("inf")] * D_MODEL), InvalidRequest, "inf or nan"),
        (vector(steeringVector=[1e300] * D_MODEL), InvalidRequest, "inf or nan"),
        (vector(steeringVector=[0.0] * D_MODEL) | {"normalizeSteering": True}, InvalidRequest, "vector is zero"),
        (vector(steeringVector=[0.0] * D_MODEL) | {"steerMethod": "ORTHOGONAL_DECOMP"}, InvalidRequest, "is zero"),
        (vector(steeringVector=[0.0] * D_MODEL) | {"steerMethod": "PROJECTION_CAP"}, InvalidRequest, "is zero"),
        (vector(steeringVector=[0.0] * D_MODEL) | {"steerMethod": "ABLATION"}, InvalidRequest, "is zero"),
        ({"condition": {"source": "2-res-demo", "index": 1}}, InvalidRequest, "comes after"),
        ({"condition": {"source": "1-res-demo", "index": D_SAE}}, InvalidRequest, "out of range"),
        ({"condition": {"source": "nothing", "index": 1}}, NotFound, "no source 'nothing'"),
        ({"freqPenalty": 1e6}, InvalidRequest, "freqPenalty must be from -100 to 100"),
    ],
)
def test_what_can_not_be_steered_is_refused_with_the_reason(
    model: ServedModel, changes: dict[str, Any], error: type[Exception], words: str
) -> None:
    with pytest.raises(error, match=words):
        writing(model, **changes)


def test_a_zero_vector_adds_nothing_and_is_allowed(model: ServedModel) -> None:
    assert steered(model, **vector(steeringVector=[0.0] * D_MODEL)).pushes


def prompt_of(model: ServedModel, n_tokens: int) -> str:
    text = " 7" * (n_tokens - 1)
    assert len(model.tokenizer.bos_prompt(text)) == n_tokens
    return text


def test_the_prompt_limit_is_exact(model: ServedModel) -> None:
    assert writing(model, prompt_of(model, TOKEN_LIMIT)).continuations
    message = f"^Text too long: {TOKEN_LIMIT + 1} tokens, max is {TOKEN_LIMIT}$"
    with pytest.raises(InvalidRequest, match=message):
        writing(model, prompt_of(model, TOKEN_LIMIT + 1))


def test_a_prompt_that_fills_the_budget_leaves_no_room() -> None:
    whole = served(load_tokenizer(ARTEFACTS / "model"))
    limits = dataclasses.replace(whole.description.limits, generation_limit=TOKEN_LIMIT)
    tight = ServedModel(dataclasses.replace(whole.description, limits=limits), whole.tokenizer)
    assert writing(tight, prompt_of(tight, TOKEN_LIMIT - 1)).continuations[0].sampling.max_tokens == 1
    message = rf"^No room to generate: the prompt is {TOKEN_LIMIT} tokens and the .* budget \(.*\) is {TOKEN_LIMIT}\."
    with pytest.raises(InvalidRequest, match=message):
        writing(tight, prompt_of(tight, TOKEN_LIMIT))


def test_the_answer_is_what_was_written_without_the_token_that_ends_it(model: ServedModel) -> None:
    asked_for = writing(model)
    for reported in growths(model, [" el tapete.<eos>", " le tapis, dort"], "stop"):
        asked_for.composer.add(reported)
    assert read(asked_for.composer.whole()) == {
        "outputs": [
            {"type": "STEERED", "output": " el tapete."},
            {"type": "DEFAULT", "output": " le tapis, dort"},
        ]
    }


def test_scores_stand_beside_the_text_token_by_token(model: ServedModel) -> None:
    asked_for = writing(model, types=["DEFAULT"], nLogprobs=2)
    for reported in growths(model, [" le tapis<eos>"], "stop", scored=2):
        asked_for.composer.add(reported)
    (output,) = read(asked_for.composer.whole())["outputs"]
    assert "".join(score["token"] for score in output["logprobs"]) == output["output"] == " le tapis"
    strings = model.tokenizer.str_tokens([10, 11])
    tops = [{"token": string, "logprob": -0.5 - id_} for string, id_ in zip(strings, (10, 11), strict=True)]
    assert [score["topLogprobs"] for score in output["logprobs"]] == [tops] * len(output["logprobs"])
    assert {score["logprob"] for score in output["logprobs"]} == {-0.5}


def events(asked_for: Writing[Any], model: ServedModel, texts: list[str], **how: Any) -> list[Any]:
    """The events of a stream, as the route makes them."""
    shown: list[Any] = []
    for reported in growths(model, texts, **how):
        asked_for.composer.add(reported)
        part = asked_for.composer.part()
        shown += [] if part is None else [read(part)]
    return [*shown, read(asked_for.composer.last())]


TEXTS = [" el tapete 👋 rojo", " le"]


def test_every_event_is_the_whole_answer_so_far_and_the_last_is_the_answer(model: ServedModel) -> None:
    asked_for = writing(model, stream=True)
    shown = events(asked_for, model, TEXTS)
    outputs = [[output["output"] for output in event["outputs"]] for event in shown]
    assert outputs[-1] == TEXTS
    assert shown[-1] == read(asked_for.composer.whole())
    for before, after in itertools.pairwise(outputs):
        assert all(new.startswith(old) for old, new in zip(before, after, strict=True))
        assert before != after
    assert len(outputs) > 4


def test_a_character_is_never_shown_in_halves(model: ServedModel) -> None:
    for mode in ("cumulative", "delta"):
        shown = events(writing(model, stream=True, streamMode=mode), model, TEXTS)
        assert "\ufffd" not in json.dumps(shown, ensure_ascii=False)


def test_deltas_joined_are_the_answer(model: ServedModel) -> None:
    asked_for = writing(model, stream=True, streamMode="delta", nLogprobs=1)
    shown = events(asked_for, model, TEXTS, scored=1)
    whole = read(asked_for.composer.whole())
    for index, expected in enumerate(whole["outputs"]):
        outputs = [event["outputs"][index] for event in shown]
        assert "".join(output["output"] for output in outputs) == expected["output"]
        assert [score for output in outputs for score in output.get("logprobs", [])] == expected["logprobs"]
    assert sum(len(event["outputs"][1]["output"]) > 0 for event in shown) == 1


@pytest.mark.parametrize("family", ["gpt2", "gemma", "llama2", "llama3", "qwen"])
def test_text_and_stream_agree_for_tokenizers_of_all_families(family: str) -> None:
    model = served(getattr(tiny_tokenizers, family)())
    ids = model.tokenizer.tokenize("Le chat dort sur le tapis.", False).ids
    prompt = model.tokenizer.bos_prompt("Le").ids
    rest = ids[len(prompt) - model.tokenizer.prepends(None) :]
    asked_for = writing(model, "Le", types=["DEFAULT"], features=[], streamMode="delta")
    shown: list[str] = []
    for at, token in enumerate(rest):
        asked_for.composer.add([Growth(0, (token,), (), "length" if at == len(rest) - 1 else None)])
        part = asked_for.composer.part() if at < len(rest) - 1 else asked_for.composer.last()
        shown += [] if part is None else [part.outputs[0].output]
    assert "".join(shown) == " chat dort sur le tapis."
