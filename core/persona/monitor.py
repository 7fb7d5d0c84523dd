"""From a conversation to what must be read of it, and from what was read to what is reported.

    conversation(messages, text)      the prompt's messages, then one of the assistant's that holds what was written
      -> watch(tokenizer, ...)        its tokens, and one span per assistant message
      -> means [turns, d]             pooled on the device, in a forward pass of its own
      -> turns(asset, ...)            one report per assistant message

A message's span is everything that belongs to it in the closed conversation, header and footer too
(`core.chat.message_partition`). Only the assistant's messages are reported.

Pure functions; no device, no engine.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from core.chat import message_partition
from core.chat_template import Message
from core.generation.turns import ASSISTANT_ROLES
from core.persona.asset import PersonaAsset
from core.persona.projection import project
from core.prompts import PromptTokenizer

_SNIPPET_CHARS: Final = 120

Spans = tuple[tuple[int, int], ...]


@dataclass(frozen=True, slots=True)
class Watched:
    """A conversation with the turns to read.

    Attributes:
        tokens: Its token ids, as far as the last turn; what comes later does not change a turn's residuals.
        spans: `(start, end)` of each assistant message, in order.
        snippets: Beginning of each of them.
    """

    tokens: tuple[int, ...]
    spans: Spans
    snippets: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Turn:
    """One assistant message on the axes.

    Attributes:
        values: Title to projection, without steering.
        values_post_cap: The same under steering; None where nothing was steered.
        snippet: How the message begins.
    """

    values: dict[str, float]
    values_post_cap: dict[str, float] | None
    snippet: str


def rendered(messages: Sequence[Message], asset: PersonaAsset) -> list[Message]:
    """The messages as the model is shown them while the monitor is on: some axes know no system prompt."""
    shown = list(messages)
    if asset.blank_system_prompt and shown and shown[0].role == "system":
        shown[0] = Message("system", "", shown[0].channel)
    return shown


def conversation(messages: Sequence[Message], text: str) -> list[Message]:
    """The rendered prompt and the turn that was written."""
    return [*messages, Message("assistant", text)]


def watch(tokenizer: PromptTokenizer, messages: Sequence[Message], max_tokens: int | None = None) -> Watched:
    """What of a conversation must be read.

    Args:
        tokenizer: The model's tokenizer.
        messages: The whole conversation, the written turn included.
        max_tokens: Most tokens that the model reads. What lies beyond counts as not said: a last turn that filled
            the model's context has no room for its footer.

    Raises:
        InvalidRequest: The conversation can not be rendered.
    """
    partition = message_partition(tokenizer, messages)
    limit = len(partition.tokens) if max_tokens is None else max_tokens
    spans = _turn_spans(messages, partition.bounds, limit)
    last = max((end for _, end in spans), default=1)
    return Watched(partition.tokens[:last], spans, _snippets(messages))


def turns(
    asset: PersonaAsset,
    snippets: Sequence[str],
    means: npt.NDArray[np.floating],
    means_post_cap: npt.NDArray[np.floating] | None = None,
) -> list[Turn]:
    """What is reported.

    Args:
        asset: The directions.
        snippets: One per turn.
        means: Mean residual of each turn without steering, `[turns, d]`; zeros for an empty span.
        means_post_cap: The same under steering.
    """
    before = _values(asset, means)
    after = [None] * len(before) if means_post_cap is None else _values(asset, means_post_cap)
    return [Turn(*turn) for turn in zip(before, after, snippets, strict=True)]


def _values(asset: PersonaAsset, means: npt.NDArray[np.floating]) -> list[dict[str, float]]:
    rows = project(means, asset.primary)[:, : len(asset.titles)]
    return [dict(zip(asset.titles, row, strict=True)) for row in rows.tolist()]


def _turn_spans(messages: Sequence[Message], bounds: Spans, limit: int) -> Spans:
    return tuple(
        (min(start, limit), min(end, limit))
        for message, (start, end) in zip(messages, bounds, strict=True)
        if message.role in ASSISTANT_ROLES
    )


def _snippets(messages: Sequence[Message]) -> tuple[str, ...]:
    said = [message.content for message in messages if message.role in ASSISTANT_ROLES]
    return tuple(text[:_SNIPPET_CHARS] + "..." * (len(text) > _SNIPPET_CHARS) for text in said)
