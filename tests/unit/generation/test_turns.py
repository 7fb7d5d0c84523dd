"""What of generated text is a turn, in the markers and reasoning tags of several families."""

from typing import Any

import pytest

from core.chat_template import Message
from core.generation.turns import TurnFormat, eos_ids, without_reasoning
from core.prompts import PromptTokenizer
from tests.unit import tiny_tokenizers

HARMONY_MARKERS = ["<|start|>", "<|channel|>", "<|message|>", "<|end|>", "<|return|>", "<|call|>"]


def tokenizer(name: str, *markers: str) -> PromptTokenizer:
    hf: Any = getattr(tiny_tokenizers, name)()
    hf.add_special_tokens({"additional_special_tokens": list(markers)})
    return PromptTokenizer(hf)


def said(turns: TurnFormat, generated: str, prompt: str = "") -> list[str]:
    messages = turns.compose(prompt, generated)
    assert {message.role for message in messages} <= {"assistant"}
    return [message.content for message in messages]


@pytest.fixture(scope="module")
def chatml() -> TurnFormat:
    return TurnFormat.of(tokenizer("qwen"))


@pytest.fixture(scope="module")
def harmony() -> TurnFormat:
    return TurnFormat.of(tokenizer("gpt2", *HARMONY_MARKERS))


@pytest.mark.parametrize(
    ("family", "ends"),
    [
        ("gpt2", {"<|endoftext|>"}),
        ("gemma", {"<eos>", "<end_of_turn>"}),
        ("llama2", {"</s>"}),
        ("llama3", {"<|eot_id|>"}),
        ("qwen", {"<|endoftext|>", "<|im_end|>"}),
    ],
)
def test_a_familys_own_markers_end_its_turns(family: str, ends: set[str]) -> None:
    wrapped = tokenizer(family)
    turns = TurnFormat.of(wrapped)
    assert set(turns.ends) == ends
    assert turns.stop_ids == {wrapped.hf.convert_tokens_to_ids(end) for end in ends}
    assert not turns.harmony


def test_a_plain_text_ends_only_with_eos() -> None:
    wrapped = tokenizer("gemma")
    assert eos_ids(wrapped) == {wrapped.hf.eos_token_id}


def test_a_turn_ends_at_the_first_marker(chatml: TurnFormat) -> None:
    assert said(chatml, " On the mat. <|im_end|>\n<|im_start|>user\nAnd now?<|im_end|>") == ["On the mat."]
    assert said(chatml, "Half a sen") == ["Half a sen"]


@pytest.mark.parametrize("nothing", ["", "  \n", "<|im_end|>", "\n<|im_end|>more"])
def test_who_says_nothing_has_no_turn(chatml: TurnFormat, nothing: str) -> None:
    assert said(chatml, nothing) == []
    assert said(chatml, nothing, prompt="<|im_start|>assistant\n<think>\n") == []


@pytest.mark.parametrize(
    "text",
    [
        "<think>A cat.</think>On the mat.",
        "[THINK]A cat.[/THINK]On the mat.",
        "<|START_THINKING|>A cat.<|END_THINKING|>On the mat.",
        "<seed:think>A cat.</seed:think>On the mat.",
        "◁think▷A cat.◁/think▷On the mat.",
    ],
)
def test_reasoning_has_one_spelling(chatml: TurnFormat, text: str) -> None:
    assert said(chatml, text) == ["<think>A cat.</think>On the mat."]


@pytest.mark.parametrize("opening", ["<think>", "<think>\n", "[THINK]"])
def test_reasoning_that_the_prompt_opened_is_opened_in_the_turn(chatml: TurnFormat, opening: str) -> None:
    prompt = f"<|im_start|>assistant\n{opening}"
    assert said(chatml, "A cat.</think>Miaow.<|im_end|>", prompt) == ["<think>A cat.</think>Miaow."]
    assert said(chatml, "A cat", prompt) == ["<think>A cat"]


def test_reasoning_that_the_prompt_closed_stays_closed(chatml: TurnFormat) -> None:
    prompt = "<|im_start|>assistant\n<think>\n\n</think>\n\n"
    assert said(chatml, "Miaow.", prompt) == ["Miaow."]


def test_what_a_user_says_about_tags_opens_nothing(chatml: TurnFormat) -> None:
    prompt = "<|im_start|>user\nWhat is <think><|im_end|>\n<|im_start|>assistant\n"
    assert said(chatml, "A tag.", prompt) == ["A tag."]


def test_harmony_stops_where_the_turn_ends_not_where_a_message_does(harmony: TurnFormat) -> None:
    wrapped = tokenizer("gpt2", *HARMONY_MARKERS)
    stops = ["<|return|>", "<|call|>", "<|endoftext|>"]
    assert harmony.harmony
    assert harmony.stop_ids == {wrapped.hf.convert_tokens_to_ids(stop) for stop in stops}


def test_analysis_is_folded_into_the_answer_that_follows(harmony: TurnFormat) -> None:
    analysis = "<|channel|>analysis<|message|>A cat."
    final = "<|end|><|start|>assistant<|channel|>final<|message|>On the mat."
    assert said(harmony, f"{analysis}{final}<|return|>") == ["<think>A cat.</think>On the mat."]
    assert said(harmony, analysis + final) == ["<think>A cat.</think>On the mat."]


def test_analysis_alone_is_shown_while_it_grows(harmony: TurnFormat) -> None:
    growing = "<|channel|>analysis<|message|>A ca"
    assert said(harmony, growing[:10]) == []
    assert said(harmony, growing) == ["<think>A ca"]
    assert said(harmony, f"{growing}t.<|end|><|start|>assis") == ["<think>A cat.</think>"]


def test_an_answer_without_analysis_and_two_answers_are_turns(harmony: TurnFormat) -> None:
    first = "<|channel|>commentary<|message|>Wait."
    second = "<|end|><|start|>assistant<|channel|>final<|message|>Done.<|return|>"
    assert said(harmony, first + second) == ["Wait.", "Done."]


def test_the_model_is_not_shown_its_earlier_reasoning() -> None:
    messages = [
        Message("system", "<think>rules</think>Be short."),
        Message("user", "<think>Hm</think>Where?"),
        Message("assistant", "<think>A cat.\nA mat.</think>\n\nOn the mat."),
        Message("model", "<think>only thought</think>"),
        Message("user", "Sure?"),
        Message("assistant", "<think>still open"),
    ]
    before = list(messages)
    assert without_reasoning(messages) == [*messages[:2], Message("assistant", "On the mat."), *messages[4:]]
    assert messages == before
