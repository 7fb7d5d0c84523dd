"""The chat-completions form: a question as a JSON body, and a reply from one.

OpenAI defined it, and OpenRouter, vLLM and others speak it with an accent. A `Dialect` is what a model is known to
take; it starts from the model's name, and when the provider names a field that it does not take, `without` is the
dialect that leaves it out or writes it otherwise:

    max_tokens          max_completion_tokens, for models that think before they write
    response_format     left out: prompts say the form of the answer too
    temperature, seed   left out: such models have one temperature only

What a caller can not do without is never left out: log-probabilities that are wanted and not given are an error.

`prompt_logprobs` is vLLM's: per token of the prompt an object by token id, the prompt's own token first. A prompt that
is a plain text has a form of its own (`completion_form`).
"""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

from core.autointerp.language_model import Ask, Reply, TokenChoice, Usage
from core.autointerp.providers import failures
from core.autointerp.providers.failures import AttemptFailed, Said
from core.autointerp.providers.pricing import prompt_tokens, text_tokens
from core.errors import ProviderRejected

_THINKS: Final = re.compile(r"(^|/)(o[1-9]|gpt-5)(\b|-)")
_FORMAT_WORDS: Final = ("response_format", "json_schema", "structured output", "guided")


@dataclass(frozen=True, slots=True)
class Dialect:
    """What a model of a provider takes.

    Attributes:
        completion_limit: Whether the limit of tokens is called `max_completion_tokens`.
        schema: Whether replies can follow a JSON schema.
        temperature: Whether the temperature can be set.
        seed: Whether a seed can be.
        plain_text: Whether prompts can be plain texts.
    """

    completion_limit: bool = False
    schema: bool = True
    temperature: bool = True
    seed: bool = True
    plain_text: bool = True

    @classmethod
    def of(cls, model: str) -> "Dialect":
        """What a model of this name takes, as far as the name tells."""
        return cls(completion_limit=_THINKS.search(model) is not None)

    def body(self, model: str, question: Ask) -> dict[str, Any]:
        """A question as it is sent."""
        body: dict[str, Any] = {
            "model": model,
            "messages": [{"role": message.role, "content": message.content} for message in question.messages],
            "max_completion_tokens" if self.completion_limit else "max_tokens": question.max_tokens,
        }
        if self.temperature and question.temperature is not None:
            body["temperature"] = question.temperature
        if self.seed and question.seed is not None:
            body["seed"] = question.seed
        if question.top_logprobs:
            body.update(logprobs=True, top_logprobs=question.top_logprobs)
        if question.prompt_logprobs:
            body["prompt_logprobs"] = max(1, question.top_logprobs)
        if self.schema and question.schema is not None:
            form = {"name": "answer", "strict": True, "schema": question.schema}
            body["response_format"] = {"type": "json_schema", "json_schema": form}
        return body

    def without(self, said: Said, body: Mapping[str, Any]) -> "Dialect | None":
        """The dialect without what a provider just refused of a body; None if it is nothing of these."""
        words = f"{said.param} {said.message}".lower()
        if "max_tokens" in body and "max_completion_tokens" in words:
            return replace(self, completion_limit=True)
        if "response_format" in body and any(word in words for word in _FORMAT_WORDS):
            return replace(self, schema=False)
        if "temperature" in body and "temperature" in words:
            return replace(self, temperature=False)
        if "seed" in body and re.search(r"\bseed\b", words):
            return replace(self, seed=False)
        return None


def read_reply(model: str, question: Ask, body: Any) -> Reply:
    """A reply.

    Raises:
        AttemptFailed: The body is none, or one without an answer.
    """
    try:
        choice = body["choices"][0]
        message = choice["message"]
        usage = read_usage(question, body, message.get("content") or "")
        text, refusal, reason = message.get("content"), message.get("refusal"), choice.get("finish_reason")
        named = body.get("model")
        tokens = _tokens((choice.get("logprobs") or {}).get("content") or ())
        prompt = _prompt(body.get("prompt_logprobs") or choice.get("prompt_logprobs") or ())
    except (KeyError, IndexError, TypeError, ValueError, AttributeError):
        raise failures.broken(model, "its answer is not a chat completion") from None
    if refusal:
        raise failures.refused(model, f"it says: {failures.shortened(str(refusal))}", usage)
    if reason == "content_filter":
        raise failures.refused(model, "the provider's content filter withheld it", usage)
    if not isinstance(text, str) or (not text and not question.prompt_logprobs):
        why = f"it used all {question.max_tokens} tokens before it" if reason == "length" else "its content is empty"
        raise failures.refused(model, why, usage)
    if (question.top_logprobs and text and not tokens) or (question.prompt_logprobs and not prompt):
        said = f"The provider of {model} gives no log-probabilities{' of the prompt' if not prompt else ''}."
        raise AttemptFailed(ProviderRejected(said, "Turn them off, or name a provider that has them."), usage=usage)
    return Reply(text, usage, named if isinstance(named, str) else model, tokens, prompt)


def read_usage(question: Ask, body: Any, content: str) -> Usage:
    """What the provider counted; what it did not, estimated, so that no budget counts zero.

    Args:
        question: What was asked.
        body: The answer's body.
        content: The text of the answer.
    """
    counted = body.get("usage") or {}
    read, written, cost = counted.get("prompt_tokens"), counted.get("completion_tokens"), counted.get("cost")
    return Usage(
        read if isinstance(read, int) and read >= 0 else prompt_tokens(question),
        written if isinstance(written, int) and written >= 0 else text_tokens(content),
        float(cost) if isinstance(cost, int | float) and math.isfinite(cost) and cost >= 0 else None,
        calls=1,
    )


def _tokens(content: Any) -> tuple[TokenChoice, ...]:
    return tuple(
        TokenChoice(
            item["token"],
            float(item["logprob"]),
            tuple((other["token"], float(other["logprob"])) for other in item.get("top_logprobs") or ()),
        )
        for item in content
    )


def _prompt(positions: Any) -> tuple[TokenChoice, ...]:
    choices: list[TokenChoice] = []
    for position in positions:
        top = tuple((str(each["decoded_token"]), float(each["logprob"])) for each in (position or {}).values())
        choices.append(TokenChoice(*top[0], top) if top else TokenChoice("", 0.0))
    return tuple(choices)
