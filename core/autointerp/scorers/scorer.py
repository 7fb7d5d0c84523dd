"""What every scorer is: examples and an explanation in, a score with its rows out.

Scorers ask all they have to ask at once, through `LanguageModel.ask_all`; how many are in flight is the model's to
limit. Errors of the language model pass through: a bad key is no row. Only answers that cannot be read become failed
rows.

Every random choice comes from a stream of its own, told by feature, scorer and `seed`, so a score depends neither on
what else is being scored nor on the state of any global generator.
"""

from collections.abc import Sequence
from random import Random
from typing import Literal, Protocol

from pydantic import BaseModel, ConfigDict, Field

from core.autointerp.examples import Example, FeatureRecord
from core.autointerp.language_model import Reply, Usage
from core.autointerp.metrics import MAX_FAILURE_RATE, ScoreMetrics
from core.autointerp.prompts import PromptStyle
from core.autointerp.results import Score
from core.autointerp.seeds import derive_seed
from core.errors import InvalidRequest

Status = Literal["ok", "partial", "invalid"]


class Scorer(Protocol):
    """Scores explanations."""

    async def score(self, record: FeatureRecord, explanation: str) -> Score:
        """How well the explanation fits the feature.

        Args:
            record: The feature.
            explanation: In words; a scorer of features alone does not read it.

        Raises:
            InvalidRequest: The record lacks what this scorer reads, or the explanation is empty.
            RayscopeError: The language model gave no answer.
        """
        ...


class SeededParameters(BaseModel):
    """What every scorer has."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    seed: int | None = Field(
        default=None,
        description="Gives another order and other marks, and is sent to the provider; null: the feature's name alone.",
    )


class AnsweringParameters(SeededParameters):
    """How a language model is asked."""

    temperature: float | None = Field(
        default=0.0, ge=0, le=2, description="Randomness of the answers; null leaves it to the provider."
    )
    max_tokens: int = Field(default=500, ge=1, le=100_000, description="Tokens of each answer at most.")
    max_failure_rate: float = Field(
        default=MAX_FAILURE_RATE,
        ge=0,
        le=1,
        description="Largest share of rows whose answer could not be read that still gives a score.",
    )


class JudgingParameters(AnsweringParameters):
    """How a language model is asked to judge in words that are not ours."""

    prompt_style: PromptStyle = Field(
        default="delphi", description="Whose words: delphi's of today or those of the peer's server."
    )


def stream_of(record: FeatureRecord, scorer: str, seed: int | None) -> Random:
    """The random choices of one scorer on one feature."""
    return Random(seed_of(record, scorer, seed))


def seed_of(record: FeatureRecord, scorer: str, seed: int | None) -> int:
    """The seed of one scorer on one feature; a feature without a name is told by its examples."""
    if record.name is not None:
        return derive_seed(record.name.model, record.name.source, record.name.index, scorer, seed)
    return derive_seed(scorer, seed, *(example.text for example in (*record.test, *record.silent)))


def cost(replies: Sequence[Reply]) -> Usage:
    """What replies cost together."""
    return sum((reply.usage for reply in replies), Usage())


def figures_by_name(figures: ScoreMetrics) -> dict[str, float]:
    """All figures of yes-or-no answers that there are."""
    named = {
        "balanced_accuracy": figures.balanced_accuracy,
        "f1": figures.confusion.f1,
        "precision": figures.confusion.precision,
        "recall": figures.confusion.recall,
        "specificity": figures.confusion.specificity,
        "auc": figures.auc,
        "failure_rate": figures.failure_rate,
    }
    return {name: value for name, value in named.items() if value is not None}


def required(examples: Sequence[Example], kind: Literal["active", "silent"], scorer: str) -> None:
    """Asserts that there are examples of a kind, and that they are of it.

    Raises:
        InvalidRequest: There are none, or some are of the other kind.
    """
    if not examples:
        raise InvalidRequest(
            f"{scorer} needs at least one {kind} example, and there is none",
            "Give examples where the feature fires and examples where it does not.",
        )
    if kind == "active" and not all(example.is_active for example in examples):
        raise InvalidRequest("the feature does not fire in an example that is given as active")
    if kind == "silent" and any(example.is_active for example in examples):
        raise InvalidRequest("the feature fires in an example that is given as silent")


def explained(explanation: str) -> str:
    """The explanation, if there is one.

    Raises:
        InvalidRequest: It is empty.
    """
    if not explanation.strip():
        raise InvalidRequest("there is no explanation to score", "An explanation that could not be read has no score.")
    return explanation


def validity(failed: int, rows: int, limit: float) -> tuple[Status, str | None]:
    """Whether a score that lacks some of its rows stands, and why not."""
    if failed == rows or failed / rows > limit:
        return "invalid", f"{failed} of {rows} rows could not be read from the answers; {limit:.0%} may fail"
    return ("partial" if failed else "ok"), None
