r"""Turns of a conversation in generated text: where one ends, and what of it is thought and what is said.

A model that answers in a chat writes raw text: markers, reasoning in the tags of its family, sometimes the beginning of
another turn. `TurnFormat` makes messages of it, reasoning always as `<think>...</think>`:

    prompt  ...<|assistant|>\n          text  It is on the mat.<|end|>       ->  It is on the mat.
    prompt  ...<|assistant|>\n<think>\n text  A cat. </think>A cat sleeps.   ->  <think>A cat. </think>A cat sleeps.

Harmony (gpt-oss) has channels instead of tags: what is written to `analysis` is reasoning and belongs to the message
that follows it.

    <|channel|>analysis<|message|>A cat.<|end|><|start|>assistant<|channel|>final<|message|>A cat sleeps.<|return|>

On the way back in, the reasoning of earlier turns is left out, as models are trained to see it.

Deliberately not here: rendering a conversation (`core.chat`).
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Final, Self

from core.chat_template import Message
from core.prompts import PromptTokenizer

ASSISTANT: Final = "assistant"
ASSISTANT_ROLES: Final = frozenset({ASSISTANT, "model"})
"""What templates call the model's own turns."""

_OPEN, _CLOSE = "<think>", "</think>"

# How families end an assistant's turn, besides their EOS token.
_TURN_ENDS: Final = (
    "<|end|>",
    "<|im_end|>",
    "<|eot_id|>",
    "<|eom_id|>",
    "<end_of_turn>",
    "<|endoftext|>",
    "<|END_OF_TURN_TOKEN|>",
    "<|end_of_text|>",
)
_REASONING_TAGS: Final = (
    ("[THINK]", "[/THINK]"),
    ("<|START_THINKING|>", "<|END_THINKING|>"),
    ("<seed:think>", "</seed:think>"),
    ("◁think▷", "◁/think▷"),
)

_START, _CHANNEL, _MESSAGE = "<|start|>", "<|channel|>", "<|message|>"
_HARMONY: Final = (_START, _CHANNEL, _MESSAGE)
_HARMONY_STOPS: Final = ("<|return|>", "<|call|>")
_HARMONY_END: Final = re.compile(r"<\|(?:end|return|call)\|>")


@dataclass(frozen=True, slots=True)
class TurnFormat:
    """How one model's turns look.

    Attributes:
        stop_ids: Tokens that end an assistant's turn, EOS included.
        ends: The same as text; longer ones first.
        harmony: Whether turns have channels.
    """

    stop_ids: frozenset[int]
    ends: tuple[str, ...]
    harmony: bool

    @classmethod
    def of(cls, tokenizer: PromptTokenizer) -> Self:
        """Reads it off the vocabulary."""
        harmony = len(_ids(tokenizer, _HARMONY)) == len(_HARMONY)
        # A Harmony message ends with <|end|>, its turn does not.
        found = _ids(tokenizer, _HARMONY_STOPS if harmony else _TURN_ENDS)
        eos_id = tokenizer.hf.eos_token_id
        if eos_id is not None:
            found[tokenizer.hf.eos_token] = eos_id
        return cls(frozenset(found.values()), tuple(sorted(found, key=len, reverse=True)), harmony)

    def compose(self, prompt: str, generated: str) -> list[Message]:
        """The assistant's messages in generated text; none while it says nothing.

        Args:
            prompt: The conversation as the model read it, up to the opening of the assistant's turn.
            generated: What it wrote, special tokens kept.
        """
        if self.harmony:
            return _channels(generated)
        text = _standard_tags(_before(self.ends, generated))
        if text.strip() and _standard_tags(prompt).rstrip().endswith(_OPEN):
            text = _OPEN + text
        return _said(text)


def eos_ids(tokenizer: PromptTokenizer) -> frozenset[int]:
    """Tokens that end a plain text."""
    eos_id = tokenizer.hf.eos_token_id
    return frozenset() if eos_id is None else frozenset({eos_id})


def without_reasoning(messages: Iterable[Message]) -> list[Message]:
    """A conversation as it is shown to the model: without the closed reasoning of the assistant's turns.

    A turn of which nothing is left is dropped. What other roles say stays as it is.
    """
    kept: list[Message] = []
    for message in messages:
        said = _without_thoughts(message.content) if message.role in ASSISTANT_ROLES else message.content
        if said == message.content:
            kept.append(message)
        elif said.strip():
            kept.append(replace(message, content=said.strip()))
    return kept


def _without_thoughts(text: str) -> str:
    """Text without what lies between reasoning tags. One pass: the text is a client's, and of any length."""
    parts: list[str] = []
    at = 0
    while (start := text.find(_OPEN, at)) >= 0 and (end := text.find(_CLOSE, start)) >= 0:
        parts.append(text[at:start])
        at = end + len(_CLOSE)
    return "".join(parts) + text[at:]


def _ids(tokenizer: PromptTokenizer, markers: Sequence[str]) -> dict[str, int]:
    """Those markers that are tokens of the vocabulary."""
    unknown = (None, tokenizer.hf.unk_token_id)
    found = {marker: tokenizer.hf.convert_tokens_to_ids(marker) for marker in markers}
    return {marker: id_ for marker, id_ in found.items() if id_ not in unknown}


def _before(ends: Sequence[str], text: str) -> str:
    """The text up to the first of the markers."""
    return text[: min((at for end in ends if (at := text.find(end)) >= 0), default=len(text))]


def _standard_tags(text: str) -> str:
    for opening, closing in _REASONING_TAGS:
        text = text.replace(opening, _OPEN).replace(closing, _CLOSE)
    return text


def _said(text: str) -> list[Message]:
    return [Message(ASSISTANT, text.strip())] if text.strip() else []


def _channels(generated: str) -> list[Message]:
    """Messages of a Harmony text; reasoning that nothing follows yet is one of its own, open until it has ended."""
    messages: list[Message] = []
    thought = ""
    for block in generated.split(_START):
        header, found, rest = block.partition(_MESSAGE)
        if not found:
            continue  # a header that is still being written
        end = _HARMONY_END.search(rest)
        body = rest[: end.start()] if end else rest
        if "analysis" in header.partition(_CHANNEL)[2]:
            thought += f"{_OPEN}{body}{_CLOSE if end else ''}" if body.strip() else ""
        else:
            messages += _said(thought + body)
            thought = ""
    return messages + _said(thought)
