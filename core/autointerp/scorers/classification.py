"""Detection and fuzz: a language model that knows only the explanation says which texts fit it.

    detection     which texts does the feature fire in?             silent texts are the wrong ones
    fuzz          in which texts are the right tokens marked?       silent texts with false marks are the wrong ones
    fuzz-active   the same                                          the active texts again, marked where they are weak

The score is balanced accuracy, so answering the same to everything gives one half. Texts are shuffled and shown a few
per question; the last question may have fewer. An answer that is no list of as many zeros and ones fails all of its
rows.

The questions are delphi's. Its reader is not used: it takes `[3, 7]`, a list of indices, for two times yes, and loses
the last question when it is short. False marks are drawn per text; delphi always marks one fixed place, and the peer's
fork draws with the same seed for each, which its style repeats (`random.Random(22)`).
"""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil, exp
from random import Random
from typing import Any, Final, Literal

from pydantic import Field

from core.autointerp.examples import Example, FeatureRecord
from core.autointerp.language_model import Ask, LanguageModel, Reply, TokenChoice
from core.autointerp.marking import false_positions, mark, strong_positions
from core.autointerp.metrics import judge
from core.autointerp.prompts import detecting, fuzzing
from core.autointerp.results import Score
from core.autointerp.scorers.rows import Judgement
from core.autointerp.scorers.scorer import (
    JudgingParameters,
    cost,
    explained,
    figures_by_name,
    required,
    seed_of,
    stream_of,
)

Kind = Literal["detection", "fuzz", "fuzz-active"]

_ALTERNATIVES: Final = 5
_FORK_SEED: Final = 22
_LIST: Final = re.compile(r"\[.*?\]", re.DOTALL)


class ClassificationParameters(JudgingParameters):
    """Parameters of `detection`."""

    examples_per_prompt: int = Field(default=5, ge=1, le=100, description="Texts in one question.")
    log_probabilities: bool = Field(
        default=False,
        description="Whether to ask for log-probabilities, which give every row a probability and an AUC.",
    )


class FuzzParameters(ClassificationParameters):
    """Parameters of `fuzz` and `fuzz-active`."""

    threshold: float = Field(
        default=0.3,
        ge=0,
        le=1,
        description="True marks are at and above this share of a text's strongest activation, false ones at and below.",
    )


@dataclass(frozen=True, slots=True)
class _Shown:
    example: Example
    truth: bool
    text: str


