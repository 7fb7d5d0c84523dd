"""`/v1/steer/completion-chat` and the older `/completion`: conversations in, the same with one more turn out."""

import dataclasses
import json
from typing import Any

import pytest

from core.demo import ARTEFACTS
from core.demo.tokenizer import load_tokenizer
from core.errors import InvalidRequest, NotFound
from core.exchange.seed_completion import seed_completion
from core.exchange.served import ServedModel
from core.exchange.steering_chat import ChatComposer, completion_chat
from core.exchange.writing import Writing
from core.generation.requests import Growth
from core.wire.base import render
from core.wire.seed_completion import CompletionRequest
from core.wire.steering_chat import SteerAssistantAxis, SteerCompletionChatRequest
from tests.unit import tiny_tokenizers
from tests.unit.exchange.writers import GENERATION_LIMIT, TOKEN_LIMIT, asked, growths, prompts, served

USER = {"role": "user", "content": "Où dort le chat ?"}
PROMPT = "<bos><|user|>\nOù dort le chat ?<|end|>\n<|assistant|>\n"
SEED = {
    "prompt": "Où dort le chat ?",
    "features": [{"layer": "1-res-demo", "index": 2, "strength": 12.8}],
    "model": "rayscope-demo",
    "instruct": True,
    "types": ["steered", "default"],
    "n_completion_tokens": 20,
    "temperature": 0.7,
    "strength_multiplier": 2,
    "freq_penalty": 0.0,
    "seed": 42,
}


@pytest.fixture(scope="module")
def model() -> ServedModel:
    return served(load_tokenizer(ARTEFACTS / "model"))


@pytest.fixture(scope="module")
def silent_model() -> ServedModel:
    return served(tiny_tokenizers.gpt2())


def writing(model: ServedModel, messages: Any = None, **changes: Any) -> Writing[Any]:
    body = asked(prompt=messages or [USER], steerSpecialTokens=False) | changes
    return completion_chat(SteerCompletionChatRequest.model_validate(body), model)


def older(model: ServedModel, **changes: Any) -> Writing[Any]:
    return seed_completion(CompletionRequest.model_validate(SEED | changes), model)


def read(response: Any) -> Any:
    return json.loads(render(response, "camel"))


def written(asked_for: Writing[Any], model: ServedModel, texts: list[str]) -> Any:
    for reported in growths(model, texts, "stop"):
        asked_for.composer.add(reported)
    return read(asked_for.composer.whole())


def test_the_model_reads_the_conversation_in_its_own_format(model: ServedModel) -> None:
    continuations = writing(model).continuations
    (prompt,) = prompts(continuations)
    assert model.tokenizer.decode(prompt) == PROMPT
    assert prompt.count(model.tokenizer.bos_id or -1) == 1
    special = [model.tokenizer.decode([prompt[at]]) for at in continuations[0].special_positions]
    assert special == ["<bos>", "<|user|>", "<|end|>", "<|assistant|>"]
    stops = {model.tokenizer.decode([id_]) for id_ in continuations[0].sampling.stop_ids}
    assert stops == {"<eos>", "<|end|>"}


@pytest.mark.parametrize("steer_special", [True, False])
def test_special_tokens_are_steered_on_demand(model: ServedModel, steer_special: bool) -> None:
    steering = writing(model, steerSpecialTokens=steer_special).continuations[0].steering
    assert steering is not None
    assert steering.special_tokens is steer_special


def test_the_answer_is_the_conversation_with_one_more_turn(model: ServedModel) -> None:
    answer = written(writing(model), model, ["En la alfombra.<|end|>", " Sur le tapis. "])
    assert answer == {
        "input": {"raw": PROMPT, "chatTemplate": [USER]},
        "outputs": [
            {
                "type": "STEERED",
                "raw": f"{PROMPT}En la alfombra.<|end|>",
                "chatTemplate": [USER, {"role": "assistant", "content": "En la alfombra."}],
            },
            {
                "type": "DEFAULT",
                "raw": f"{PROMPT} Sur le tapis. ",
                "chatTemplate": [USER, {"role": "assistant", "content": "Sur le tapis."}],
            },
        ],
    }


