"""The oracle as a language model: an `Endpoint` in this process that is never busy and costs nothing."""

import asyncio
from typing import Final

from core.autointerp.language_model import Ask, Reply, Usage
from core.autointerp.providers.pricing import prompt_tokens, text_tokens
from core.demo.oracle.answers import answer
from core.demo.oracle.questions import read_question
from core.errors import ModelNotFound, ProviderRejected

ORACLE_MODEL: Final = "rayscope-demo-oracle"
"""The name by which it is asked for, from provider `local`."""


class DemoOracle:
    """Knows the demo's world and no feature of its dictionaries: it reads what a prompt shows, as any model does.

    The same question always has the same answer, whatever its temperature and seed. Text is counted, not limited.
    """

    @property
    def name(self) -> str:
        """`rayscope-demo-oracle`."""
        return ORACLE_MODEL

    @property
    def place(self) -> str:
        """In this process."""
        return "demo"

    async def attempt(self, question: Ask, timeout_s: float) -> Reply:
        """See `Endpoint`.

        Raises:
            ProviderRejected: It is not a question of an explainer or a scorer, or asks for what the oracle has not.
        """
        if question.prompt_logprobs:
            raise ProviderRejected(
                f"{ORACLE_MODEL} gives no log-probabilities of the prompt.", "Name a provider that has them."
            )
        given = await asyncio.to_thread(lambda: answer(read_question(question)))
        if question.top_logprobs and not given.tokens:
            raise ProviderRejected(f"{ORACLE_MODEL} gives log-probabilities of verdicts only.", "Turn them off.")
        usage = Usage(prompt_tokens(question), text_tokens(given.text), cost_usd=0.0, calls=1)
        return Reply(given.text, usage, ORACLE_MODEL, given.tokens if question.top_logprobs else ())


def demo_models(name: str) -> DemoOracle:
    """The model of this name among those that the demo brings, for `Workshop(local=...)`.

    Raises:
        ModelNotFound: There is none.
    """
    if name != ORACLE_MODEL:
        raise ModelNotFound(f"There is no model '{name}' here.", f"There is {ORACLE_MODEL}; others need a provider.")
    return DemoOracle()
