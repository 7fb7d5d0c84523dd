"""The oracle's answers, each in the form that its question asks for.

It is honest: a text fits an explanation if what the explanation means is found in it, and marks are right if most of
the marked pieces are of it. It knows only what the prompt shows, so a wrong explanation makes it judge wrongly.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from math import log
from typing import Final

from core.autointerp.language_model import TokenChoice
from core.demo.oracle.concepts import Concept, before, meant_by
from core.demo.oracle.fitting import Fit, best_fit, best_of, candidates
from core.demo.oracle.marked import MarkedText, joined, touched
from core.demo.oracle.questions import (
    ExplainMarks,
    ExplainWords,
    FindIntruder,
    FindLabel,
    Judge,
    Match,
    Question,
    Simulate,
    TellSteered,
    as_marked,
)

_NO_PATTERN: Final = "no common pattern"
_FITS: Final = 0.5
_SURE: Final = 0.95
_STRONGEST: Final = 10
_GOOD_LABEL: Final = 0.4


@dataclass(frozen=True, slots=True)
class Answer:
    """What is answered; `tokens` of a judge's list say how sure it is of each verdict."""

    text: str
    tokens: tuple[TokenChoice, ...] = ()


def answer(question: Question) -> Answer:
    """The answer to a question."""
    match question:
        case ExplainMarks(text, reasoning):
            thought = _thoughts(text) if reasoning else ""
            return Answer(f"{thought}[EXPLANATION]: {_name(best_fit(text))}")
        case ExplainWords(words, raised):
            return Answer(f"[EXPLANATION]: {_about(words, raised=raised)}")
        case FindLabel():
            return Answer(_label(question))
        case Judge(explanation, texts):
            concept = meant_by(explanation)
            return _verdicts([_share(concept, text) for text in texts])
        case Match(explanation, text):
            return Answer(_matched(meant_by(explanation), text))
        case TellSteered(explanation, continuations):
            concept = meant_by(explanation)
            first, second = (len(concept.find(text)) for text in continuations)
            return Answer(f"[ANSWER]: {1 if first >= second else 2}")
        case FindIntruder(texts):
            return Answer(f"[RESPONSE]: {_intruder(texts)}")
        case Simulate(explanation, tokens):
            return Answer(_simulated(meant_by(explanation), tokens))


def _name(fit: Fit | None) -> str:
    return _NO_PATTERN if fit is None else fit.concept.name


def _thoughts(text: MarkedText) -> str:
    seen = [text.text[start:end] for start, end in text.marked_pieces]
    listed = ", ".join(f'"{word}"' for word in list(dict.fromkeys(seen))[:5])
    return f"ACTIVATING TOKENS: {listed}.\n\nStep 1.\n- I compare them with what I know of the demo's world.\n\n"


def _about(words: Sequence[str], *, raised: bool) -> str:
    fit = _kind_of(words)
    if not raised:
        return _name(fit)
    return _NO_PATTERN if fit is None else before(fit.concept).name


def _kind_of(words: Sequence[str]) -> Fit | None:
    """What words are that stand alone: nothing comes before or after them."""
    return best_of(candidates(joined(as_marked(words)), alone=True))


def _label(question: FindLabel) -> str:
    """The methods of the question in their order: the strongest words, what is said next, what the texts share."""
    kind, raised = _kind_of(question.words), _kind_of(question.raised)
    fit = best_fit(joined(question.texts))
    if kind is not None and kind.f1 >= _GOOD_LABEL:
        method, label = 1, kind.concept.name
    elif raised is not None and raised.f1 >= _GOOD_LABEL:
        method, label = 2, f"say {raised.concept.name}"
    else:
        method, label = min(question.methods, 3), _name(fit)
    return f"Method {method}\nExplanation: {label}"


def _share(concept: Concept, text: MarkedText) -> float:
    """How much of what is marked is of the concept; of a text without marks, whether anything is."""
    found = concept.find(text.text)
    if not text.marks:
        return float(bool(found))
    marked = text.marked_pieces
    return len(touched(marked, found)) / len(marked) if marked else 0.0


def _verdicts(shares: Sequence[float]) -> Answer:
    verdicts = [int(share >= _FITS) for share in shares]
    tokens: list[TokenChoice] = []
    for i, (share, verdict) in enumerate(zip(shares, verdicts, strict=True)):
        yes = min(max(share, 1 - _SURE), _SURE)
        of = {"1": log(yes), "0": log(1 - yes)}
        tokens += [TokenChoice("," if i else "[", 0.0), TokenChoice(str(verdict), of[str(verdict)], tuple(of.items()))]
    return Answer(str(verdicts).replace(" ", ""), (*tokens, TokenChoice("]", 0.0)))


def _matched(concept: Concept, text: str) -> str:
    found = concept.find(text)
    place = f"there is {json.dumps(text[slice(*found[0])], ensure_ascii=False)}" if found else "there is none of it"
    return json.dumps({"match": bool(found), "reason": place})


def _intruder(texts: Sequence[MarkedText]) -> int:
    """The text that least shares what the others have in common, by the concept that sets it apart most."""
    best, named = 0.0, 0
    for fit in candidates(joined(texts)):
        shares = [_share(fit.concept, text) for text in texts]
        least = shares.index(min(shares))
        apart = sum(shares) / max(len(shares) - 1, 1) - shares[least] - fit.cost
        if apart > best:
            best, named = apart, least
    return named


def _simulated(concept: Concept, tokens: Sequence[str]) -> str:
    found = concept.find("".join(tokens))
    spans: list[tuple[int, int]] = []
    at = 0
    for token in tokens:
        spans.append((at, at + len(token)))
        at += len(token)
    fires = set(touched(spans, found))
    return json.dumps(
        {
            "activations": [
                {"token": token, "activation": _STRONGEST * (span in fires)}
                for token, span in zip(tokens, spans, strict=True)
            ]
        }
    )
