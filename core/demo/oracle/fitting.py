"""Which concept fits marked pieces best: those it covers against those it misses and those it covers in vain (F1).

Of what fits alike the simpler is taken: each listed word costs a little, and so does breadth. So a feature that fires
on one animal only is that word, and one that fires on ten is "an animal".
"""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from core.demo.oracle.concepts import Concept, about_words, after, before, concepts
from core.demo.oracle.marked import MarkedText, Span, pieces, touched

_COST_OF_A_KIND: Final = 0.05
_COST_OF_A_WORD: Final = 0.025
_LISTED: Final = 4
_UNSAYABLE: Final = frozenset(("\n", '"', "“", "”"))

Shift = Callable[[Concept], Concept]


@dataclass(frozen=True, slots=True)
class Fit:
    """How well a concept fits.

    Attributes:
        concept: The concept.
        f1: Harmonic mean of the share of marked pieces that it covers and the share of those covered that are marked.
        cost: What it costs to say.
    """

    concept: Concept
    f1: float
    cost: float

    @property
    def worth(self) -> float:
        """What the best has most of."""
        return self.f1 - self.cost


def best_fit(marked: MarkedText) -> Fit | None:
    """The concept that fits a text's marks best; None if nothing fits at all."""
    return best_of(candidates(marked))


def best_of(fits: Sequence[Fit]) -> Fit | None:
    """The one that is worth most; None if none fits at all."""
    fits = [fit for fit in fits if fit.f1 > 0]
    return max(fits, key=lambda fit: (fit.worth, fit.concept.name), default=None)


def candidates(marked: MarkedText, *, alone: bool = False) -> list[Fit]:
    """Every concept that might be meant, with how well it fits.

    Args:
        marked: The text.
        alone: Whether it is words that stand alone, so that nothing comes before or behind them.
    """
    everything = pieces(marked.text)
    wanted = set(touched(everything, marked.marks))
    if not wanted:
        return []
    at = [marked.text[start:end].casefold() for start, end in everything]
    is_marked = [one in wanted for one in everything]
    listed = [_words(at, is_marked, _itself)]
    if not alone:
        listed += [_words(at[1:], is_marked[:-1], before), _words(at[:-1], is_marked[1:], after)]
    shifts = (_itself,) if alone else (_itself, before, after)
    kinds = [shift(concept) for concept in concepts().values() for shift in shifts]
    fits = [Fit(kind, _f1(kind, marked.text, everything, wanted), _COST_OF_A_KIND + kind.breadth) for kind in kinds]
    return fits + [fit for fit in listed if fit is not None]


def _itself(concept: Concept) -> Concept:
    return concept


def _f1(concept: Concept, text: str, everything: Sequence[Span], wanted: set[Span]) -> float:
    covered = touched(everything, concept.find(text))
    hits = sum(one in wanted for one in covered)
    return 2 * hits / (len(covered) + len(wanted))


def _words(words: Sequence[str], is_marked: Sequence[bool], shift: Shift) -> Fit | None:
    """The few words at whose places (or next to which) the marks are."""
    n_marked = sum(is_marked)
    everywhere = Counter(words)
    hits = Counter(word for word, mark in zip(words, is_marked, strict=True) if mark and word not in _UNSAYABLE)
    chosen: list[str] = []
    best: Fit | None = None
    for word in sorted(hits, key=lambda one: (-hits[one] / (everywhere[one] + n_marked), one))[:_LISTED]:
        chosen.append(word)
        f1 = 2 * sum(hits[one] for one in chosen) / (sum(everywhere[one] for one in chosen) + n_marked)
        concept = shift(about_words(chosen))
        fit = Fit(concept, f1, _COST_OF_A_WORD * len(chosen) + concept.breadth)
        if best is None or fit.worth > best.worth:
            best = fit
    return best
