"""Generated tokens as text, while they come.

A token may end in the middle of a character, so a text that still grows holds back what does not decode yet. What has
been decoded is not decoded again: only the tokens since the last one that ended with a whole character are.
"""

from collections.abc import Iterable, Sequence

from core.prompts import PromptTokenizer

_INCOMPLETE = "\ufffd"


class GrowingText:
    """The text of one continuation.

    Args:
        tokenizer: The model's tokenizer.
        prompt: Token ids before it. Decoders that strip a sequence's first space must not strip ours.
        hidden_ids: Tokens that are left out of the text, wherever they stand.
    """

    def __init__(self, tokenizer: PromptTokenizer, prompt: Sequence[int], hidden_ids: Iterable[int] = ()) -> None:
        self._tokenizer = tokenizer
        self._hidden = frozenset(hidden_ids)
        self._ids: list[int] = []
        self._settled = ""
        self._open: list[int] = []
        self._anchor: list[int] = []
        self._anchor_chars = 0
        self._settle(prompt[-1:])

    @property
    def ids(self) -> tuple[int, ...]:
        """Every token so far, hidden ones included."""
        return tuple(self._ids)

    def push(self, ids: Sequence[int]) -> None:
        """Appends tokens."""
        self._ids += ids
        self._open += (id_ for id_ in ids if id_ not in self._hidden)

    def read(self, *, final: bool = False) -> str:
        """The text so far; `final` also shows a last character that never became whole."""
        new = self._tokenizer.decode([*self._anchor, *self._open])[self._anchor_chars :]
        if self._open and not new.endswith(_INCOMPLETE) and self._settle(self._open[-1:]):
            self._settled += new
            return self._settled
        return self._settled + (new if final else new.rstrip(_INCOMPLETE))

    def _settle(self, last: Sequence[int]) -> bool:
        """Decodes from token `last` on from now, if it is whole characters by itself; what is before is done."""
        text = self._tokenizer.decode(last)
        if _INCOMPLETE in text:
            return False
        self._anchor, self._anchor_chars, self._open = list(last), len(text), []
        return True
