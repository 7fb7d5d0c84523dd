"""delphi's explainers: marked examples in, a sentence about what the marks have in common out.

    default       the strongest examples, marks, and how strong each marked token is
    default-cot   the same, and steps of thought are asked for before the answer
    contrastive   a few examples where the feature is silent, too
    single-token  only the strongest tokens, as a list of words

Against delphi 0.1.3: its contrastive explainer reads activations that silent examples do not have there and fails; its
single-token explainer sends whole texts where its own instructions speak of words. Both do what they say here.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil, floor
from typing import Final

from pydantic import Field

from core.autointerp.examples import Example, FeatureRecord
from core.autointerp.explainers.explainer import (
    AskingParameters,
    ask_about_examples,
    read_marked_answer,
    train_examples,
)
from core.autointerp.language_model import ChatMessage, LanguageModel
from core.autointerp.marking import mark
from core.autointerp.prompts import PromptStyle, contrasting, explaining, naming_words
from core.autointerp.results import Explanation
from core.errors import InvalidRequest

_SHOWN_ACTIVATIONS: Final = 11
_TOP: Final = 10


class MarkingParameters(AskingParameters):
    """How examples are shown."""

    prompt_style: PromptStyle = Field(
        default="delphi", description="Whose words: delphi's of today or those of the peer's server."
    )
    threshold: float = Field(
        default=0.3, ge=0, lt=1, description="A token is marked above this share of its example's strongest activation."
    )


class DefaultParameters(MarkingParameters):
    """Parameters of `default` and `default-cot`."""

    show_activations: bool = Field(
        default=True, description="Whether the strength of marked tokens is shown, from 0 to 10."
    )


class ContrastiveParameters(DefaultParameters):
    """Parameters of `contrastive`."""

    max_examples: int = Field(default=15, ge=1, description="Examples where the feature fires at most.")
    max_silent: int = Field(default=5, ge=1, description="Examples where it is silent at most.")


class SingleTokenParameters(AskingParameters):
    """Parameters of `single-token`."""

    prompt_style: PromptStyle = Field(
        default="delphi", description="Whose words: delphi's of today or those of the peer's server."
    )


# What the peer's route sends: no strengths, a higher threshold, its provider's defaults.
NEURONPEDIA: Final = DefaultParameters(
    prompt_style="neuronpedia", threshold=0.6, show_activations=False, temperature=1.0, max_tokens=500
)


@dataclass(frozen=True, slots=True)
class DefaultExplainer:
    """Explains by marked examples."""

    model: LanguageModel
    parameters: DefaultParameters
    reasoning: bool = False

    async def explain(self, record: FeatureRecord) -> Explanation:
        """What the marked tokens of the train examples have in common."""
        parameters, train = self.parameters, train_examples(record)
        strongest = _strongest(record)
        style, shown = parameters.prompt_style, parameters.show_activations

        def messages_of(examples: Sequence[Example]) -> list[ChatMessage]:
            lines = _lines(examples, strongest, parameters, numbered=style == "neuronpedia")
            return explaining(lines, style, activations=shown, reasoning=self.reasoning)

        return await ask_about_examples(self.model, train, messages_of, parameters, read_marked_answer)


@dataclass(frozen=True, slots=True)
class ContrastiveExplainer:
    """Explains by marked examples and by examples where the feature is silent."""

    model: LanguageModel
    parameters: ContrastiveParameters

    async def explain(self, record: FeatureRecord) -> Explanation:
        """What the marked tokens have in common and the silent examples lack.

        Raises:
            InvalidRequest: There is no example of either kind.
        """
        parameters = self.parameters
        if not record.silent:
            raise InvalidRequest(
                "a contrastive explanation needs an example where the feature is silent",
                "Give one, or use the default explainer.",
            )
        active, strongest = train_examples(record)[: parameters.max_examples], _strongest(record)
        silent = enumerate(record.silent[: parameters.max_silent], 1)
        others = [f"Example {i}:  {_on_one_line(example.text)}" for i, example in silent]

        def messages_of(examples: Sequence[Example]) -> list[ChatMessage]:
            lines = _lines(examples, strongest, parameters, single_line=True)
            shown = ["ACTIVATING EXAMPLES:", *lines, "\nNON-ACTIVATING EXAMPLES:", *others]
            return contrasting(shown, parameters.prompt_style)

        return await ask_about_examples(self.model, active, messages_of, parameters, read_marked_answer)


@dataclass(frozen=True, slots=True)
class SingleTokenExplainer:
    """Explains by the strongest token of each example."""

    model: LanguageModel
    parameters: SingleTokenParameters

    async def explain(self, record: FeatureRecord) -> Explanation:
        """The pattern behind the words at which the feature is strongest."""

        def messages_of(examples: Sequence[Example]) -> list[ChatMessage]:
            return naming_words([strongest_token(example) for example in examples], self.parameters.prompt_style)

        return await ask_about_examples(
            self.model, train_examples(record), messages_of, self.parameters, read_marked_answer
        )


def strongest_token(example: Example) -> str:
    """The text of the token with the highest activation, the first of equals."""
    return example.tokens[example.activations.index(example.maximum)]


def _lines(
    examples: Sequence[Example],
    strongest: float,
    parameters: DefaultParameters,
    *,
    numbered: bool = False,
    single_line: bool = False,
) -> list[str]:
    # delphi rounds strengths up, the peer's fork down.
    rounded = floor if parameters.prompt_style == "neuronpedia" else ceil
    lines: list[str] = []
    for number, example in enumerate(examples, 1):
        above = parameters.threshold * example.maximum
        marked = [i for i, activation in enumerate(example.activations) if activation > above]
        text = mark(example.tokens, frozenset(marked))
        if single_line:
            lines.append(f"Example {number}:  {_on_one_line(text)}")
        else:
            lines.append(f"Example {number}: {text}" if numbered else text)
        if parameters.show_activations:
            strengths = (
                (example.tokens[i], min(_TOP, rounded(_TOP * example.activations[i] / strongest)))
                for i in marked[:_SHOWN_ACTIVATIONS]
            )
            lines.append("Activations: " + "".join(f'("{token}" : {strength}), ' for token, strength in strengths))
    return lines


def _strongest(record: FeatureRecord) -> float:
    return max(example.maximum for example in (*record.train, *record.test))


def _on_one_line(text: str) -> str:
    return text.strip().replace("\n", "")
