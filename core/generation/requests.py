"""What a generating engine is asked and what it answers. Plain data: crosses process borders, imports no torch.

Text stays with the Gateway: prompts arrive as token ids, answers are token ids. A request's continuations (STEERED and
DEFAULT of one prompt, say) run as rows of one batch and are reported as they grow.
"""

from dataclasses import dataclass
from typing import Final, Literal

from core.errors import InvalidRequest
from core.steering.specification import HookPlace, Steering

SEEDS: Final = 2**63
"""Number of seeds; vLLM keeps them in 64 bits with a sign."""

Finish = Literal["stop", "length"]


@dataclass(frozen=True, slots=True)
class Sampling:
    """How tokens are chosen.

    Attributes:
        max_tokens: Most tokens to generate, at least 1.
        temperature: 0 takes the most likely token.
        seed: Makes the choice repeatable, whatever else is in the batch; None: fresh randomness.
        frequency_penalty: Subtracted from a token's logit once per time that it was generated.
        presence_penalty: Subtracted once if it was generated at all.
        top_p: Choose among the likeliest tokens that reach this share of probability together.
        n_logprobs: How many likeliest tokens to report per position; 0 reports no scores.
        stop_ids: Tokens that end the text; the ending token is reported.
    """

    max_tokens: int
    temperature: float = 1.0
    seed: int | None = None
    frequency_penalty: float = 0.0
    presence_penalty: float = 0.0
    top_p: float = 1.0
    n_logprobs: int = 0
    stop_ids: frozenset[int] = frozenset()

    def __post_init__(self) -> None:
        if self.seed is not None and not 0 <= self.seed < SEEDS:
            raise InvalidRequest(f"The seed must be from 0 to {SEEDS - 1}, got {self.seed}.")


@dataclass(frozen=True, slots=True)
class Continuation:
    """One text to write.

    Attributes:
        prompt: Token ids, at least one.
        sampling: How tokens are chosen.
        steering: None leaves the model alone.
        special_positions: Positions of the prompt that hold special tokens, which `steering` may spare.
    """

    prompt: tuple[int, ...]
    sampling: Sampling
    steering: Steering | None = None
    special_positions: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class MeansRequest:
    """What is the mean activation over spans of a text that has been written, steered as it was when written?

    Attributes:
        continuation: The prompt and its steering; with `steering` None the plain model is read.
        tokens: The whole text, prompt included. What follows the prompt counts as generated.
        place: Hook point to read, after steering wrote there.
        spans: Runs of positions `(start, end)`, the end excluded; an empty one has the mean 0.
    """

    continuation: Continuation
    tokens: tuple[int, ...]
    place: HookPlace
    spans: tuple[tuple[int, int], ...]


@dataclass(frozen=True, slots=True)
class TokenScore:
    """Log-probabilities at one generated position, of the model's own distribution: no temperature, no penalties.

    Attributes:
        logprob: Of the token that was chosen, in nats.
        top: The likeliest tokens `(id, logprob)`, likeliest first.
    """

    logprob: float
    top: tuple[tuple[int, float], ...]


@dataclass(frozen=True, slots=True)
class Growth:
    """What one continuation gained since it was last reported.

    Attributes:
        index: Which of the request's continuations.
        tokens: New token ids.
        scores: One per token if scores were asked for, else empty.
        finish: Why it ended; None while it goes on.
    """

    index: int
    tokens: tuple[int, ...]
    scores: tuple[TokenScore, ...] = ()
    finish: Finish | None = None
