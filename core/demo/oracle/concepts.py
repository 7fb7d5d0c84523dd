"""What can be said of the demo's texts: the words of its world by kind, its languages, its turns of chat.

A concept finds its places in any text. It may be about the words themselves ("an animal"), about the piece before them
("about to name an animal") or the one behind ("just after an animal"). A few words in quotes are a concept too, so an
explanation in words that nobody foresaw still means something: its own words.

All names of `core.demo.concepts` are known here, but not by its code: that labels documents whose origin is known,
this reads any text.
"""

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from typing import Final

from core.demo import world
from core.demo.chats import AFTER, BEFORE, PERSONAS
from core.demo.languages import LANGUAGES, Language, Word
from core.demo.oracle.marked import Span, pieces
from core.demo.stories import BAD, GOOD

Find = Callable[[str], list[Span]]


@dataclass(frozen=True, slots=True)
class Concept:
    """Something that holds at places of texts.

    Attributes:
        name: What an explanation calls it.
        find: Its places in a text, in order.
        breadth: How much it takes in, from 0: of two that fit alike the narrower is meant.
    """

    name: str
    find: Find
    breadth: float = 0.0


NOTHING: Final = Concept("nothing", lambda _: [])
"""What an explanation means that says nothing about any text."""

_WORD_KINDS: Final[tuple[tuple[str, tuple[str, ...], tuple[Word, ...]], ...]] = (
    ("a capital", ("capital", "capitals", "capital city", "capital cities"), world.CAPITALS),
    ("a city", ("city", "cities"), (*world.CITIES, *world.CAPITALS)),
    ("a country", ("country", "countries"), world.COUNTRIES),
    ("a continent", ("continent", "continents"), world.CONTINENTS),
    ("a language", ("language", "languages"), world.LANGUAGES_SPOKEN),
    ("a weekday", ("weekday", "weekdays", "days of the week"), world.DAYS),
    ("a month", ("month", "months"), world.MONTHS),
    ("a number word", ("number word", "number words"), world.NUMBERS),
    ("a colour", ("colour", "colours", "color", "colors"), world.COLOURS),
    ("an animal", ("animal", "animals"), world.ANIMALS),
    ("an animal's home", ("animal's home", "habitat", "habitats"), world.HABITATS),
    ("a sport", ("sport", "sports"), world.SPORTS),
    ("a piece of sports equipment", ("equipment",), world.EQUIPMENT),
    ("an instrument", ("instrument", "instruments", "musical instruments"), world.INSTRUMENTS),
    (
        "a profession",
        ("profession", "professions", "job", "jobs"),
        (*world.PROFESSIONS, *world.PROFESSIONS_OF_WOMEN),
    ),
    ("a workplace", ("workplace", "workplaces"), world.WORKPLACES),
    ("food", ("food", "foods", "drink", "drinks"), (*world.FOODS, *world.DIETS)),
    ("an adjective with an opposite", ("opposite", "opposites"), world.OPPOSITES),
    (
        "a woman's name",
        ("woman's name", "women's names", "female name"),
        tuple(person.who for person in world.PEOPLE if person.woman),
    ),
    (
        "a man's name",
        ("man's name", "men's names", "male name"),
        tuple(person.who for person in world.PEOPLE if not person.woman),
    ),
)
_LANGUAGE_NAMES: Final[dict[Language, str]] = {"en": "English", "fr": "French", "es": "Spanish"}
_TURNS: Final = (
    ("a question of the user", ("question", "questions", "the user"), "user", "assistant"),
    ("a reply of the assistant", ("reply", "replies", "the assistant"), "assistant", "user"),
)
_SIGNS: Final = (
    ("a full stop", ("full stop", "full stops", "period"), r"\."),
    ("a comma", ("comma", "commas"), ","),
    ("a line break", ("line break", "line breaks", "newline"), r"\n"),
    ("a sign of arithmetic", ("arithmetic",), r"(?<=\d )[-+=]"),
    ("a chat marker", ("chat marker", "chat markers"), r"<\|[a-z]+\|>"),
)
_BROAD: Final = 0.05
_STOP: Final = frozenset(
    re.findall(
        r"\w+",
        "a about and any are as at by feature for from in into is it latent name names neuron of on or say saying text"
        " texts that the this to token tokens which with word words",
    )
)
_QUOTED: Final = re.compile(r'"([^"]+)"|“([^”]+)”')
_BEFORE: Final = re.compile(r"^(?:(?:tokens?|words?) )?(?:about to|before|say|saying)\b", re.IGNORECASE)
_AFTER: Final = re.compile(r"^just after\b", re.IGNORECASE)


