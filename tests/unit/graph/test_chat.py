"""Conversations as prompts, and back."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.chat_template import Message
from core.errors import InvalidRequest
from core.graph.chat import TurnDelimiters, render_prompt
from core.graph.prompt import without_bos
from core.prompts import PromptTokenizer
from tests.unit import tiny_tokenizers as tiny

USER, ANSWER = Message("user", "Where is the cat?"), Message("assistant", "On the mat.")
SYSTEM = Message("system", "Be brief.")
# As Qwen3: the last turn of the assistant gets reasoning tags that earlier ones do not have.
DECORATING = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n"
    "{% if m.role == 'assistant' and loop.last %}<think>\n\n</think>\n\n{% endif %}{{ m.content }}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
# No end of turn, and a space that belongs to the header.
PLAIN_WORDS = (
    "{% for m in messages %}{{ {'user': 'USER: ', 'assistant': 'ASSISTANT: '}[m.role] }}{{ m.content }}\n{% endfor %}"
    "{% if add_generation_prompt %}ASSISTANT: {% endif %}"
)


def a_tokenizer(build: Any, template: str | None) -> PromptTokenizer:
    hf = build()
    hf.chat_template = template
    return PromptTokenizer(hf)


CHATS = {
    "chatml": a_tokenizer(tiny.qwen, tiny.CHATML),
    "decorating": a_tokenizer(tiny.qwen, DECORATING),
    "gemma": a_tokenizer(tiny.gemma, tiny.GEMMA),
    "gemma-folding-system": a_tokenizer(tiny.gemma, tiny.GEMMA_FOLDING_SYSTEM),
    "llama3": a_tokenizer(tiny.llama3, tiny.LLAMA3),
    "words": a_tokenizer(tiny.gpt2, PLAIN_WORDS),
}
EVERY = pytest.mark.parametrize("name", list(CHATS))


def headers(name: str) -> dict[str, str]:
    return dict(TurnDelimiters.learn(CHATS[name]).headers)


def test_headers_are_what_the_template_writes_before_a_message() -> None:
    assert headers("chatml") == {role: f"<|im_start|>{role}\n" for role in ("system", "user", "assistant")}
    assert headers("decorating") == headers("chatml")
    assert headers("gemma")["user"] == "<start_of_turn>user\n"
    assert headers("gemma")["assistant"] == "<start_of_turn>model\n"
    assert headers("llama3")["user"] == "<|start_header_id|>user<|end_header_id|>\n\n"
    assert headers("words") == {"user": "USER: ", "assistant": "ASSISTANT: "}


def test_footers_are_what_it_writes_behind() -> None:
    assert dict(TurnDelimiters.learn(CHATS["gemma"]).footers)["assistant"] == "<end_of_turn>\n"
    assert dict(TurnDelimiters.learn(CHATS["llama3"]).footers)["user"] == "<|eot_id|>"


def test_a_model_without_a_template_has_no_conversations() -> None:
    tokenizer = a_tokenizer(tiny.gpt2, None)
    assert TurnDelimiters.learn(tokenizer) == TurnDelimiters({}, {})
    assert TurnDelimiters.learn(tokenizer).parse("<|im_start|>user\nHello") is None
    with pytest.raises(InvalidRequest, match="no chat template"):
        render_prompt(tokenizer, [USER])


@EVERY
def test_a_conversation_is_found_again(name: str) -> None:
    tokenizer = CHATS[name]
    prompt = render_prompt(tokenizer, [USER, ANSWER, USER, Message("assistant", " ")])
    found = TurnDelimiters.learn(tokenizer).parse(without_bos(tokenizer, prompt))
    assert found is not None
    said = [message for message in found if message.role != "system"]  # Llama 3 writes one of its own
    assert said == [USER, ANSWER, USER, Message("assistant", "")]


_texts = st.text(st.characters(exclude_categories=("Cs", "Co")), max_size=20).map(lambda text: f"x{text}x")


@pytest.mark.parametrize("name", ["chatml", "gemma"])
@given(contents=st.lists(_texts, min_size=1, max_size=4))
def test_any_text_without_delimiters_is_found_again(name: str, contents: list[str]) -> None:
    tokenizer = CHATS[name]
    messages = [Message(("user", "assistant")[at % 2], content) for at, content in enumerate(contents)]
    prompt = render_prompt(tokenizer, [*messages, Message("assistant", "")] if len(messages) % 2 else messages)
    found = TurnDelimiters.learn(tokenizer).parse(prompt)
    wanted = [*messages, Message("assistant", "")] if len(messages) % 2 else messages
    assert found == wanted


def test_the_last_message_is_left_open_to_be_continued() -> None:
    assert render_prompt(CHATS["chatml"], [USER, ANSWER]).endswith("<|im_start|>assistant\nOn the mat.")
    assert render_prompt(CHATS["chatml"], [USER]).endswith("<|im_start|>user\nWhere is the cat?")
    assert render_prompt(CHATS["chatml"], [Message("assistant", "")]).endswith("<|im_start|>assistant\n")


def test_a_blank_last_message_of_the_assistant_opens_its_turn() -> None:
    for blank in ("", " \n"):
        prompt = render_prompt(CHATS["gemma"], [USER, Message("assistant", blank)])
        assert prompt == "<bos><start_of_turn>user\nWhere is the cat?<end_of_turn>\n<start_of_turn>model\n"


def test_a_template_that_can_not_leave_a_turn_open_opens_the_next() -> None:
    # It writes no message whole, so there is nothing that could be continued.
    tokenizer = a_tokenizer(
        tiny.qwen,
        "{% for m in messages %}[{{ m.role }}]{{ m.content | upper }}{% endfor %}"
        "{% if add_generation_prompt %}[assistant]{% endif %}",
    )
    assert render_prompt(tokenizer, [USER]) == "[user]WHERE IS THE CAT?[assistant]"


def test_what_the_template_refuses_is_refused() -> None:
    with pytest.raises(InvalidRequest, match="must alternate"):
        render_prompt(CHATS["gemma"], [USER, USER])
    with pytest.raises(InvalidRequest, match="not valid Unicode"):
        render_prompt(CHATS["chatml"], [Message("user", "\ud800")])


@EVERY
def test_a_plain_text_is_no_conversation(name: str) -> None:
    assert TurnDelimiters.learn(CHATS[name]).parse("The cat sleeps on the mat.") is None
    assert TurnDelimiters.learn(CHATS[name]).parse("") is None


def test_reasoning_and_lost_line_breaks_stay_with_their_message() -> None:
    learned = TurnDelimiters.learn(CHATS["decorating"])
    found = learned.parse(
        "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n<think>\nA cat.\n</think>\nYes<|im_end|>"
    )
    assert found == [Message("user", "Hi"), Message("assistant", "<think>\nA cat.\n</think>\nYes")]


def test_a_system_message_is_found() -> None:
    prompt = render_prompt(CHATS["chatml"], [SYSTEM, USER, Message("assistant", "")])
    assert TurnDelimiters.learn(CHATS["chatml"]).parse(prompt) == [SYSTEM, USER, Message("assistant", "")]
