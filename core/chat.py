"""Conversations as the model reads them, and whose every token is.

The template says which text it is (`chat_template`) and, asked again, which characters are whose (`chat_regions`); here
characters become tokens, through the tokenizer's offsets.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from core.chat_regions import Section, assign, cut_regions
from core.chat_template import ChatTemplate, Message
from core.prompts import PromptTokenizer, TokenLimit


@dataclass(frozen=True, slots=True)
class Span:
    """One token of a written-out conversation.

    Attributes:
        position: Position of the token.
        token_id: Its id.
        token_str: Its text, decoded alone.
        message_index: The message that it belongs to; None for the template's own text.
        role: Whose turn it is in; None outside of turns.
        channel: The message's channel.
        section: Part of the turn.
    """

    position: int
    token_id: int
    token_str: str
    message_index: int | None
    role: str | None
    channel: str | None
    section: Section


@dataclass(frozen=True, slots=True)
class RenderedChat:
    """A conversation as the model reads it; `tokens` and `spans` have one entry per token."""

    prompt: str
    tokens: tuple[int, ...]
    spans: tuple[Span, ...]


@dataclass(frozen=True, slots=True)
class MessagePartition:
    """A closed conversation cut into one run of tokens per message.

    Attributes:
        tokens: Token ids of the whole conversation.
        bounds: For each message `(start, end)`; together they cover every token, in order, without gaps.
    """

    tokens: tuple[int, ...]
    bounds: tuple[tuple[int, int], ...]


def render_chat(
    tokenizer: PromptTokenizer,
    messages: Sequence[Message],
    add_generation_prompt: bool = True,
    chat_template_kwargs: Mapping[str, Any] | None = None,
    max_tokens: int | None = None,
) -> RenderedChat:
    """Write a conversation out and say of each token whose it is.

    Args:
        tokenizer: The model's tokenizer.
        messages: The conversation, oldest first.
        add_generation_prompt: Whether to end with the opening of an assistant turn.
        chat_template_kwargs: Variables of the template.
        max_tokens: Longest conversation to answer for.

    Raises:
        InvalidRequest: The model has no template, the template refuses the messages, a variable is not the caller's to
            set, or the result is too long.
    """
    template = ChatTemplate(tokenizer, messages, chat_template_kwargs or {})
    prompt = template.render(messages, add_generation_prompt)
    encoding = tokenizer.encode_rendered(prompt, _limit(max_tokens))
    regions = cut_regions(template, messages, prompt, add_generation_prompt, tokenizer.hf.bos_token)
    ids = tuple(encoding.ids)
    spans: list[Span] = []
    for position, (id_, string, at) in enumerate(
        zip(ids, tokenizer.str_tokens(ids), assign(encoding.offsets, regions), strict=True)
    ):
        region = regions[at]
        spans.append(
            Span(
                position=position,
                token_id=id_,
                token_str=string,
                message_index=region.message_index,
                role=region.role,
                channel=region.channel,
                section=region.section,
            )
        )
    return RenderedChat(prompt, ids, tuple(spans))


def write_chat(
    tokenizer: PromptTokenizer,
    messages: Sequence[Message],
    chat_template_kwargs: Mapping[str, Any] | None = None,
    limit: TokenLimit | None = None,
) -> tuple[int, ...]:
    """The tokens after which the model writes the assistant's next turn; `render_chat` without the owners.

    Raises:
        InvalidRequest: As in `render_chat`.
    """
    prompt = ChatTemplate(tokenizer, messages, chat_template_kwargs or {}).render(messages, True)
    return tuple(tokenizer.encode_rendered(prompt, limit).ids)


def message_partition(
    tokenizer: PromptTokenizer,
    messages: Sequence[Message],
    chat_template_kwargs: Mapping[str, Any] | None = None,
    max_tokens: int | None = None,
) -> MessagePartition:
    """Cut a closed conversation into one run of tokens per message, for pooling over turns.

    Text of the template before the first message counts as the first message's.

    Raises:
        InvalidRequest: As in `render_chat`.
    """
    template = ChatTemplate(tokenizer, messages, chat_template_kwargs or {})
    prompt = template.render(messages, False)
    encoding = tokenizer.encode_rendered(prompt, _limit(max_tokens))
    regions = cut_regions(template, messages, prompt, False, tokenizer.hf.bos_token)
    owners = [regions[at].message_index or 0 for at in assign(encoding.offsets, regions)]
    ends = [sum(owner <= index for owner in owners) for index in range(len(messages))]
    return MessagePartition(tuple(encoding.ids), tuple(zip([0, *ends], ends, strict=False)))


def _limit(max_tokens: int | None) -> TokenLimit | None:
    return None if max_tokens is None else TokenLimit(max_tokens, subject="Rendered chat")
