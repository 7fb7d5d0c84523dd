r"""Expected activations out of log-probabilities: a simulation in one question, without a word written.

    token<tab>?        after each tab, which digits would have come instead of the question mark, and how likely each?

The worked examples begin with unknown activations and then show known ones, so at any tab a digit may come next. The
expected activation is the mean of the digits, weighted by their probabilities (Bills et al., 2023, "Language models can
explain neurons in language models", the variant that asks for all tokens at once). They go from 0 to 9 so that each is
one token to every tokenizer, and the unknown is no word, since a word would melt into the tab.

delphi 0.1.3 has this for vLLM with Llama's template only: it looks for the ids of tabs behind an assistant's turn.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from math import exp
from typing import Final

from core.autointerp.language_model import Ask, ChatMessage, Reply
from core.autointerp.scorers.prompt_tokens import tokens_of

_ALTERNATIVES: Final = 20
_DIGITS: Final = frozenset("0123456789")
_INTRODUCTION: Final = """Features of a language model fire at some tokens of a text and are silent at others. For \
each feature you see what it stands for and how strongly it fires at every token of a text: the token, a tab, and a \
digit from 0 to 9. A question mark stands where the strength is not known. Most are 0."""


@dataclass(frozen=True, slots=True)
class _Worked:
    explanation: str
    tokens: tuple[str, ...]
    strengths: str


_WORKED: Final = (
    _Worked("names of rivers", ("We", " followed", " the", " Lo", "ire", " to", " the", " sea", "."), "???590000"),
    _Worked("words of thanks", ("Tell", " her", " thank", " you", " and", " much", " obliged", "!"), "??970250"),
    _Worked("page numbers", ("See", " page", " 3", " or", " page", " 17", " of", " it"), "???07910"),
)


def simulating_by_chance(explanation: str, tokens: Sequence[str]) -> Ask:
    """Asks for the log-probabilities of a simulation's prompt."""
    worked = [f"{_head(one.explanation)}{_lines(one.tokens, one.strengths)}" for one in _WORKED]
    text = "\n\n".join([_INTRODUCTION, *worked, "".join(_parts(explanation, tokens))])
    return Ask((ChatMessage("user", text),), 1, 0.0, top_logprobs=_ALTERNATIVES, prompt_logprobs=True)


def read_expected(reply: Reply, explanation: str, tokens: Sequence[str]) -> tuple[float, ...] | None:
    """The expected activation of each token, 0 to 9; None if no digit was likely enough to be told at one of them."""
    found = tokens_of(reply.prompt, *_parts(explanation, tokens))
    if found is None:
        return None
    means = [_mean(dict(reply.prompt[place[0]].top)) for place in found]
    whole = tuple(mean for mean in means if mean is not None)
    return whole if len(whole) == len(means) else None


def _mean(chances: dict[str, float]) -> float | None:
    mass: dict[int, float] = {}
    for text, logprob in chances.items():
        digit = text.strip()
        if digit in _DIGITS:
            mass[int(digit)] = mass.get(int(digit), 0.0) + exp(logprob)
    total = sum(mass.values())
    return sum(digit * share for digit, share in mass.items()) / total if total > 0 else None


def _parts(explanation: str, tokens: Sequence[str]) -> list[str]:
    """The end of the prompt, cut around its question marks."""
    before = [f"{_head(explanation)}{_shown(tokens[0])}\t", *(f"\n{_shown(token)}\t" for token in tokens[1:])]
    return list(chain.from_iterable((part, "?") for part in before))


def _head(explanation: str) -> str:
    return f"Feature: {' '.join(explanation.split())}\nStrengths:\n"


def _lines(tokens: Sequence[str], strengths: Sequence[str]) -> str:
    return "\n".join(f"{_shown(token)}\t{strength}" for token, strength in zip(tokens, strengths, strict=True))


def _shown(token: str) -> str:
    return token.replace("\\", "\\\\").replace("\n", "\\n").replace("\t", "\\t").replace("\r", "\\r")
