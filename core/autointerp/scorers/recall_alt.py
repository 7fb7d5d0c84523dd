"""Recall of Neuronpedia's own kind: one text, one question, yes or no with a reason.

    {"match": true, "reason": "it speaks of a cat"}

Texts where the feature fires, texts where it is silent, and up to five fixed ones that a feature is unlikely to fire
in. The score is the share of right answers, as Neuronpedia counts it; it has no chance level of its own, since the two
kinds are not as many. `balanced_accuracy` among the metrics has.

Against the original: an answer that is no such JSON is a failed row and not a no, so a provider that fails gives no
score. No effort of reasoning is asked for, as few providers know the field.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from pydantic import Field

from core.autointerp.examples import Example, FeatureRecord
from core.autointerp.language_model import Ask, ChatMessage, LanguageModel, Reply
from core.autointerp.metrics import judge, wilson
from core.autointerp.results import Score
from core.autointerp.scorers.rows import Judgement
from core.autointerp.scorers.scorer import AnsweringParameters, cost, explained, figures_by_name, required, seed_of

_SYSTEM: Final = """You check what somebody wrote about a feature of a language model. A feature fires in some texts \
and is silent in others. You are given the explanation of one feature and one text. Decide whether the feature fires \
anywhere in the text, if the explanation is right and you take it by its word.

Answer with a JSON object and nothing else: {"match": true or false, "reason": "one short sentence"}"""
_SCHEMA: Final[dict[str, Any]] = {
    "type": "object",
    "properties": {"match": {"type": "boolean"}, "reason": {"type": "string"}},
    "required": ["match", "reason"],
    "additionalProperties": False,
}
_DECOYS: Final = (
    "The ferry leaves at a quarter past six and takes forty minutes to the island.",
    "Stir the onions until they are soft, then add the flour and a cup of stock.",
    "for (int i = 0; i < rows; i++) { total += matrix[i][i]; }",
    "Her grandfather repaired clocks in a shop behind the old theatre.",
    "A committee of nine members reviews the budget every second spring.",
)


class RecallAltParameters(AnsweringParameters):
    """Parameters of `recall-alt`."""

    max_tokens: int = Field(default=5000, ge=1, le=100_000, description="Tokens of each answer at most.")
    decoys: int = Field(
        default=len(_DECOYS),
        ge=0,
        le=len(_DECOYS),
        description="Fixed texts that are added as ones where the feature is silent, though nobody measured it.",
    )


@dataclass(frozen=True, slots=True)
class RecallAltScorer:
    """Scores an explanation by one question for each text."""

    model: LanguageModel
    parameters: RecallAltParameters

    async def score(self, record: FeatureRecord, explanation: str) -> Score:
        """Share of right answers among those that could be read."""
        explanation, parameters = explained(explanation), self.parameters
        required(record.test, "active", "recall-alt")
        silent = (*record.silent, *map(_decoy, _DECOYS[: parameters.decoys]))
        required(silent, "silent", "recall-alt")
        examples = (*record.test, *silent)
        replies = await self.model.ask_all([self._ask(explanation, example.text) for example in examples])
        rows = [
            Judgement(example, example.is_active, read_match(reply.text), None, example.text, highlighted=False)
            for example, reply in zip(examples, replies, strict=True)
        ]
        return self._scored(rows, replies, seed_of(record, "recall-alt", parameters.seed))

    def _ask(self, explanation: str, text: str) -> Ask:
        parameters = self.parameters
        return Ask(
            messages=(
                ChatMessage("system", _SYSTEM),
                ChatMessage("user", f"Explanation: {explanation}\n\nText: {text}"),
            ),
            max_tokens=parameters.max_tokens,
            temperature=parameters.temperature,
            seed=parameters.seed,
            schema=_SCHEMA,
        )

    def _scored(self, rows: Sequence[Judgement], replies: Sequence[Reply], seed: int) -> Score:
        figures = judge(
            [row.truth for row in rows],
            [row.prediction for row in rows],
            [None] * len(rows),
            [row.quantile for row in rows],
            seed=seed,
            max_failure_rate=self.parameters.max_failure_rate,
        )
        answered = [row for row in rows if not row.failed]
        right = sum(row.correct is True for row in answered)
        stands = figures.status != "invalid"
        accuracy = right / len(answered) if stands else None
        named = figures_by_name(figures)
        return Score(
            value=accuracy,
            metric="accuracy",
            status="invalid" if not stands else "partial" if figures.failed else "ok",
            rows=tuple(rows),
            usage=cost(replies),
            reason=figures.reason,
            interval=wilson(right, len(answered)) if stands else None,
            metrics=named if accuracy is None else {"accuracy": accuracy, **named},
            by_quantile={part.quantile: part.recall for part in figures.by_quantile},
        )


def read_match(text: str) -> bool | None:
    """What the JSON object of an answer says; None unless it says true or false."""
    try:
        answer: Any = json.loads(text[text.index("{") : text.rindex("}") + 1])
        match = answer["match"]
    except (ValueError, TypeError, KeyError):
        return None
    return match if isinstance(match, bool) else None


def _decoy(text: str) -> Example:
    tokens = tuple(word if at == 0 else f" {word}" for at, word in enumerate(text.split(" ")))
    return Example(tokens, (0.0,) * len(tokens))
