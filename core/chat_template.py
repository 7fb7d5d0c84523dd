"""A model's chat template: conversations in, the text that the model reads out.

The template is the model's; a caller may set its variables but neither replace it nor change how its output is
tokenised. It runs in the sandbox of transformers.
"""

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import Any

from core.errors import InvalidRequest
from core.prompts import PromptTokenizer, check_unicode


@dataclass(frozen=True, slots=True)
class Message:
    """One message of a conversation."""

    role: str
    content: str
    channel: str | None = None


class ChatTemplate:
    """A model's chat template with the caller's variables set, ready for these messages.

    Raises:
        InvalidRequest: There are no messages, the model has no template, or a variable is not the caller's to set.
    """

    def __init__(self, tokenizer: PromptTokenizer, messages: Sequence[Message], variables: Mapping[str, Any]) -> None:
        if not messages:
            raise InvalidRequest("At least one message is required")
        if tokenizer.hf.chat_template is None:
            raise InvalidRequest(
                "This model's tokenizer has no chat template, so it cannot render chat messages",
                "Send plain text to /v1/steer/completion or /v1/tokenize instead.",
            )
        for message in messages:
            for text in (message.role, message.content, message.channel or ""):
                check_unicode(text)
        reserved = sorted(_reserved(tokenizer.hf.apply_chat_template) & set(variables))
        if reserved:
            raise InvalidRequest(
                f"chatTemplateKwargs may only set the template's own variables, not {', '.join(reserved)}"
            )
        self._hf = tokenizer.hf
        self._variables = dict(variables)

    def render(self, messages: Sequence[Message], add_generation_prompt: bool) -> str:
        """Write `messages` out.

        Raises:
            InvalidRequest: The template refuses them.
        """
        conversation = [
            {"role": m.role, "content": m.content} | ({} if m.channel is None else {"channel": m.channel})
            for m in messages
        ]
        try:
            return self._hf.apply_chat_template(
                conversation, tokenize=False, add_generation_prompt=add_generation_prompt, **self._variables
            )
        except Exception as error:  # a template is a program and may raise anything
            raise InvalidRequest(f"Failed to apply chat template: {error}") from error

    def attempt(self, messages: Sequence[Message], add_generation_prompt: bool = False) -> str | None:
        """Write `messages` out, or return None if the template refuses them."""
        try:
            return self.render(messages, add_generation_prompt) if messages else None
        except InvalidRequest:
            return None


def _reserved(apply_chat_template: Callable[..., Any]) -> set[str]:
    """Names that mean something to transformers itself, and so are not variables of a template."""
    rendering: Any = import_module("transformers.utils.chat_template_utils")  # seconds to import
    functions: list[Callable[..., Any]] = [apply_chat_template, rendering.render_jinja_template]
    names = {"self", "messages"}
    for function in functions:
        parameters = inspect.signature(function).parameters.values()
        names.update(p.name for p in parameters if p.kind is not inspect.Parameter.VAR_KEYWORD)
    return names