@cache
def concepts() -> dict[str, Concept]:
    """Every concept that is about words themselves, by name."""
    found = [Concept(name, _pattern(_forms(table))) for name, _, table in _WORD_KINDS]
    for name, adjectives in (("praise", GOOD), ("blame", BAD)):
        found.append(Concept(name, _pattern(form for forms in adjectives for form in forms)))
    numbers = "|".join([r"\d+", _alternatives(_forms(world.NUMBERS))])
    found += [
        Concept("digits", _regex(r"\d+")),
        Concept("a number in digits or words", _regex(numbers), _BROAD / 2),
    ]
    found += [Concept(name, _regex(pattern)) for name, _, pattern in _SIGNS]
    found += [Concept(name, _turn(role, next_role), 2 * _BROAD) for name, _, role, next_role in _TURNS]
    spoken = (text for said in (BEFORE, AFTER) for who in PERSONAS[1:] for triple in said[who] for text in triple)
    found.append(Concept("a reply in character", _regex("|".join(re.escape(text) for text in spoken if text)), _BROAD))
    found += [Concept(name, _language(language), _BROAD) for language, name in _LANGUAGE_NAMES.items()]
    return {concept.name: concept for concept in found}


def about_words(words: Sequence[str]) -> Concept:
    """Some words, whatever their case. Curved quotes, since readers of labels take straight ones off their ends."""
    quoted = ", ".join(f"“{word}”" for word in words)
    return Concept(f"the word{'s' if len(words) > 1 else ''} {quoted}", _pattern(words))


def before(concept: Concept) -> Concept:
    """The pieces that a concept's places follow on."""

    def find(text: str) -> list[Span]:
        all_pieces = pieces(text)
        starts = {start for start, _ in concept.find(text)}
        return [one for one, (start, _) in pairwise(all_pieces) if start in starts]

    quotes = concept.name.partition("“")
    name = f"about to say “{quotes[2]}" if quotes[1] else f"about to name {concept.name}"
    return Concept(name, find, concept.breadth + _BROAD / 2)


def after(concept: Concept) -> Concept:
    """The pieces right behind a concept's places."""

    def find(text: str) -> list[Span]:
        places = concept.find(text)
        ends = {end for _, end in places}
        all_pieces = pieces(text)
        return [one for last, one in pairwise(all_pieces) if last[1] in ends]

    quotes = concept.name.partition("“")
    name = f"just after “{quotes[2]}" if quotes[1] else f"just after {concept.name}"
    return Concept(name, find, concept.breadth + _BROAD / 2)


def meant_by(explanation: str) -> Concept:
    """The concept that an explanation stands for: one it quotes or names, else its own words, else nothing."""
    words = [straight or curved for straight, curved in _QUOTED.findall(explanation)]
    concept = about_words(words) if words else _named(explanation) or _own_words(explanation)
    if concept is NOTHING:
        return NOTHING
    if _BEFORE.match(explanation.strip()):
        return before(concept)
    return after(concept) if _AFTER.match(explanation.strip()) else concept


def _named(explanation: str) -> Concept | None:
    said = explanation.casefold()
    hits = [alias for alias in _aliases() if re.search(rf"(?<!\w){re.escape(alias)}(?!\w)", said)]
    return _aliases()[max(hits, key=len)] if hits else None


@cache
def _aliases() -> dict[str, Concept]:
    known = concepts()
    found = {name.casefold(): concept for name, concept in known.items()}
    for name, others, _ in (*_WORD_KINDS, *_SIGNS):
        found |= dict.fromkeys(others, known[name])
    for name, others, _, _ in _TURNS:
        found |= dict.fromkeys(others, known[name])
    number = known["a number in digits or words"]
    return found | {"number": number, "numbers": number, "digit": known["digits"]}


def _own_words(explanation: str) -> Concept:
    words = [explanation[start:end].casefold() for start, end in pieces(explanation)]
    telling = [word for word in words if len(word) > 2 and word not in _STOP]
    return about_words([*telling, *(word[:-1] for word in telling if word.endswith("s"))]) if telling else NOTHING


def _forms(table: Iterable[Word]) -> list[str]:
    return [word.bare(language) for word in table for language in LANGUAGES]


def _alternatives(forms: Iterable[str]) -> str:
    def bounded(form: str) -> str:
        first = r"(?<!\w)" if form[0].isalnum() else ""
        return first + re.escape(form) + (r"(?!\w)" if form[-1].isalnum() else "")

    return "|".join(bounded(form) for form in sorted(set(forms), key=lambda form: (-len(form), form)))


def _pattern(forms: Iterable[str]) -> Find:
    return _regex(_alternatives(forms))


def _regex(pattern: str) -> Find:
    compiled = re.compile(pattern, re.IGNORECASE)
    return lambda text: [found.span() for found in compiled.finditer(text) if found.group()]


def _language(language: Language) -> Find:
    def find(text: str) -> list[Span]:
        words = _own_words_of(language)
        return [(start, end) for start, end in pieces(text) if text[start:end].lower() in words]

    return find


@cache
def _own_words_of(language: Language) -> frozenset[str]:
    from core.demo.steering import own_words  # torch comes with it

    return own_words()[language]


def _turn(role: str, next_role: str) -> Find:
    """What is said in turns of a role; a text may begin or end within one."""
    inside = re.compile(
        rf"(?:<\|{role}\|>\n|\A(?=(?:(?!<\|).)*<\|end\|>\n?<\|{next_role}\|>))((?:(?!<\|end\|>).)*)", re.DOTALL
    )

    def find(text: str) -> list[Span]:
        turns = [found.span(1) for found in inside.finditer(text)]
        return [
            (start, end) for start, end in pieces(text) if any(first <= start and end <= last for first, last in turns)
        ]

    return find
