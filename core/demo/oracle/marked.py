"""Texts with marked parts, taken to pieces: words, numbers, single signs, line breaks and the tokenizer's own tokens.

Judges are shown text, not tokens, so pieces stand for tokens here. A word of which any token is marked is a marked
piece.
"""

import re
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Final

Span = tuple[int, int]
"""First character and the one behind the last."""

_MARK: Final = re.compile(r"<<(.+?)>>(?!>)", re.DOTALL)
_PIECE: Final = re.compile(r"<\|?[a-z]+\|?>|[^\W\d_]+|\d+|\n|[^\w\s]|_")


@dataclass(frozen=True, slots=True)
class MarkedText:
    """A text without its marks, and where they were."""

    text: str
    marks: tuple[Span, ...]

    @property
    def marked_pieces(self) -> list[Span]:
        """The pieces of which a part is marked."""
        return touched(pieces(self.text), self.marks)


def pieces(text: str) -> list[Span]:
    """Where the pieces of a text are, in order."""
    return [found.span() for found in _PIECE.finditer(text)]


def touched(spans: Sequence[Span], by: Sequence[Span]) -> list[Span]:
    """Those of the spans, which are in order and apart, that share a character with one of the others."""
    ends = [end for _, end in spans]
    found: set[int] = set()
    for start, end in by:
        at = bisect_left(ends, start + 1)
        while at < len(spans) and spans[at][0] < end:
            found.add(at)
            at += 1
    return [spans[i] for i in sorted(found)]


def read_marks(text: str) -> MarkedText:
    """A text in which parts stand `<<like this>>`."""
    parts = _MARK.split(text)  # every second one was marked
    ends = list(accumulate(map(len, parts)))
    marks = tuple((ends[i] - len(parts[i]), ends[i]) for i in range(1, len(parts), 2))
    return MarkedText("".join(parts), marks)


def joined(texts: Sequence[MarkedText]) -> MarkedText:
    """Several as one, each on lines of its own."""
    starts = accumulate((len(one.text) + 1 for one in texts), initial=0)
    marks = tuple((start + a, start + b) for start, one in zip(starts, texts, strict=False) for a, b in one.marks)
    return MarkedText("\n".join(one.text for one in texts), marks)
