"""Intervention: does an explanation say what the feature makes its model write?

    prompt -> the subject goes on with it as it is, and with the feature pushed -> which of the two is the pushed one?

A language model that knows only the explanation is shown both continuations in random order. The score is the share of
pairs that it tells apart, so one half is chance. It is the one score that rests on what a feature does, not on where it
fires (Paulo et al., 2024, arXiv 2410.13928, where a model's log-probability of the explanation takes the place of the
question; a question needs no log-probabilities).

How hard to push is not comparable between features, so it is found: strengths are tried, doubling and then halving the
gap on a logarithmic scale, until the distribution of the next token is moved by `divergence` nats on average. A pair
whose continuations are the same tells nothing. It is not asked about and counts as failed.
"""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from random import Random
from typing import Final, Literal

from pydantic import Field

from core.autointerp.examples import Example, FeatureName, FeatureRecord
from core.autointerp.language_model import Ask, ChatMessage, LanguageModel, Usage
from core.autointerp.metrics import wilson
from core.autointerp.results import Score
from core.autointerp.scorers.rows import SteeredTold
from core.autointerp.scorers.scorer import AnsweringParameters, cost, explained, stream_of, validity
from core.autointerp.subject import Subject
from core.deadline import Deadline
from core.errors import InvalidRequest

_SYSTEM: Final = """A language model has continued a text twice: once as it is, and once while one of its features was \
turned up. You are told what somebody thinks the feature stands for, and you see both continuations in random order. \
Say which of them was written with the feature turned up: the one in which there is more of what the feature stands \
for, or of what would follow from it.

Answer with one line, [ANSWER]: 1 or [ANSWER]: 2. If you can not tell, guess."""
_ANSWER: Final = re.compile(r"\[ANSWER\]:\s*\**([12])\b")
_FIRST_STRENGTH: Final = 1.0
_TRIES: Final = 24
_NEAR: Final = 0.1


class InterventionParameters(AnsweringParameters):
    """Parameters of `intervention`."""

    prompts: Literal["silent", "active"] = Field(
        default="silent",
        description="Whether prompts are beginnings of texts where the feature is silent, or what stands before it "
        "first fires.",
    )
    n_prompts: int = Field(default=20, ge=1, le=200, description="Pairs of continuations.")
    prompt_tokens: int = Field(default=16, ge=1, le=512, description="Tokens of a prompt at most.")
    new_tokens: int = Field(default=16, ge=1, le=256, description="Tokens of a continuation at most.")
    strength: float | None = Field(
        default=None, gt=0, description="Multiple of the decoder row that is added; null: found by the divergence."
    )
    divergence: float = Field(
        default=1.0,
        gt=0,
        le=20,
        description="Nats by which the push is to move the distribution of the next token: KL(plain, pushed).",
    )
    max_strength: float = Field(default=4096.0, gt=0, description="No strength above it is tried.")


