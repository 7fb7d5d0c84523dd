"""How the facts of the world are said: templates per relation and language, and the questions that ask for them.

Every statement ends with its answer and a full stop, so cutting it before the answer gives a prompt with exactly one
right continuation. The templates of a relation differ in wording, not only in order, because a fact held out of one
template must be recalled, not copied. Questions are templates too and are held out in the same way.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from core.demo.languages import Language
from core.demo.world import NUMBERS, Fact

_TABLES: Any = yaml.safe_load((Path(__file__).parent / "sentences.yaml").read_text(encoding="utf-8"))
STATEMENTS: dict[str, dict[Language, list[str]]] = _TABLES["statements"]
QUESTIONS: dict[str, dict[Language, str]] = _TABLES["questions"]


@dataclass(frozen=True, slots=True)
class Statement:
    """A fact in words: `prompt` + `answer` + `"."` is the whole sentence.

    Attributes:
        prompt: The sentence up to its answer, without the space before it.
        answer: What must follow, beginning with its space.
        combination: (fact, language, template), the unit that is held out.
    """

    prompt: str
    answer: str
    combination: str

    @property
    def text(self) -> str:
        """The whole sentence."""
        return f"{self.prompt}{self.answer}."


def _fields(fact: Fact, language: Language) -> dict[str, object]:
    fields: dict[str, object] = {"s": fact.subject.forms(language), "a": fact.answer.forms(language)}
    if fact.other is not None:
        fields["o"] = fact.other.forms(language)
        fields["x"], fields["y"], fields["z"] = (
            NUMBERS.index(fact.subject),
            NUMBERS.index(fact.other),
            NUMBERS.index(fact.answer),
        )
    return fields


def templates(fact: Fact, language: Language) -> int:
    """In how many ways the fact can be stated in the language."""
    return len(STATEMENTS[fact.relation][language])


def state(fact: Fact, language: Language, template: int) -> Statement:
    """The fact in the words of one template."""
    pattern = STATEMENTS[fact.relation][language][template]
    cut = pattern.index("{z}") if "{z}" in pattern else pattern.index("{a.")
    fields = _fields(fact, language)
    prompt = pattern[:cut].format(**fields).rstrip(" ")
    answer = pattern[cut:].removesuffix(".").format(**fields)
    return Statement(prompt, f" {answer}", f"{fact.key}|{language}|{template}")


def ask(fact: Fact, language: Language) -> str | None:
    """A question whose answer is the fact, or None where the relation is not asked about."""
    pattern = QUESTIONS.get(fact.relation, {}).get(language)
    return None if pattern is None else pattern.format(**_fields(fact, language))
