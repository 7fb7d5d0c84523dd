"""Sequences: counting in words and digits, weekdays, months, letters and lists of sums.

They give the model the simplest circuits worth tracing (what comes next) and the features that fire on digits,
weekdays and number words.
"""

import random

from core.demo.languages import Language, capitalised
from core.demo.world import DAYS, MONTHS, NUMBERS

_INTRODUCTIONS: dict[str, dict[Language, tuple[str, ...]]] = {
    "count": {
        "en": ("", "", "Let us count: ", "The children count: "),
        "fr": ("", "", "Comptons : ", "Les enfants comptent : "),
        "es": ("", "", "Vamos a contar: ", "Los niños cuentan: "),
    },
    "days": {
        "en": ("", "", "The days of the week: "),
        "fr": ("", "", "Les jours de la semaine : "),
        "es": ("", "", "Los días de la semana: "),
    },
    "months": {
        "en": ("", "", "The months of the year: "),
        "fr": ("", "", "Les mois de l'année : "),
        "es": ("", "", "Los meses del año: "),
    },
}


def sequence(rng: random.Random, language: Language) -> str:
    """A few lines that count or name what follows what."""
    return "\n".join(_line(rng, language) for _ in range(rng.choice((1, 1, 2, 3))))


def _line(rng: random.Random, language: Language) -> str:
    kind = rng.choice(("words", "words", "digits", "days", "days", "months", "down"))
    if kind == "words":
        start = rng.choice((1, 1, 1, 0, rng.randrange(15)))
        items = [word.bare(language) for word in NUMBERS[start : start + rng.randrange(4, 13)]]
        topic = "count"
    elif kind == "down":
        start = rng.choice((5, 10, 10, rng.randrange(5, 20)))
        items = [word.bare(language) for word in NUMBERS[start::-1]]
        topic = "count"
    elif kind == "digits":
        start, step = rng.randrange(25), rng.choice((1, 1, 1, 2, 10))
        items = [str(n) for n in range(start, start + step * rng.randrange(4, 10), step) if n < 100]
        topic = "count"
    elif kind == "days":
        start = rng.choice((0, 0, rng.randrange(7)))
        items = [DAYS[(start + i) % 7].bare(language) for i in range(rng.randrange(4, 8))]
        topic = "days"
    else:
        start = rng.choice((0, 0, rng.randrange(12)))
        items = [MONTHS[(start + i) % 12].bare(language) for i in range(rng.randrange(4, 13))]
        topic = "months"
    introduction = rng.choice(_INTRODUCTIONS[topic][language])
    text = rng.choice((", ", ", ", ", ", " ")).join(items)
    return f"{introduction}{text if introduction else capitalised(text)}."
