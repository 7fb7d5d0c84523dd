"""A language model that explains and judges, as explainers and scorers know it: messages in, a reply with its cost out.

Behind the protocol are an OpenAI-compatible URL or a deployment of this cluster. Retrying, rate limits and budgets are
below it: what it raises is final.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

Role = Literal["system", "user", "assistant"]


@dataclass(frozen=True, slots=True)
class ChatMessage:
    """One message."""

    role: Role
    content: str


@dataclass(frozen=True, slots=True)
class Ask:
    """A question.

    Attributes:
        messages: The conversation.
        max_tokens: Tokens of the reply at most.
        temperature: Randomness; None leaves it to the provider.
        seed: Makes the reply repeatable where the provider can.
        top_logprobs: Alternatives whose log-probabilities are wanted at every token of the reply; 0: none.
        prompt_logprobs: Whether log-probabilities of the prompt's tokens are wanted, which not every provider has.
        schema: JSON schema that the reply is to follow, where the provider can; None for plain text.
    """

    messages: tuple[ChatMessage, ...]
    max_tokens: int
    temperature: float | None = None
    seed: int | None = None
    top_logprobs: int = 0
    prompt_logprobs: bool = False
    schema: dict[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class Usage:
    """What replies cost; adds up.

    Attributes:
        prompt_tokens: Tokens read.
        completion_tokens: Tokens written.
        cost_usd: Dollars, as the provider says or by the price table; None if neither is known.
        calls: Replies.
        retries: Attempts that failed before them.
        cached: Replies that came from a cache and cost nothing.
    """

    prompt_tokens: int = 0
    completion_tokens: int = 0
    cost_usd: float | None = None
    calls: int = 0
    retries: int = 0
    cached: int = 0

    def __add__(self, other: "Usage") -> "Usage":
        costs = [cost for cost in (self.cost_usd, other.cost_usd) if cost is not None]
        return Usage(
            self.prompt_tokens + other.prompt_tokens,
            self.completion_tokens + other.completion_tokens,
            sum(costs) if costs else None,
            self.calls + other.calls,
            self.retries + other.retries,
            self.cached + other.cached,
        )


@dataclass(frozen=True, slots=True)
class TokenChoice:
    """A token and the log-probabilities `(text, log-probability)` of what could have stood there, itself included."""

    text: str
    logprob: float
    top: tuple[tuple[str, float], ...] = ()


@dataclass(frozen=True, slots=True)
class Reply:
    """An answer.

    Attributes:
        text: What was written.
        usage: What it cost.
        model: Which model wrote it, as it calls itself.
        tokens: The reply's tokens, if log-probabilities were asked for.
        prompt: The prompt's tokens, likewise; the first has log-probability 0.
    """

    text: str
    usage: Usage
    model: str
    tokens: tuple[TokenChoice, ...] = ()
    prompt: tuple[TokenChoice, ...] = ()


class LanguageModel(Protocol):
    """Answers."""

    @property
    def name(self) -> str:
        """Which model, as it is asked for; part of cache keys."""
        ...

    async def ask(self, question: Ask) -> Reply:
        """One answer.

        Raises:
            RayscopeError: There is none; the type and message say why.
        """
        ...

    async def ask_all(self, questions: Sequence[Ask]) -> list[Reply]:
        """Answers, in order, as many at once as its limits allow; the first that fails ends all."""
        ...