@dataclass(frozen=True, slots=True)
class InterventionScorer:
    """Scores an explanation by whether it gives the feature's effect away."""

    model: LanguageModel
    subject: Subject
    parameters: InterventionParameters
    deadline: Deadline

    async def score(self, record: FeatureRecord, explanation: str) -> Score:
        """Share of the pairs in which the pushed continuation was named.

        Raises:
            InvalidRequest: Nobody said which feature it is, or there is no text to make a prompt of.
        """
        explanation, parameters = explained(explanation), self.parameters
        if record.name is None:
            raise InvalidRequest(
                "intervention steers with the feature, and nobody said which it is",
                "Name the feature by model, source and index.",
            )
        rng = stream_of(record, "intervention", parameters.seed)
        prompts = self._prompts(record, rng)
        strength, reached = await self._strength(record.name, prompts)
        if strength is None:
            return Score(
                value=None,
                metric="accuracy",
                status="invalid",
                rows=(),
                usage=Usage(),
                reason=f"steering as strongly as {parameters.max_strength:g} moves the next token by {reached:.2g} "
                f"nats only, {parameters.divergence:g} were wanted",
            )
        plain = await self.subject.complete(record.name, prompts, 0.0, parameters.new_tokens, self.deadline)
        pushed = await self.subject.complete(record.name, prompts, strength, parameters.new_tokens, self.deadline)
        pairs = [_Pair(*each, pushed_first=rng.random() < 0.5) for each in zip(prompts, plain, pushed, strict=True)]
        return await self._judged(explanation, pairs, {"strength": strength, "divergence_nats": reached})

    async def _judged(self, explanation: str, pairs: Sequence["_Pair"], found: dict[str, float]) -> Score:
        parameters = self.parameters
        asked = [pair for pair in pairs if pair.differs]
        replies = await self.model.ask_all([self._ask(explanation, pair) for pair in asked])
        answers = iter(replies)
        rows = tuple(pair.row(read_choice(next(answers).text) if pair.differs else None) for pair in pairs)
        read = [row for row in rows if not row.failed]
        right = sum(row.correct is True for row in read)
        status, reason = validity(len(rows) - len(read), len(rows), parameters.max_failure_rate)
        unchanged = len(pairs) - len(asked)
        if status == "invalid" and unchanged:
            reason = f"{reason}; steering left {unchanged} of {len(pairs)} continuations as they were"
        stands = status != "invalid"
        return Score(
            value=right / len(read) if stands else None,
            metric="accuracy",
            status=status,
            rows=rows,
            usage=cost(replies),
            reason=reason,
            interval=wilson(right, len(read)) if stands else None,
            metrics={
                **found,
                "chance": 0.5,
                "unchanged": unchanged / len(pairs),
                "failure_rate": (len(rows) - len(read)) / len(rows),
            },
        )

    def _prompts(self, record: FeatureRecord, rng: Random) -> list[str]:
        parameters = self.parameters
        if parameters.prompts == "silent":
            texts = ["".join(example.tokens[: parameters.prompt_tokens]) for example in record.silent]
        else:
            texts = ["".join(_before(example)[-parameters.prompt_tokens :]) for example in record.test]
        usable = [text for text in dict.fromkeys(texts) if text.strip()]
        if not usable:
            raise InvalidRequest(
                f"intervention has no {parameters.prompts} text to make a prompt of",
                "Give silent examples, or active ones that do not begin with the feature's token.",
            )
        return rng.sample(usable, min(parameters.n_prompts, len(usable)))

    async def _strength(self, feature: FeatureName, prompts: Sequence[str]) -> tuple[float | None, float]:
        """The strength, None if none is strong enough, and the divergence that it, or the strongest, gives."""
        parameters = self.parameters
        tried, low, high = parameters.strength or min(_FIRST_STRENGTH, parameters.max_strength), 0.0, math.inf
        best: tuple[float, float] | None = None
        for _ in range(_TRIES):
            nats = await self.subject.divergences(feature, prompts, tried, self.deadline)
            reached = sum(nats) / len(nats)
            if parameters.strength is not None:
                return tried, reached
            if best is None or abs(reached - parameters.divergence) < abs(best[1] - parameters.divergence):
                best = (tried, reached)
            if abs(reached - parameters.divergence) <= _NEAR * parameters.divergence:
                break
            if reached > parameters.divergence:
                high = tried
            elif tried >= parameters.max_strength:
                return None, reached
            else:
                low = tried
            tried = _between(low, high, parameters.max_strength)
        assert best is not None  # it was tried at least once
        return best

    def _ask(self, explanation: str, pair: "_Pair") -> Ask:
        parameters = self.parameters
        first, second = (pair.pushed, pair.plain) if pair.pushed_first else (pair.plain, pair.pushed)
        shown = f"Feature: {explanation}\n\nText: {pair.prompt}\n\nContinuation 1:{first}\n\nContinuation 2:{second}"
        return Ask(
            messages=(ChatMessage("system", _SYSTEM), ChatMessage("user", shown)),
            max_tokens=parameters.max_tokens,
            temperature=parameters.temperature,
            seed=parameters.seed,
        )


@dataclass(frozen=True, slots=True)
class _Pair:
    prompt: str
    plain: str
    pushed: str
    pushed_first: bool

    @property
    def differs(self) -> bool:
        return self.plain.strip() != self.pushed.strip()

    def row(self, named: Literal[1, 2] | None) -> SteeredTold:
        correct = None if named is None else (named == 1) == self.pushed_first
        return SteeredTold(self.prompt, self.plain, self.pushed, correct)


def read_choice(text: str) -> Literal[1, 2] | None:
    """Which continuation an answer names last; None if it names none."""
    named = _ANSWER.findall(text) or ([text.strip()] if text.strip() in ("1", "2") else [])
    if not named:
        return None
    return 1 if named[-1] == "1" else 2


def _between(low: float, high: float, most: float) -> float:
    if math.isinf(high):
        return min(2 * low, most)
    return math.sqrt(low * high) if low > 0 else high / 2


def _before(example: Example) -> tuple[str, ...]:
    """The tokens before the first at which the feature fires."""
    first = next(at for at, activation in enumerate(example.activations) if activation > 0)
    return example.tokens[:first]
