"""Just enough grammar of English, French and Spanish to write correct sentences from a word list.

A template never spells an article: it asks a word for one of its forms (`{s.the}`, `{s.of}`, `{a.within}`), and the
form knows gender, elision (`l'école`, `d'Anna`) and contraction (`du`, `del`). That keeps one template per language
instead of one per gender. Verbs are conjugated in the templates themselves; there is deliberately no morphology
beyond nouns and the few words that agree with a person.
"""

from dataclasses import dataclass
from typing import Literal

Language = Literal["en", "fr", "es"]
LANGUAGES: tuple[Language, ...] = ("en", "fr", "es")
LANGUAGE_NAMES: dict[Language, dict[Language, str]] = {
    "en": {"en": "English", "fr": "French", "es": "Spanish"},
    "fr": {"en": "anglais", "fr": "français", "es": "espagnol"},
    "es": {"en": "inglés", "fr": "francés", "es": "español"},
}
"""`LANGUAGE_NAMES[l][m]` is what language `l` calls language `m`."""

_VOWELS = "aeiouâàáéèêëíîïóôöúûùœæAEIOUÂÀÁÉÈÊËÍÎÏÓÔÖÚÛÙŒ"
_SILENT_H = ("hôpital", "herbe", "hôtel", "homme", "huile", "Helsinki")


def capitalised(text: str) -> str:
    """The text with its first letter in upper case and the rest untouched."""
    return text[:1].upper() + text[1:]


@dataclass(frozen=True, slots=True)
class Forms:
    """One noun or name as one language uses it; templates read these attributes.

    Attributes:
        n: The bare word.
        the: With the definite article (`la France`, `the cat`, `Marie`).
        The: The same, capitalised for the start of a sentence.
        a: With the indefinite article.
        A: The same, capitalised.
        of: "of the ..." (`du chat`, `de Marie`, `of the cat`).
        at: "at/in the ..." for places (`à l'école`, `en el mercado`).
        within: "in ..." for countries and cities (`en France`, `au Japon`, `à Paris`).
        some: An unspecified amount (`du pain`, `bread`, `pan`).
    """

    n: str
    the: str
    The: str
    a: str
    A: str
    of: str
    at: str
    within: str
    some: str


@dataclass(frozen=True, slots=True)
class Word:
    """A word of the micro-world in three languages, each with its gender mark.

    The mark is `m` or `f` for a noun that takes articles and `-` for a name or a mass noun that takes none.
    """

    en: str
    fr: str
    es: str
    marks: tuple[str, str, str]

    def bare(self, language: Language) -> str:
        """The word without any article."""
        return {"en": self.en, "fr": self.fr, "es": self.es}[language]

    def forms(self, language: Language) -> Forms:
        """All forms of the word in one language."""
        if language == "en":
            return _english(self.en, self.marks[0])
        if language == "fr":
            return _french(self.fr, self.marks[1])
        return _spanish(self.es, self.marks[2])


def _forms(n: str, the: str, a: str, of: str, at: str, within: str, some: str) -> Forms:
    return Forms(
        n=n,
        the=the,
        The=capitalised(the),
        a=a,
        A=capitalised(a),
        of=of,
        at=at,
        within=within,
        some=some,
    )


def _english(n: str, mark: str) -> Forms:
    if mark == "-":
        return _forms(n, n, n, f"of {n}", f"in {n}", f"in {n}", n)
    the = f"the {n}"
    article = "an" if n[0] in "aeiouAEIO" else "a"
    return _forms(n, the, f"{article} {n}", f"of {the}", f"in {the}", f"in {the}", f"some {n}")


def _elides(n: str) -> bool:
    return n[0] in _VOWELS or n.startswith(_SILENT_H)


def _french(n: str, mark: str) -> Forms:
    elided = _elides(n)
    if mark == "-":
        of = f"d'{n}" if elided else f"de {n}"
        return _forms(n, n, n, of, f"à {n}", f"à {n}", n)
    indefinite = f"un {n}" if mark == "m" else f"une {n}"
    if elided:
        return _forms(n, f"l'{n}", indefinite, f"de l'{n}", f"à l'{n}", f"en {n}", f"de l'{n}")
    if mark == "m":
        return _forms(n, f"le {n}", indefinite, f"du {n}", f"au {n}", f"au {n}", f"du {n}")
    return _forms(n, f"la {n}", indefinite, f"de la {n}", f"à la {n}", f"en {n}", f"de la {n}")


def _spanish(n: str, mark: str) -> Forms:
    if mark == "-":
        return _forms(n, n, n, f"de {n}", f"en {n}", f"en {n}", n)
    if mark == "m":
        return _forms(n, f"el {n}", f"un {n}", f"del {n}", f"en el {n}", f"en el {n}", n)
    return _forms(n, f"la {n}", f"una {n}", f"de la {n}", f"en la {n}", f"en la {n}", n)


def words(table: str) -> tuple[Word, ...]:
    """Read a table of words, one per line: `english | french mark | spanish mark`.

    A missing English mark means a countable noun; `-` anywhere means "takes no article".

    Raises:
        ValueError: If a line does not have three columns.
    """
    found: list[Word] = []
    for line in table.strip().splitlines():
        columns = [column.strip() for column in line.split("|")]
        if len(columns) != 3:
            raise ValueError(f"expected three columns in {line!r}")
        pairs = [_marked(column) for column in columns]
        found.append(
            Word(pairs[0][0], pairs[1][0], pairs[2][0], (pairs[0][1], pairs[1][1], pairs[2][1])),
        )
    return tuple(found)


def name(text: str) -> Word:
    """A proper name that is the same in every language."""
    return Word(text, text, text, ("-", "-", "-"))


def _marked(column: str) -> tuple[str, str]:
    head, _, mark = column.rpartition(" ")
    return (head, mark) if mark in ("m", "f", "-") and head else (column, "n")
