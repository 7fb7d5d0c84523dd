"""Generated tokens as text, while they come.

A token may end in the middle of a character, so a text that still grows holds back what does not decode yet.
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
        before = tokenizer.decode(prompt[-1:])
        self._anchor = [] if _INCOMPLETE in before else list(prompt[-1:])
        self._skipped = len(before) if self._anchor else 0

    @property
    def ids(self) -> tuple[int, ...]:
        """Every token so far, hidden ones included."""
        return tuple(self._ids)

    def push(self, ids: Sequence[int]) -> None:
        """Appends tokens."""
        self._ids += ids

    def read(self, *, final: bool = False) -> str:
        """The text so far; `final` also shows a last character that never became whole."""
        shown = [id_ for id_ in self._ids if id_ not in self._hidden]
        text = self._tokenizer.decode([*self._anchor, *shown])[self._skipped :]
        return text if final else text.rstrip(_INCOMPLETE)
