"""Which tokens of a prompt write a part of it: where log-probabilities of prompts are read.

A provider cuts a prompt into tokens of its own and says the text of each, not always to the letter: a token that ends
inside of a character is shown as U+FFFD, and SentencePiece vocabularies lose or mark the space in front of a word. So
the prompt is looked for in the joined texts with such allowances, and not counted out by characters. Turns that a chat
template puts around it do no harm.
"""

import re
from collections import deque
from collections.abc import Sequence
from itertools import accumulate
from typing import Final

from core.autointerp.language_model import TokenChoice

_CUT: Final = "\ufffd"
_SPACE_MARK: Final = "\u2581"
_RUNS: Final = re.compile(r" |[\x00-\x1f\x21-\x7f]+|[^\x00-\x7f]+")


def tokens_of(prompt: Sequence[TokenChoice], *parts: str) -> list[range] | None:
    """The tokens of every second part of a text, where it last stands in a prompt.

    Args:
        prompt: The prompt's tokens.
        parts: The text, cut so that what is wanted are the second, the fourth and so on; none of these empty.

    Returns:
        For each part that is wanted the tokens that write any of it, in order; None if the text is not there.
    """
    pattern = "".join(f"({_pattern(part)})" if at % 2 else _pattern(part) for at, part in enumerate(parts))
    matches = deque(re.finditer(pattern, "".join(token.text for token in prompt)), maxlen=1)
    if not matches:
        return None
    found = matches.pop()
    ends = list(accumulate(len(token.text) for token in prompt))
    starts = [0, *ends[:-1]]
    places = [_covering(starts, ends, *found.span(group)) for group in range(1, len(parts) // 2 + 1)]
    return places if all(places) else None


def _covering(starts: Sequence[int], ends: Sequence[int], start: int, end: int) -> range:
    # A token without text is the beginning of a character that the next one ends.
    touching = [at for at in range(len(starts)) if starts[at] < end and max(ends[at], starts[at] + 1) > start]
    return range(touching[0], touching[-1] + 1) if touching else range(0)


def _pattern(text: str) -> str:
    return "".join(_run_pattern(run) for run in _RUNS.findall(text))


def _run_pattern(run: str) -> str:
    if run == " ":
        return f"[ {_SPACE_MARK}]?"
    if run.isascii():
        return re.escape(run)
    letters = re.escape("".join(sorted(set(run))))
    return f"[{letters}{_CUT}]+"
