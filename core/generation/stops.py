"""Stop strings: text that ends a continuation and is not part of it.

A stop string is made of letters, not of tokens: it may begin inside one token and end inside another. So it is looked
for in the text, and the end of a growing text is held back while it may still turn out to be the beginning of one.

The result does not depend on how the text arrived: it ends as if its letters had come one by one and the first stop
string that was complete had ended it; of several complete at the same letter, the longest.
"""

from collections.abc import Sequence


class StopStrings:
    """The stop strings of one request.

    Args:
        stops: Strings that end the text; none of them empty.
    """

    def __init__(self, stops: Sequence[str] = ()) -> None:
        self._stops = tuple(dict.fromkeys(stops))

    def __bool__(self) -> bool:
        return bool(self._stops)

    def cut(self, text: str) -> int | None:
        """Where the text ends because of a stop string, or None if none is in it."""
        found = ((text.find(stop), stop) for stop in self._stops)
        complete = [(start + len(stop), start) for start, stop in found if start >= 0]
        return min(complete)[1] if complete else None

    def held(self, text: str) -> int:
        """How many letters at the end of a text may be the beginning of a stop string."""
        return max((_overlap(text, stop) for stop in self._stops), default=0)


def _overlap(text: str, stop: str) -> int:
    """Length of the longest end of `text` with which `stop` begins, `stop` itself excepted."""
    longest = min(len(text), len(stop) - 1)
    return next((n for n in range(longest, 0, -1) if text.endswith(stop[:n])), 0)