def test_what_says_nothing_adds_no_turn(model: ServedModel) -> None:
    answer = written(writing(model, types=["DEFAULT"]), model, ["<|end|>"])
    assert answer["outputs"][0]["chatTemplate"] == [USER]
    assert answer["outputs"][0]["raw"] == f"{PROMPT}<|end|>"


def test_earlier_reasoning_is_echoed_but_not_read(model: ServedModel) -> None:
    history = [
        {"role": "system", "content": "<think>no</think>"},
        USER,
        {"role": "assistant", "content": "<think>hm</think>Ici."},
        {"role": "assistant", "content": "<think>only</think>"},
        {"role": "user", "content": "<think>Et</think> là ?"},
    ]
    asked_for = writing(model, history)
    (prompt,) = prompts(asked_for.continuations)
    rendered = model.tokenizer.decode(prompt)
    assert rendered == (
        "<bos><|system|>\n<think>no</think><|end|>\n<|user|>\nOù dort le chat ?<|end|>\n"
        "<|assistant|>\nIci.<|end|>\n<|user|>\n<think>Et</think> là ?<|end|>\n<|assistant|>\n"
    )
    answer = written(asked_for, model, ["Oui.<|end|>", "Non.<|end|>"])
    assert answer["input"] == {"raw": rendered, "chatTemplate": history}
    assert answer["outputs"][1]["chatTemplate"] == [*history, {"role": "assistant", "content": "Non."}]


def test_a_model_without_a_template_takes_no_messages(silent_model: ServedModel) -> None:
    with pytest.raises(InvalidRequest, match=r"no chat template, .* Use /v1/steer/completion with a raw `prompt`"):
        writing(silent_model)
    with pytest.raises(InvalidRequest, match=r"^Invalid request data: exactly one of features or vectors"):
        writing(silent_model, vectors=[])


@pytest.mark.parametrize(
    ("messages", "changes", "error", "words"),
    [
        ([USER | {"content": " 7" * 100}], {}, InvalidRequest, f"Text too long: .* max is {TOKEN_LIMIT}$"),
        ([USER | {"role": "narrator"}], {}, InvalidRequest, "roles are system, user and assistant"),
        ([USER | {"content": "\ud83d"}], {}, InvalidRequest, "not valid Unicode"),
        ([{"role": "assistant", "content": "<think>x</think>"}], {}, InvalidRequest, "At least one message"),
        (None, {"features": []}, InvalidRequest, "at least one feature or vector"),
        (None, {"features": [{"model": "m", "source": "x", "index": 0, "strength": 1}]}, NotFound, "no source 'x'"),
    ],
)
def test_a_conversation_that_can_not_be_continued_is_refused(
    model: ServedModel, messages: Any, changes: dict[str, Any], error: type[Exception], words: str
) -> None:
    with pytest.raises(error, match=words):
        writing(model, messages, **changes)


def test_an_empty_conversation_is_refused(model: ServedModel) -> None:
    request = SteerCompletionChatRequest.model_validate(asked(prompt=[], steerSpecialTokens=True))
    with pytest.raises(InvalidRequest, match="At least one message is required"):
        completion_chat(request, model)


def test_a_conversation_that_fills_the_budget_leaves_no_room(model: ServedModel) -> None:
    limits = dataclasses.replace(model.description.limits, generation_limit=8)
    tight = ServedModel(dataclasses.replace(model.description, limits=limits), model.tokenizer)
    with pytest.raises(InvalidRequest, match="No room to generate"):
        writing(tight)
    (first, _) = writing(model, nCompletionTokens=1000).continuations
    assert len(first.prompt) + first.sampling.max_tokens == GENERATION_LIMIT


TEXTS = ["En la 👋 alfombra.<|end|>", "Sur"]


def events(asked_for: Writing[Any], model: ServedModel) -> list[Any]:
    shown: list[Any] = []
    for reported in growths(model, TEXTS, "stop"):
        asked_for.composer.add(reported)
        part = asked_for.composer.part()
        shown += [] if part is None else [read(part)]
    return [*shown, read(asked_for.composer.last())]


