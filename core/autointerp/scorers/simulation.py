"""Simulation: a language model that knows only the explanation says how strongly the feature fires at each token.

The score is Pearson's correlation of all tokens' expected and true activations, texts where the feature is silent
included (Bills et al., 2023, "Language models can explain neurons in language models"). The answer is JSON; one that is
none, or has another number of activations, or one outside 0 to 10, fails its row. delphi takes all of these for zeros.

With `log_probabilities` nothing is written: expectations are read from log-probabilities of the prompt (`expected`),
which is finer and cheaper where a provider has them.
"""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from pydantic import Field

from core.autointerp.examples import Example, FeatureRecord
from core.autointerp.language_model import Ask, LanguageModel, Reply
from core.autointerp.prompts import simulating
from core.autointerp.results import Score
from core.autointerp.scorers.expected import read_expected, simulating_by_chance
from core.autointerp.scorers.rows import Simulated
from core.autointerp.scorers.scorer import JudgingParameters, cost, explained, required, validity

_STRONGEST: Final = 10


class SimulationParameters(JudgingParameters):
    """Parameters of `simulation`."""

    max_tokens: int = Field(default=3000, ge=1, le=100_000, description="Tokens of each answer at most.")
    log_probabilities: bool = Field(
        default=False,
        description="Whether to read expectations from log-probabilities of the prompt, which few providers have.",
    )


@dataclass(frozen=True, slots=True)
class SimulationScorer:
    """Scores an explanation by the activations it leads one to expect."""

    model: LanguageModel
    parameters: SimulationParameters

    async def score(self, record: FeatureRecord, explanation: str) -> Score:
        """Correlation of expected and true activations."""
        explanation, parameters = explained(explanation), self.parameters
        required(record.test, "active", "simulation")
        examples = (*record.test, *record.silent)
        replies = await self.model.ask_all([self._ask(explanation, example) for example in examples])
        rows = tuple(
            Simulated(example, self._read(reply, explanation, example))
            for example, reply in zip(examples, replies, strict=True)
        )
        failed = sum(row.failed for row in rows)
        status, reason = validity(failed, len(rows), parameters.max_failure_rate)
        value = correlation(rows) if status != "invalid" else None
        if status != "invalid" and value is None:
            status, reason = "invalid", "the expected or the true activations are the same at every token"
        return Score(
            value=value,
            metric="correlation",
            status=status,
            rows=rows,
            usage=cost(replies),
            reason=reason,
            metrics={"failure_rate": failed / len(rows)},
            by_quantile=_by_quantile(rows),
        )

    def _ask(self, explanation: str, example: Example) -> Ask:
        parameters = self.parameters
        if parameters.log_probabilities:
            return simulating_by_chance(explanation, example.tokens)
        messages = tuple(simulating(explanation, example.tokens))
        return Ask(messages, parameters.max_tokens, parameters.temperature, parameters.seed)

    def _read(self, reply: Reply, explanation: str, example: Example) -> tuple[float, ...] | None:
        if self.parameters.log_probabilities:
            return read_expected(reply, explanation, example.tokens)
        return read_activations(reply.text, len(example.tokens))


def read_activations(text: str, count: int) -> tuple[float, ...] | None:
    """The activations of a JSON answer; None unless there are `count`, each from 0 to 10."""
    try:
        answer: Any = json.loads(text[text.index("{") : text.rindex("}") + 1])
        values = [entry["activation"] for entry in answer["activations"]]
    except (ValueError, TypeError, KeyError):
        return None
    if len(values) != count or not all(_is_activation(value) for value in values):
        return None
    return tuple(float(value) for value in values)


def correlation(rows: Sequence[Simulated]) -> float | None:
    """Pearson's correlation over all tokens of the rows that could be read; None where it is not defined."""
    true = np.array([value for row in rows if row.expected is not None for value in row.example.activations])
    expected = np.array([value for row in rows for value in row.expected or ()])
    if not len(true) or np.ptp(true) == 0 or np.ptp(expected) == 0:
        return None
    return float(np.corrcoef(true, expected)[0, 1])


def _by_quantile(rows: Sequence[Simulated]) -> dict[int, float]:
    parts: dict[int, list[Simulated]] = {}
    for row in rows:
        if row.quantile is not None and row.example.is_active:
            parts.setdefault(row.quantile, []).append(row)
    found = {part: correlation(parts[part]) for part in sorted(parts)}
    return {part: value for part, value in found.items() if value is not None}


def _is_activation(value: object) -> bool:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return False
    return math.isfinite(value) and 0 <= value <= _STRONGEST
