"""Means of activations over spans of a sequence, summed on the device while the sequence runs.

The persona monitor wants one mean per message. Shipping every token's activation would move kilobytes per token out
of every step; instead the operation at the site adds rows into sums that stay on the device, and one call fetches them
when the sequence has ended.

Positions are absolute; the last token that a sequence generates is never run through the model, so it is in no mean.
"""

from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import count, pairwise

import numpy as np

from core.errors import InvalidRequest, Overloaded, TooLarge
from core.steerer.request import Reading, Span
from core.steering.specification import Floats


@dataclass(frozen=True, slots=True, eq=False)
class Means:
    """Mean activations of spans at one residual site.

    Attributes:
        before: `[spans, width]`, what reaches the site.
        after: `[spans, width]`, what steering leaves there.
    """

    before: Floats
    after: Floats


class Segments:
    """The rows of the workers' sums, as the engine's process lends them."""

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._free = list(range(capacity))
        self._keys = count()

    @contextmanager
    def lease(self, site: int, spans: Sequence[tuple[int, int]]) -> Generator[Reading]:
        """Lends rows for spans `(start, stop)` until the body ends, by when the sums have been fetched.

        Raises:
            InvalidRequest: A span ends before it starts, or two overlap.
            TooLarge: There will never be so many rows.
            Overloaded: Too many are lent.
        """
        ordered = sorted(spans)
        if not spans or any(start < 0 or start > stop for start, stop in spans):
            raise InvalidRequest("There are no spans of positions to read, or one ends before it starts")
        if any(stop > start for (_, stop), (start, _) in pairwise(ordered)):
            raise InvalidRequest("Spans of positions to read overlap")
        if len(spans) > self._capacity:
            raise TooLarge(f"The request reads {len(spans)} spans; this engine sums {self._capacity} at most")
        if len(spans) > len(self._free):
            raise Overloaded("This engine reads as many spans as it can", "Try again in a moment.")
        rows = [self._free.pop() for _ in spans]
        try:
            taken = tuple(Span(*span, row) for span, row in zip(spans, rows, strict=True))
            yield Reading(next(self._keys), site, taken)
        finally:
            self._free += rows


def means(reading: Reading, sums: bytes, width: int) -> Means:
    """Divides the sums of a reading by the lengths of its spans; the mean of an empty span is zero."""
    table = np.frombuffer(sums, dtype=np.float32).reshape(len(reading.spans), 2, width)
    lengths = np.array([max(1, span.stop - span.start) for span in reading.spans], dtype=np.float32)
    table = table / lengths[:, None, None]
    return Means(table[:, 0], table[:, 1])