def test_every_event_is_a_whole_conversation_and_the_last_is_the_answer(model: ServedModel) -> None:
    asked_for = writing(model, stream=True)
    shown = events(asked_for, model)
    assert shown[-1] == read(asked_for.composer.whole())
    assert len(shown) > 3
    for event in shown:
        assert event["input"] == {"raw": PROMPT, "chatTemplate": [USER]}
        assert all(output["raw"].startswith(PROMPT) for output in event["outputs"])
        assert all(output["chatTemplate"][0] == USER for output in event["outputs"])


def test_deltas_joined_are_the_answer(model: ServedModel) -> None:
    asked_for = writing(model, stream=True, streamMode="delta")
    shown = events(asked_for, model)
    whole = read(asked_for.composer.whole())
    for index, expected in enumerate(whole["outputs"]):
        outputs = [event["outputs"][index] for event in shown]
        assert "".join(output["raw"] for output in outputs) == expected["raw"]
        assert [message for output in outputs for message in output["chatTemplate"]] == expected["chatTemplate"]
    assert "".join(event["input"]["raw"] for event in shown) == whole["input"]["raw"]
    assert [message for event in shown for message in event["input"]["chatTemplate"]] == [USER]


def test_an_axis_is_shown_once_somebody_sets_it(model: ServedModel) -> None:
    for mode in ("cumulative", "delta"):
        asked_for = writing(model, stream=True, streamMode=mode, isAssistantAxis=True)
        composer = asked_for.composer
        assert isinstance(composer, ChatComposer)
        composer.add([Growth(0, (50,)), Growth(1, (50,), (), "length")])
        assert "assistantAxis" not in read(composer.part())
        composer.add([Growth(0, (50,), (), "length")])
        assert "assistantAxis" not in read(composer.last())
        composer.assistant_axis = [SteerAssistantAxis(pc_titles=["Role"])]
        assert read(composer.last())["assistantAxis"] == [{"pcTitles": ["Role"]}]


def test_a_turn_keeps_its_reasoning() -> None:
    qwen = served(tiny_tokenizers.qwen())
    text = "<think>A cat</think> On the mat<|im_end|>"
    answer = written(writing(qwen, [{"role": "user", "content": "Hi"}], types=["DEFAULT"], features=[]), qwen, [text])
    assert answer["outputs"][0]["chatTemplate"][-1] == {
        "role": "assistant",
        "content": "<think>A cat</think> On the mat",
    }


def test_the_seeds_answer_is_keyed_by_type(model: ServedModel) -> None:
    asked_for = older(model)
    assert [one.steering is not None for one in asked_for.continuations] == [True, False]
    (push,) = asked_for.continuations[0].steering.pushes  # pyright: ignore[reportOptionalMemberAccess]
    assert push.coefficient == 25.6
    answer = written(asked_for, model, ["En la alfombra.", "Sur le tapis."])
    user = {"content": "Où dort le chat ?", "role": "user"}
    assert answer == {
        "default": {
            "chat_template": [user, {"content": "Sur le tapis.", "role": "model"}],
            "raw": f"{PROMPT}Sur le tapis.",
        },
        "steered": {
            "chat_template": [user, {"content": "En la alfombra.", "role": "model"}],
            "raw": f"{PROMPT}En la alfombra.",
        },
    }


def test_the_seeds_plain_text_needs_no_template(model: ServedModel) -> None:
    asked_for = older(model, instruct=False, types=["default"], prompt="Le chat")
    answer = written(asked_for, model, [" dort.<eos>"])
    assert answer == {"default": {"raw": "<bos>Le chat dort."}}
    assert older(served(tiny_tokenizers.gpt2()), instruct=False).continuations


def test_the_seeds_mistakes_have_reasons_too(model: ServedModel, silent_model: ServedModel) -> None:
    with pytest.raises(InvalidRequest, match="no chat template"):
        older(silent_model)
    with pytest.raises(InvalidRequest, match="at least one feature or vector"):
        older(model, features=[])
    with pytest.raises(InvalidRequest, match="Text too long"):
        older(model, prompt=" 7" * 100)
    assert older(model, features=[], types=["default"]).continuations
