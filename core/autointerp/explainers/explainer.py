"""What every explainer is, and how each of them asks.

An explainer builds messages from a feature's examples and reads one explanation from the answer. An answer without one
is asked for once more, at a temperature that gives another answer; after that the explanation is `parse_failed`. There
is no text that stands for a failure, because it would be scored like any other.

A prompt that is too long for the model is asked once more with the stronger half of its examples. Other errors of the
language model pass through: they are about the provider, not about the feature.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Final, Protocol

from pydantic import BaseModel, ConfigDict, Field

from core.autointerp.examples import Example, FeatureRecord
from core.autointerp.language_model import Ask, ChatMessage, LanguageModel
from core.autointerp.prompts import prompt_hash
from core.autointerp.results import Explanation
from core.errors import InvalidRequest, PromptTooLong

_SECOND_TEMPERATURE: Final = 0.7
_ANSWER: Final = "[EXPLANATION]:"


class Explainer(Protocol):
    """Explains features."""

    async def explain(self, record: FeatureRecord) -> Explanation:
        """What the feature stands for.

        Raises:
            InvalidRequest: The record lacks what this explainer reads.
            RayscopeError: The language model gave no answer.
        """
        ...


class AskingParameters(BaseModel):
    """How a language model is asked for an explanation."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    temperature: float | None = Field(
        default=0.0, ge=0, le=2, description="Randomness of the answer; null leaves it to the provider."
    )
    max_tokens: int = Field(default=500, ge=1, le=100_000, description="Tokens of the answer at most.")
    seed: int | None = Field(default=None, description="Sent to the provider, which may make answers repeatable by it.")


async def ask_about_examples(
    model: LanguageModel,
    examples: Sequence[Example],
    messages_of: Callable[[Sequence[Example]], Sequence[ChatMessage]],
    parameters: AskingParameters,
    read: Callable[[str], str | None],
) -> Explanation:
    """Asks about examples; about the stronger half of them if all are too long for the model.

    Args:
        model: Answers.
        examples: At least one.
        messages_of: The question about some of them, given in the same order.
        parameters: How to ask.
        read: As for `ask_for_explanation`.

    Raises:
        PromptTooLong: The half is too long, too, or there is only one.
    """
    try:
        return await ask_for_explanation(model, messages_of(examples), parameters, read)
    except PromptTooLong:
        if len(examples) == 1:
            raise
    return await ask_for_explanation(model, messages_of(stronger_half(examples)), parameters, read)


async def ask_for_explanation(
    model: LanguageModel,
    messages: Sequence[ChatMessage],
    parameters: AskingParameters,
    read: Callable[[str], str | None],
) -> Explanation:
    """Asks once, and once more if no explanation can be read.

    Args:
        model: Answers.
        messages: The question.
        parameters: How to ask.
        read: The explanation in an answer, None if there is none.
    """
    ask = Ask(tuple(messages), parameters.max_tokens, parameters.temperature, parameters.seed)
    reply = await model.ask(ask)
    usage = reply.usage
    text = read(reply.text)
    if not text:
        reply = await model.ask(replace(ask, temperature=_SECOND_TEMPERATURE))
        usage += reply.usage
        text = read(reply.text)
    return Explanation(text or "", "ok" if text else "parse_failed", prompt_hash(messages), usage)


def read_marked_answer(text: str) -> str | None:
    """What follows the first `[EXPLANATION]:`, as delphi reads it; None if nothing does."""
    return text.partition(_ANSWER)[2].strip() or None


def stronger_half(examples: Sequence[Example]) -> list[Example]:
    """The half of the examples where the feature is strongest, at least one, in the order given."""
    ranked = sorted(range(len(examples)), key=lambda at: -examples[at].maximum)
    return [examples[at] for at in sorted(ranked[: (len(examples) + 1) // 2])]


def train_examples(record: FeatureRecord) -> tuple[Example, ...]:
    """The examples to explain a feature by.

    Raises:
        InvalidRequest: There are none, or one where the feature is silent is among them.
    """
    if not record.train:
        raise InvalidRequest("there is no example to explain the feature by", "Give at least one where it fires.")
    if not all(example.is_active for example in record.train):
        raise InvalidRequest(
            "the feature does not fire in an example that it is to be explained by",
            "Leave examples out whose activations are all 0, or give them as silent ones.",
        )
    return record.train
