"""The completions form: a plain text that comes back with the log-probability of each of its tokens.

    POST {base}/completions   {"model", "prompt", "max_tokens", "echo": true, "logprobs": k}

OpenAI's older form, which vLLM, SGLang, Together and Fireworks speak; a base model needs it, since it has no turns. The
endpoint sends a question so that wants log-probabilities of its prompt and is one message. A provider without this form
is asked by chat completions with vLLM's `prompt_logprobs` (`chat_form`), where the message gets the model's turns
around it.

Deliberately not here: completions for their text. What is written after the prompt is left to the shortest.
"""

from typing import Any

from core.autointerp.language_model import Ask, Reply, TokenChoice
from core.autointerp.providers import failures
from core.autointerp.providers.chat_form import read_usage
from core.autointerp.providers.failures import AttemptFailed
from core.errors import ProviderRejected


def is_plain_text(question: Ask) -> bool:
    """Whether a question can be asked so."""
    return question.prompt_logprobs and len(question.messages) == 1


def body(model: str, question: Ask) -> dict[str, Any]:
    """A question as it is sent; a schema plays no part, as nothing is read of what is written."""
    sent: dict[str, Any] = {
        "model": model,
        "prompt": question.messages[0].content,
        "max_tokens": question.max_tokens,
        "echo": True,
        "logprobs": max(1, question.top_logprobs),
    }
    if question.temperature is not None:
        sent["temperature"] = question.temperature
    if question.seed is not None:
        sent["seed"] = question.seed
    return sent


def read_reply(model: str, question: Ask, answer: Any) -> Reply:
    """A reply: the prompt's tokens, and what was written after it.

    Raises:
        AttemptFailed: The body is none, or it has no log-probabilities of the prompt.
    """
    try:
        choice = answer["choices"][0]
        text = str(choice["text"]).removeprefix(question.messages[0].content)
        tokens = _tokens(choice.get("logprobs") or {})
        usage = read_usage(question, answer, text)
        named = answer.get("model")
    except (KeyError, IndexError, TypeError, ValueError, AttributeError):
        raise failures.broken(model, "its answer is not a completion") from None
    written = _written(question, answer, tokens)
    prompt = tokens[: len(tokens) - written]
    if not prompt or all(token.logprob == 0.0 for token in prompt):
        said = f"The provider of {model} gives no log-probabilities of the prompt."
        raise AttemptFailed(ProviderRejected(said, "Name a provider that has them, such as vLLM."), usage=usage)
    return Reply(text, usage, named if isinstance(named, str) else model, tokens[len(prompt) :], prompt)


def _tokens(logprobs: Any) -> tuple[TokenChoice, ...]:
    """All tokens, prompt first; the first has no log-probability of its own."""
    texts, chances = logprobs.get("tokens") or (), logprobs.get("token_logprobs") or ()
    tops = logprobs.get("top_logprobs") or [None] * len(texts)
    return tuple(
        TokenChoice(
            str(text),
            0.0 if chance is None else float(chance),
            tuple((str(other), float(value)) for other, value in (top or {}).items()),
        )
        for text, chance, top in zip(texts, chances, tops, strict=True)
    )


def _written(question: Ask, answer: Any, tokens: tuple[TokenChoice, ...]) -> int:
    """How many of the tokens were written: as the provider counts, or those that lie behind the prompt's text."""
    counted = (answer.get("usage") or {}).get("completion_tokens")
    if isinstance(counted, int) and 0 <= counted <= len(tokens):
        return counted
    left, count = len("".join(token.text for token in tokens)) - len(question.messages[0].content), 0
    while count < len(tokens) and left >= len(tokens[-1 - count].text) > 0:
        left -= len(tokens[-1 - count].text)
        count += 1
    return min(count, question.max_tokens)
