"""What of a conversation is read, and what is reported of it."""

import numpy as np
import pytest

from core.chat import message_partition
from core.chat_template import Message
from core.demo import ARTEFACTS
from core.persona.asset import PersonaAsset
from core.persona.monitor import conversation, rendered, turns, watch
from core.persona.projection import Axis, project
from core.prompts import PromptTokenizer

ASKED = Message("user", "What is the capital of Italy?")
SYSTEM = Message("system", "You are a pirate. Stay in character.")
CHAT = [SYSTEM, ASKED, Message("assistant", "Arr, matey! It is Rome."), Message("user", "Hello!")]


@pytest.fixture(scope="module")
def tokenizer() -> PromptTokenizer:
    return PromptTokenizer.load(str(ARTEFACTS / "model"))


def asset(titles: int = 1, *, blank: bool = False, width: int = 4) -> PersonaAsset:
    rng = np.random.default_rng(3)
    axis = Axis(
        layer=2,
        scaler="l2-mean",
        scaler_mean=rng.normal(size=width).astype(np.float32),
        mean=rng.normal(size=width).astype(np.float32),
        components=rng.normal(size=(3, width)).astype(np.float32),
    )
    return PersonaAsset(tuple(f"title {n}" for n in range(titles)), blank, (axis,))


def text_of(tokenizer: PromptTokenizer, tokens: tuple[int, ...], span: tuple[int, int]) -> str:
    return "".join(tokenizer.str_tokens(tokens[slice(*span)]))


def test_a_turn_is_everything_that_belongs_to_its_message_and_only_the_assistants_are_read(
    tokenizer: PromptTokenizer,
) -> None:
    watched = watch(tokenizer, conversation(CHAT, "Ahoy! Welcome aboard!"))
    assert [text_of(tokenizer, watched.tokens, span) for span in watched.spans] == [
        "<|assistant|>\nArr, matey! It is Rome.<|end|>\n",
        "<|assistant|>\nAhoy! Welcome aboard!<|end|>\n",
    ]
    assert watched.spans[-1][1] == len(watched.tokens)


def test_nothing_is_read_past_the_last_turn(tokenizer: PromptTokenizer) -> None:
    watched = watch(tokenizer, CHAT)
    whole = message_partition(tokenizer, CHAT)
    assert watched.spans == (whole.bounds[2],)
    assert watched.tokens == whole.tokens[: whole.bounds[2][1]]
    assert len(watched.tokens) < len(whole.tokens)


def test_a_text_that_says_nothing_still_has_a_header_and_a_footer(tokenizer: PromptTokenizer) -> None:
    watched = watch(tokenizer, conversation([ASKED], ""))
    assert text_of(tokenizer, watched.tokens, watched.spans[0]) == "<|assistant|>\n<|end|>\n"
    assert watched.snippets == ("",)


@pytest.mark.parametrize("cut", range(1, 12))
def test_a_conversation_longer_than_the_model_reads_is_read_as_far_as_it_goes(
    tokenizer: PromptTokenizer, cut: int
) -> None:
    whole = watch(tokenizer, conversation([ASKED], "It is Rome."))
    limit = len(whole.tokens) - cut
    watched = watch(tokenizer, conversation([ASKED], "It is Rome."), limit)
    assert watched.tokens == whole.tokens[:limit]
    ((start, end),), ((first, _),) = watched.spans, whole.spans
    assert (start, end) == (min(first, limit), limit)
    assert watched.snippets == whole.snippets


@pytest.mark.parametrize(
    ("said", "snippet"),
    [("x" * 120, "x" * 120), ("x" * 121, "x" * 120 + "..."), ("short", "short"), ("🐈" * 121, "🐈" * 120 + "...")],
)
def test_a_snippet_is_the_first_120_characters(tokenizer: PromptTokenizer, said: str, snippet: str) -> None:
    assert watch(tokenizer, conversation([ASKED], said)).snippets == (snippet,)


def test_a_system_message_is_blanked_only_where_the_asset_asks_and_only_in_front() -> None:
    chat = [SYSTEM, ASKED, SYSTEM]
    assert rendered(chat, asset(blank=True)) == [Message("system", ""), ASKED, SYSTEM]
    assert rendered(chat, asset()) == chat
    assert rendered([ASKED, SYSTEM], asset(blank=True)) == [ASKED, SYSTEM]
    assert rendered([], asset(blank=True)) == []


def test_titles_name_the_first_directions_in_order() -> None:
    known, means = asset(2), np.random.default_rng(5).normal(size=(3, 4)).astype(np.float32)
    found = turns(known, ["a", "b", "c"], means)
    values = project(means, known.primary)
    assert [turn.values for turn in found] == [{"title 0": row[0], "title 1": row[1]} for row in values.tolist()]
    assert [turn.values_post_cap for turn in found] == [None] * 3
    assert [turn.snippet for turn in found] == ["a", "b", "c"]


def test_values_under_steering_stand_beside_those_without() -> None:
    known, rng = asset(1), np.random.default_rng(6)
    before, after = rng.normal(size=(2, 2, 4)).astype(np.float32)
    found = turns(known, ["a", "b"], before, after)
    assert [turn.values for turn in found] == [turn.values for turn in turns(known, ["a", "b"], before)]
    assert [turn.values_post_cap for turn in found] == [turn.values for turn in turns(known, ["a", "b"], after)]


def test_the_last_title_is_never_paired_with_another_number_of_turns() -> None:
    with pytest.raises(ValueError, match="zip"):
        turns(asset(), ["a"], np.zeros((2, 4), np.float32))
