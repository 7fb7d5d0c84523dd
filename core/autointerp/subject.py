"""The subject: the model whose features are explained, as far as a scorer may steer it.

    steered = SteeredSubject(generate, tokenizer)      # `GenerationEngine.generate`, or `ModelClient.generate`

It is asked two things of prompts in words: how the model goes on when a feature is pushed, and how far the push moves
what the model would say next. Both are deterministic: the likeliest token is taken each time.

The function is given, so nothing here knows whether the model is in this process (`core.autointerp.subject_engine`) or
behind handles of a cluster.

Deliberately not here: how strong to push (`core.autointerp.scorers.intervention`).
"""

import math
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Protocol

from core.autointerp.examples import FeatureName
from core.deadline import Deadline
from core.generation.requests import Continuation, Growth, Sampling
from core.generation.text import GrowingText
from core.generation.turns import eos_ids
from core.prompts import PromptTokenizer
from core.steering.specification import FeatureDirection, Push, Steering

Generate = Callable[[Sequence[Continuation], Deadline], Awaitable[list[Growth]]]
"""Whole texts, one per continuation, in order."""

_LIKELIEST: Final = 20  # as many as vLLM gives
_AT_ONCE: Final = 32


class Subject(Protocol):
    """A model that can be steered with its own features. Safe to use from many tasks."""

    async def complete(
        self, feature: FeatureName, prompts: Sequence[str], strength: float, max_tokens: int, deadline: Deadline
    ) -> list[str]:
        """What the model writes after each prompt, without the prompt.

        Args:
            feature: Is steered with.
            prompts: In words, at least one.
            strength: Multiples of its decoder row that are added at every position; 0 leaves the model alone.
            max_tokens: Tokens to write at most.
            deadline: When nobody waits any more.

        Raises:
            NotFound: The model has no such feature.
            InvalidRequest: The model can not be steered so, or a prompt is too long.
            RayscopeError: It did not answer.
        """
        ...

    async def divergences(
        self, feature: FeatureName, prompts: Sequence[str], strength: float, deadline: Deadline
    ) -> list[float]:
        """How far the push moves what comes next: KL(plain, steered) in nats after each prompt, 0 or more.

        It may be a lower bound, where not the whole distribution is known.

        Args:
            feature: Is steered with.
            prompts: In words, at least one.
            strength: As for `complete`.
            deadline: When nobody waits any more.

        Raises:
            RayscopeError: As for `complete`.
        """
        ...


@dataclass(frozen=True, slots=True)
class SteeredSubject:
    """A `Subject` over a function that generates.

    Attributes:
        generate: Writes.
        tokenizer: The model's.
        n_logprobs: Likeliest tokens that a divergence is computed from. With 20 of them it is right to about 1 nat and
            too small beyond; an engine of ours gives a thousand.
        at_once: Texts asked for together. The rest waits here, so that others find room in the model's queue.
    """

    generate: Generate
    tokenizer: PromptTokenizer
    n_logprobs: int = _LIKELIEST
    at_once: int = _AT_ONCE

    async def complete(
        self, feature: FeatureName, prompts: Sequence[str], strength: float, max_tokens: int, deadline: Deadline
    ) -> list[str]:
        """See `Subject`."""
        sampling = Sampling(max_tokens, temperature=0.0, stop_ids=eos_ids(self.tokenizer))
        asked = [self._continuation(prompt, sampling, _push(feature, strength)) for prompt in prompts]
        written = await self._generated(asked, deadline)
        return [self._text(one, growth) for one, growth in zip(asked, written, strict=True)]

    async def divergences(
        self, feature: FeatureName, prompts: Sequence[str], strength: float, deadline: Deadline
    ) -> list[float]:
        """See `Subject`."""
        sampling = Sampling(1, temperature=0.0, n_logprobs=min(self.n_logprobs, self.tokenizer.vocab_size))
        pairs = [
            self._continuation(prompt, sampling, steering)
            for prompt in prompts
            for steering in (None, _push(feature, strength))
        ]
        nexts = [dict(growth.scores[0].top) for growth in await self._generated(pairs, deadline)]
        return [divergence(plain, steered) for plain, steered in zip(nexts[::2], nexts[1::2], strict=True)]

    async def _generated(self, asked: Sequence[Continuation], deadline: Deadline) -> list[Growth]:
        written: list[Growth] = []
        for first in range(0, len(asked), self.at_once):
            written += await self.generate(asked[first : first + self.at_once], deadline)
        return written

    def _continuation(self, prompt: str, sampling: Sampling, steering: Steering | None) -> Continuation:
        ids = self.tokenizer.bos_prompt(prompt).ids
        return Continuation(ids, sampling, steering, self.tokenizer.special_positions(ids))

    def _text(self, asked: Continuation, growth: Growth) -> str:
        text = GrowingText(self.tokenizer, asked.prompt, asked.sampling.stop_ids)
        text.push(growth.tokens)
        return text.read(final=True)


def divergence(plain: Mapping[int, float], steered: Mapping[int, float]) -> float:
    """KL(plain, steered) in nats, of two distributions of which the likeliest tokens are known.

    Tokens that both lists have count one by one and all others as one, which never gives more than the true divergence
    (the data processing inequality).

    Args:
        plain: Log-probabilities by token.
        steered: Likewise.
    """
    both = plain.keys() & steered.keys()
    total = sum(math.exp(plain[token]) * (plain[token] - steered[token]) for token in both)
    rest, steered_rest = (max(0.0, 1.0 - sum(math.exp(side[token]) for token in both)) for side in (plain, steered))
    if rest > 0 and steered_rest > 0:
        total += rest * math.log(rest / steered_rest)
    return max(0.0, total)


def _push(feature: FeatureName, strength: float) -> Steering | None:
    if strength == 0:
        return None
    return Steering((Push(FeatureDirection(feature.source, feature.index), strength),))