@dataclass(frozen=True, slots=True)
class ClassificationScorer:
    """Scores by detection or fuzz."""

    model: LanguageModel
    kind: Kind
    parameters: ClassificationParameters

    async def score(self, record: FeatureRecord, explanation: str) -> Score:
        """Balanced accuracy of the judge's answers."""
        explanation, parameters = explained(explanation), self.parameters
        required(record.test, "active", self.kind)
        if self.kind != "fuzz-active":
            required(record.silent, "silent", self.kind)
        rng = stream_of(record, self.kind, parameters.seed)
        shown = self._shown(record, rng)
        rng.shuffle(shown)
        size = parameters.examples_per_prompt
        batches = [shown[i : i + size] for i in range(0, len(shown), size)]
        replies = await self.model.ask_all([self._ask(explanation, batch) for batch in batches])
        rows = [row for batch, reply in zip(batches, replies, strict=True) for row in self._rows(batch, reply)]
        return self._scored(rows, replies, seed_of(record, self.kind, parameters.seed))

    def _shown(self, record: FeatureRecord, rng: Random) -> list[_Shown]:
        if not isinstance(self.parameters, FuzzParameters):
            pairs = [(example, False) for example in record.silent] + [(example, True) for example in record.test]
            return [_Shown(example, truth, example.text) for example, truth in pairs]
        share = self.parameters.threshold
        count = ceil(sum(_n_active(example) for example in record.test) / len(record.test))
        right = [_Shown(one, True, mark(one.tokens, strong_positions(one, share))) for one in record.test]
        wrong: list[_Shown] = []
        for example in record.test if self.kind == "fuzz-active" else record.silent:
            drawn_by = Random(_FORK_SEED) if self.parameters.prompt_style == "neuronpedia" else rng
            positions = false_positions(example, share, count, drawn_by)
            if positions:  # a text that is strong everywhere can not be marked falsely
                wrong.append(_Shown(example, False, mark(example.tokens, positions)))
        return wrong + right

    def _ask(self, explanation: str, batch: Sequence[_Shown]) -> Ask:
        parameters = self.parameters
        question = detecting if self.kind == "detection" else fuzzing
        return Ask(
            messages=tuple(question(explanation, [shown.text for shown in batch], parameters.prompt_style)),
            max_tokens=parameters.max_tokens,
            temperature=parameters.temperature,
            seed=parameters.seed,
            top_logprobs=_ALTERNATIVES if parameters.log_probabilities else 0,
        )

    def _rows(self, batch: Sequence[_Shown], reply: Reply) -> list[Judgement]:
        predictions = read_answers(reply.text, len(batch))
        probabilities = read_probabilities(reply.tokens, len(batch))
        if predictions is None or probabilities is None:
            probabilities = [None] * len(batch)
        return [
            Judgement(shown.example, shown.truth, prediction, probability, shown.text, self.kind != "detection")
            for shown, prediction, probability in zip(
                batch, predictions or [None] * len(batch), probabilities, strict=True
            )
        ]

    def _scored(self, rows: Sequence[Judgement], replies: Sequence[Reply], seed: int) -> Score:
        figures = judge(
            [row.truth for row in rows],
            [row.prediction for row in rows],
            [row.probability for row in rows],
            [row.quantile for row in rows],
            seed=seed,
            max_failure_rate=self.parameters.max_failure_rate,
        )
        return Score(
            value=figures.balanced_accuracy,
            metric="balanced_accuracy",
            status="invalid" if figures.status == "invalid" else "partial" if figures.failed else "ok",
            rows=tuple(rows),
            usage=cost(replies),
            reason=figures.reason,
            interval=figures.balanced_accuracy_interval,
            metrics=figures_by_name(figures),
            by_quantile={part.quantile: part.recall for part in figures.by_quantile},
        )


def read_answers(text: str, count: int) -> list[bool] | None:
    """The answers in the first list of a reply; None unless it is `count` times 0, 1, false or true."""
    found = _LIST.search(text)
    if found is None:
        return None
    try:
        values: list[Any] = json.loads(found.group().lower())
    except ValueError:
        return None
    if len(values) != count or any(isinstance(value, (str, list)) or value not in (0, 1) for value in values):
        return None
    return [bool(value) for value in values]


def read_probabilities(tokens: Sequence[TokenChoice], count: int) -> list[float | None] | None:
    """The probability of 1 against 0 at each answer of a reply's list, from its tokens.

    Args:
        tokens: The reply's tokens with their alternatives.
        count: How many answers there are.

    Returns:
        P(1) / (P(0) + P(1)) for each; None if the tokens do not show `count` answers one by one.
    """
    probabilities: list[float | None] = []
    is_open = False
    for token in tokens:
        is_open = is_open or "[" in token.text
        if is_open and _digit(token.text) is not None:
            mass = {0: 0.0, 1: 0.0}
            for text, logprob in {**dict(token.top), token.text: token.logprob}.items():
                digit = _digit(text)
                if digit is not None:
                    mass[digit] += exp(logprob)
            probabilities.append(mass[1] / (mass[0] + mass[1]))
        if is_open and "]" in token.text:
            break
    return probabilities if len(probabilities) == count else None


def _digit(text: str) -> int | None:
    stripped = text.strip(" [],\n\t")
    return int(stripped) if stripped in ("0", "1") else None


def _n_active(example: Example) -> int:
    return sum(activation > 0 for activation in example.activations)
