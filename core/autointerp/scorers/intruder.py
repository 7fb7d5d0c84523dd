"""Intruder: can a language model tell the text that does not belong, without any explanation?

Each round shows texts of one part of the feature's range with its tokens marked, and one text where the feature is
silent with as many tokens marked at random. Scores the feature, not an explanation: a feature whose texts have nothing
in common has no right explanation either. Source: delphi 0.1.3 and arXiv 2507.08473.

The score is the share of rounds in which the intruder was named. Guessing gives `chance`, one over the number of texts.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from random import Random
from typing import Final

from pydantic import Field

from core.autointerp.examples import Example, FeatureRecord
from core.autointerp.language_model import Ask, LanguageModel, Reply
from core.autointerp.marking import false_positions, mark, strong_positions
from core.autointerp.metrics import wilson
from core.autointerp.prompts import finding_intruder
from core.autointerp.results import Score
from core.autointerp.scorers.rows import IntruderFound
from core.autointerp.scorers.scorer import JudgingParameters, cost, required, stream_of, validity

_THRESHOLD: Final = 0.3
_ANSWER: Final = re.compile(r"\[RESPONSE\]:\s*(\d+)")


class IntruderParameters(JudgingParameters):
    """Parameters of `intruder`."""

    examples_per_prompt: int = Field(default=5, ge=3, le=20, description="Texts in a round, the intruder included.")
    reasoning: bool = Field(default=False, description="Whether the worked examples give a reason before the answer.")


@dataclass(frozen=True, slots=True)
class _Round:
    texts: tuple[str, ...]
    intruder: int
    quantile: int | None


@dataclass(frozen=True, slots=True)
class IntruderScorer:
    """Scores a feature by rounds of finding the intruder, one for each silent example."""

    model: LanguageModel
    parameters: IntruderParameters

    async def score(self, record: FeatureRecord, explanation: str = "") -> Score:
        """Share of the rounds in which the intruder was named."""
        parameters = self.parameters
        required(record.test, "active", "intruder")
        required(record.silent, "silent", "intruder")
        rounds = self._rounds(record, stream_of(record, "intruder", parameters.seed))
        replies = await self.model.ask_all([self._ask(one) for one in rounds])
        rows = tuple(_row(one, reply) for one, reply in zip(rounds, replies, strict=True))
        read = [row for row in rows if not row.failed]
        right = sum(row.correct is True for row in read)
        status, reason = validity(len(rows) - len(read), len(rows), parameters.max_failure_rate)
        stands = status != "invalid"
        metrics = {
            "chance": sum(1 / len(row.texts) for row in rows) / len(rows),
            "failure_rate": 1 - len(read) / len(rows),
        }
        return Score(
            value=right / len(read) if stands else None,
            metric="accuracy",
            status=status,
            rows=rows,
            usage=cost(replies),
            reason=reason,
            interval=wilson(right, len(read)) if stands else None,
            metrics=metrics,
            by_quantile=_by_quantile(read),
        )

    def _rounds(self, record: FeatureRecord, rng: Random) -> list[_Round]:
        parts: dict[int | None, list[Example]] = {}
        for example in record.test:
            parts.setdefault(example.quantile, []).append(example)
        turns = list(parts.items())
        rounds: list[_Round] = []
        for number, silent in enumerate(record.silent):
            quantile, examples = turns[number % len(turns)]
            chosen = rng.sample(examples, min(self.parameters.examples_per_prompt - 1, len(examples)))
            texts = [mark(example.tokens, strong_positions(example, _THRESHOLD)) for example in chosen]
            marked = sum(len(strong_positions(example, _THRESHOLD)) for example in chosen)
            positions = false_positions(silent, _THRESHOLD, max(1, marked // len(chosen)), rng)
            intruder = rng.randint(0, len(texts))
            texts.insert(intruder, mark(silent.tokens, positions))
            rounds.append(_Round(tuple(texts), intruder, quantile))
        return rounds

    def _ask(self, one: _Round) -> Ask:
        parameters = self.parameters
        return Ask(
            messages=tuple(finding_intruder(one.texts, parameters.prompt_style, reasoning=parameters.reasoning)),
            max_tokens=parameters.max_tokens,
            temperature=parameters.temperature,
            seed=parameters.seed,
        )


def _row(one: _Round, reply: Reply) -> IntruderFound:
    found = _ANSWER.search(reply.text)
    named = int(found.group(1)) if found else None
    prediction = named if named is not None and named < len(one.texts) else None
    reason = reply.text[: found.start()].strip() if found else reply.text.strip()
    return IntruderFound(one.texts, one.intruder, prediction, one.quantile, reason)


def _by_quantile(rows: Sequence[IntruderFound]) -> dict[int, float]:
    answers: dict[int, list[bool]] = {}
    for row in rows:
        if row.quantile is not None:
            answers.setdefault(row.quantile, []).append(row.correct is True)
    return {part: sum(answers[part]) / len(answers[part]) for part in sorted(answers)}
