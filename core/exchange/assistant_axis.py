"""The assistant axis of a chat that has been written: what to ask the model, and the part of the reply.

    axis_questions(model, asset, prompt, written)   ->  AxisQuestions; ask .questions, in order
    axis_reply(asked, answers, post_cap)            ->  SteerAssistantAxis per type

`pcValues` are always read without steering, so the steered text, too, is asked about in a forward pass of its own.
`pcValuesPostCap` are read by the engine that wrote it, steered as it was.

While the monitor is on, the prompt must have been rendered from `core.persona.monitor.rendered(messages, asset)`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from core.chat_template import Message
from core.errors import InvalidRequest
from core.exchange.served import ServedModel
from core.generation.turns import TurnFormat
from core.persona.asset import PersonaAsset
from core.persona.monitor import Turn, Watched, conversation, turns, watch
from core.questions import MessageMeansAnswer, MessageMeansQuestion, Question
from core.wire.steering import NPSteerType
from core.wire.steering_chat import SteerAssistantAxis, SteerAssistantAxisTurn


@dataclass(frozen=True, slots=True)
class AxisQuestions:
    """What is asked about each text, by type and in the order of `types`."""

    asset: PersonaAsset
    watched: dict[NPSteerType, Watched]

    @property
    def questions(self) -> list[Question]:
        """One per type."""
        hook = self.asset.primary.hook_name
        return [MessageMeansQuestion(read.tokens, hook, read.spans) for read in self.watched.values()]


def axis_questions(
    model: ServedModel, asset: PersonaAsset, prompt: Sequence[Message], written: Mapping[NPSteerType, str]
) -> AxisQuestions:
    """What must be read of the conversations.

    Args:
        model: The served model.
        asset: Its directions.
        prompt: The messages that were rendered for the model.
        written: By type, in the order of the reply, what the assistant wrote; what follows its end-of-turn marker is
            not read.

    Returns:
        Questions about every type whose conversation can be rendered closed. Some templates refuse one; the text is
        written by then and worth answering without its axis.
    """
    ends = TurnFormat.of(model.tokenizer).ends
    limit = model.description.limits.generation_limit - 1  # a Steerer keeps one position for a token to write
    watched: dict[NPSteerType, Watched] = {}
    for type_, text in written.items():
        said = text[: min((at for end in ends if (at := text.find(end)) >= 0), default=len(text))]
        try:
            watched[type_] = watch(model.tokenizer, conversation(prompt, said), limit)
        except InvalidRequest:
            continue
    return AxisQuestions(asset, watched)


def axis_reply(
    asked: AxisQuestions,
    answers: Sequence[MessageMeansAnswer],
    post_cap: Mapping[NPSteerType, npt.NDArray[np.float32]] | None = None,
) -> list[SteerAssistantAxis] | None:
    """The reply's `assistantAxis`; None, which leaves it out, where nothing could be read.

    Args:
        asked: What was asked.
        answers: Its answers, in order.
        post_cap: By type the turns' means `[turns, d]` under steering, for types that were steered.
    """
    pooled = post_cap or {}
    reply = [
        SteerAssistantAxis(
            type=type_,
            pc_titles=list(asked.asset.titles),
            turns=[_turn(turn) for turn in turns(asked.asset, read.snippets, answer.means, pooled.get(type_))],
        )
        for (type_, read), answer in zip(asked.watched.items(), answers, strict=True)
    ]
    return reply or None


def _turn(turn: Turn) -> SteerAssistantAxisTurn:
    return SteerAssistantAxisTurn(pc_values=turn.values, pc_values_post_cap=turn.values_post_cap, snippet=turn.snippet)
