"""What a prompt asks of the oracle: which explainer's or scorer's it is, and what it shows.

Only the last message of the user is about the feature; what stands before it are instructions and worked examples, by
which alone two kinds of questions can be told apart.
"""

import ast
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from core.autointerp.language_model import Ask
from core.demo.oracle.marked import MarkedText, Span, pieces, read_marks
from core.errors import ProviderRejected

_ACTIVATIONS: Final = re.compile(r'^Activations: (?:\(".*?" : \d+\), )*\n?', re.DOTALL | re.MULTILINE)
_JUDGED: Final = re.compile(r"\A(?:Latent|Feature) explanation: (.*?)\n\nText examples:\n\n(.*)\Z", re.DOTALL)
_NUMBERED: Final = re.compile(r"^Example (\d+): {0,2}", re.MULTILINE)
_HEADINGS: Final = re.compile(r"^(?:NON-)?ACTIVATING EXAMPLES:\n", re.MULTILINE)
_LISTS: Final = re.compile(r"\AWORDS: (\[.*\])\Z|\ARaised: (\[.*?\])\nLowered: \[.*\]\Z", re.DOTALL)
_MATCH: Final = re.compile(r"\AExplanation: (.*?)\n\nText: (.*)\Z", re.DOTALL)
_STEERED: Final = re.compile(
    r"\AFeature: (.*?)\n\nText: .*?\n\nContinuation 1:(.*)\n\nContinuation 2:(.*)\Z", re.DOTALL
)
_SECTION: Final = re.compile(r"<([A-Z_]+)>\n(.*?)\n?</\1>", re.DOTALL)


@dataclass(frozen=True, slots=True)
class ExplainMarks:
    """What do the marks have in common? All examples are one text; those where the feature is silent have no marks."""

    text: MarkedText
    reasoning: bool


@dataclass(frozen=True, slots=True)
class ExplainWords:
    """What do these words have in common; or, if `raised`, what does a feature make the model say that raises them?"""

    words: tuple[str, ...]
    raised: bool


@dataclass(frozen=True, slots=True)
class FindLabel:
    """A short label, by strongest words, their texts with those marked, and words that the feature raises, if known."""

    words: tuple[str, ...]
    texts: tuple[MarkedText, ...]
    raised: tuple[str, ...]
    methods: int


@dataclass(frozen=True, slots=True)
class Judge:
    """Which texts fit the explanation; of those with marks, in which are the right places marked?"""

    explanation: str
    texts: tuple[MarkedText, ...]


@dataclass(frozen=True, slots=True)
class Match:
    """Does one text fit the explanation, and why?"""

    explanation: str
    text: str


@dataclass(frozen=True, slots=True)
class TellSteered:
    """Which of two continuations has more of what the explanation says?"""

    explanation: str
    continuations: tuple[str, str]


@dataclass(frozen=True, slots=True)
class FindIntruder:
    """Which text does not belong to the others?"""

    texts: tuple[MarkedText, ...]


@dataclass(frozen=True, slots=True)
class Simulate:
    """How strongly does a feature with this explanation fire at each token?"""

    explanation: str
    tokens: tuple[str, ...]


Question = ExplainMarks | ExplainWords | FindLabel | Judge | Match | TellSteered | FindIntruder | Simulate


def read_question(ask: Ask) -> Question:
    """What is asked.

    Raises:
        ProviderRejected: It is no question of an explainer or scorer that is known here.
    """
    asked = ask.messages[-1].content
    instructions = "\n".join(message.content for message in ask.messages[:-1])
    if "[RESPONSE]" in instructions:
        return FindIntruder(_numbered(asked.partition("\n\n")[2]))
    if asked.startswith("{"):
        return _simulation(asked)
    if judged := _JUDGED.match(asked):
        return Judge(judged[1], _numbered(judged[2]))
    if match := _MATCH.match(asked):
        return Match(match[1], match[2])
    if steered := _STEERED.match(asked):
        return TellSteered(steered[1], (steered[2], steered[3]))
    if lists := _LISTS.match(asked):
        return ExplainWords(tuple(ast.literal_eval(lists[1] or lists[2])), raised=lists[1] is None)
    if sections := dict(_SECTION.findall(asked)):
        return _label(sections, instructions)
    if "<<" in asked and "[EXPLANATION]" in instructions:
        shown = _HEADINGS.sub("", _ACTIVATIONS.sub("", asked))
        return ExplainMarks(read_marks(_NUMBERED.sub("", shown)), reasoning="Step 1" in instructions)
    raise ProviderRejected(
        "The demo's oracle does not understand the question.",
        "It knows the prompts of this server's explainers and scorers only. Name a real language model.",
    )


def _numbered(shown: str) -> tuple[MarkedText, ...]:
    """The texts behind `Example 0:`, `Example 1:` and so on; such words within a text are out of turn."""
    starts: list[Span] = []
    for found in _NUMBERED.finditer(shown):
        if int(found[1]) == len(starts):
            starts.append(found.span())
    ends = [start for start, _ in starts[1:]] + [len(shown)]
    return tuple(read_marks(shown[first:end].removesuffix("\n")) for (_, first), end in zip(starts, ends, strict=True))


def _simulation(asked: str) -> Simulate:
    document: Any = json.loads(asked)
    return Simulate(document["to_find"], tuple(entry["token"] for entry in document["activations"]))


def _label(sections: dict[str, str], instructions: str) -> FindLabel:
    lists = {name: entries.split("\n") for name, entries in sections.items()}
    strongest, texts = lists["MAX_ACTIVATING_TOKENS"], lists["TOP_ACTIVATING_TEXTS"]
    shown = tuple(_placed(token, text) for token, text in zip(strongest, texts, strict=False))
    raised = tuple(lists.get("TOP_POSITIVE_LOGITS", ()))
    return FindLabel(
        tuple(strongest), shown, raised, methods=len(set(re.findall(r"^Method (\d):", instructions, re.MULTILINE)))
    )


def _placed(token: str, text: str) -> MarkedText:
    """The text with the token's occurrence nearest to its middle marked; the strongest token is shown there."""
    places = [found.span() for found in re.finditer(re.escape(token), text)] if token else []
    middle = len(text) / 2
    nearest = min(places, key=lambda span: abs(sum(span) / 2 - middle), default=None)
    return MarkedText(text, () if nearest is None else (nearest,))


def as_marked(words: Sequence[str]) -> list[MarkedText]:
    """Words as texts that are marked all over, those that have a piece."""
    stripped = [word.strip() for word in words]
    return [MarkedText(word, ((0, len(word)),)) for word in stripped if pieces(word)]
