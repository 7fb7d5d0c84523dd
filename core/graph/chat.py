r"""Conversations as prompts of graphs, and prompts read back as conversations.

Graph routes carry a chat as one string, which people edit: the conversation must be found again in it, without a memory
of how it was written. What stands around a message is asked of the template itself, by giving it a marker to say:

    <|im_start|>user\n   (marker)   <|im_end|>\n
    header                          footer

A prompt is then cut at the headers. That is a guess by design: a header inside of a message opens a turn, as it does
for the model.

Deliberately not here: whose every token is. `core.chat` knows that of conversations that it renders itself.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Self

from core.chat_template import Message
from core.errors import InvalidRequest
from core.graph.prompt import without_bos
from core.prompts import PromptTokenizer, check_unicode

_USER, _ASSISTANT = "user", "assistant"
_ROLES: Final = ("system", _USER, _ASSISTANT)
_MARKER: Final = "\ue000turn\ue001"  # private-use characters: no template writes them


def render_prompt(tokenizer: PromptTokenizer, messages: Sequence[Message]) -> str:
    """A conversation as the model reads it, up to where the model goes on.

    A blank last message of the assistant asks for a new turn. Any other last message is left open, to be continued; if
    the template does not allow that, a turn of the assistant is opened behind it.

    Args:
        tokenizer: The model's.
        messages: The conversation, oldest first; at least one.

    Raises:
        InvalidRequest: The model has no template, or it refuses the messages.
    """
    if not tokenizer.hf.chat_template:
        raise InvalidRequest(
            "This model's tokenizer has no chat template, so it cannot render chat messages",
            "Send plain text as `prompt` instead.",
        )
    for message in messages:
        check_unicode(message.role + message.content)
    last = messages[-1]
    if len(messages) > 1 and last.role == _ASSISTANT and not last.content.strip():
        return _render(tokenizer, messages[:-1], add_generation_prompt=True)
    try:
        return _render(tokenizer, messages, continue_final_message=True)
    except InvalidRequest:
        return _render(tokenizer, messages, add_generation_prompt=True)


def _render(tokenizer: PromptTokenizer, messages: Sequence[Message], **options: bool) -> str:
    conversation = [{"role": message.role, "content": message.content} for message in messages]
    hf: Any = tokenizer.hf
    try:
        return hf.apply_chat_template(conversation, tokenize=False, **options)
    except Exception as error:  # a template is a program and may raise anything
        raise InvalidRequest(f"Failed to apply chat template: {error}") from error


@dataclass(frozen=True, slots=True)
class TurnDelimiters:
    """What a model's template writes around messages.

    Attributes:
        headers: Role to what opens its turn; roles that the template does not know are absent.
        footers: Role to what closes its turn.
    """

    headers: Mapping[str, str]
    footers: Mapping[str, str]

    @classmethod
    def learn(cls, tokenizer: PromptTokenizer) -> Self:
        """Asks the template; of a model without one there is nothing to learn."""
        alone = _around(tokenizer, [_USER])
        if alone is None:
            return cls({}, {})
        opening, footer = alone
        headers: dict[str, str] = {}
        footers: dict[str, str] = {}
        for role in _ROLES:
            # The last turn may be decorated, as Qwen3 does with <think>, so a turn in the middle tells more.
            middle = _around(tokenizer, [_USER, role, _USER])
            end = _around(tokenizer, [_USER, role])
            seen = middle or end
            header = "" if seen is None else seen[1].removeprefix(footer)
            if role == _USER and not header.strip():  # templates that insist on alternating roles
                header = without_bos(tokenizer, opening)
            if header.strip():
                headers[role] = header
                footers[role] = footer if end is None else end[-1]
        return cls(headers, footers)

    def parse(self, prompt: str) -> list[Message] | None:
        """The messages of a rendered conversation; None if no turn opens in it.

        Text before the first turn belongs to no message. Reasoning stays in the message.
        """
        if not self.headers:
            return None
        longest_first = sorted(self.headers, key=lambda role: -len(self.headers[role]))
        opens = re.compile("|".join(f"(?P<{role}>{re.escape(self.headers[role])})" for role in longest_first))
        found = [(str(match.lastgroup), match.start(), match.end()) for match in opens.finditer(prompt)]
        if not found:
            return None
        ends = [start for _, start, _ in found[1:]] + [len(prompt)]
        return [
            Message(role, self._content(role, prompt[start:end]))
            for (role, _, start), end in zip(found, ends, strict=True)
        ]

    def _content(self, role: str, text: str) -> str:
        footer = self.footers[role]
        # People lose the line break behind the last turn.
        return text.removesuffix(footer) if text.endswith(footer) else text.removesuffix(footer.rstrip())


def _around(tokenizer: PromptTokenizer, roles: Sequence[str]) -> list[str] | None:
    """What the template writes before, between and behind messages of these roles; None if it refuses them."""
    if not tokenizer.hf.chat_template:
        return None
    try:
        rendered = _render(tokenizer, [Message(role, _MARKER) for role in roles], add_generation_prompt=False)
    except InvalidRequest:
        return None
    pieces = rendered.split(_MARKER)
    return pieces if len(pieces) == len(roles) + 1 else None
