"""Text to tokens, with one rule for the beginning of the sequence.

SAEs are trained on sequences that start with BOS, tokenizers disagree about who writes it, and callers sometimes write
it themselves. `PromptTokenizer` settles it: a prompt of the activation routes has exactly one BOS at index 0 if the
tokenizer has a BOS at all, and no BOS otherwise.

    bos_prompt      features of an SAE         BOS, always
    vector_prompt   a caller's own direction   BOS if the tokenizer adds one by itself
    tokenize        /v1/tokenize               BOS as asked

Threads: the Rust tokenizer may be read by many threads at once, but changing its truncation or padding while another
thread reads fails with "Already borrowed", and transformers changes both inside `__call__`. So they are switched off
once, here, and every call goes to the Rust tokenizer directly. Nothing else may tokenize with the wrapped object.

Deliberately not here: truncation and padding. A text over its limit is refused, and rows are padded where batches are
made.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Any, Final, Self

from core.errors import InvalidRequest

if TYPE_CHECKING:
    from tokenizers import Encoding, Tokenizer

# A text is first counted on a prefix of so many characters per allowed token, then on ever longer ones.
_PREFIX_CHARS_PER_TOKEN: Final = 16
_PREFIX_CHARS_AT_LEAST: Final = 256
_PREFIX_GROWTH: Final = 4
_SPACE_MARK: Final = "\u2581"  # how SentencePiece vocabularies write a space


@dataclass(frozen=True, slots=True)
class TokenLimit:
    """How long a text may be.

    Attributes:
        max_tokens: Most tokens allowed, BOS included.
        subject: What is counted, for the message.
        suffix: End of the message, such as " for batch requests".
    """

    max_tokens: int
    subject: str = "Text"
    suffix: str = ""

    def check(self, n_tokens: int) -> None:
        """Refuse a text of more than `max_tokens` tokens.

        Raises:
            InvalidRequest: The text is too long.
        """
        if n_tokens > self.max_tokens:
            raise self.refusal(n_tokens)

    def refusal(self, n_tokens: int, hint: str | None = None) -> InvalidRequest:
        """The error for a text of `n_tokens` tokens."""
        message = f"{self.subject} too long: {n_tokens} tokens, max is {self.max_tokens}{self.suffix}"
        return InvalidRequest(message, hint)


@dataclass(frozen=True, slots=True)
class Prompt:
    """A tokenised text. All three tuples have one entry per token.

    Attributes:
        ids: Token ids.
        strings: Each id decoded alone, leading space kept.
        is_special: Whether the token is BOS, EOS, padding, a turn marker or the like.
        has_bos: Whether `ids[0]` is BOS.
    """

    ids: tuple[int, ...]
    strings: tuple[str, ...]
    is_special: tuple[bool, ...]
    has_bos: bool

    def __len__(self) -> int:
        return len(self.ids)


def check_unicode(text: str) -> None:
    r"""Refuse text that is not Unicode: JSON can carry half a surrogate pair (`"\ud800"`), no tokenizer can.

    Raises:
        InvalidRequest: The text holds a lone surrogate.
    """
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise InvalidRequest(
            f"Text is not valid Unicode: lone surrogate at character {error.start}",
            "Send characters outside the basic plane as a whole surrogate pair or as UTF-8.",
        ) from error


class PromptTokenizer:
    """A transformers tokenizer under the rules above.

    Attributes:
        hf: The wrapped tokenizer, for its chat template and its vocabulary only.
        bos_id: Id of BOS, or None.
        pad_id: Id to pad with: the tokenizer's own, else EOS, else BOS.
        special_ids: Every id that `is_special` says yes to.
        vocab_size: Number of token ids, added tokens included.
        adds_bos: Whether the tokenizer writes BOS by itself.
    """

    def __init__(self, tokenizer: Any) -> None:
        backend: Tokenizer | None = getattr(tokenizer, "backend_tokenizer", None)
        if backend is None:
            raise TypeError(f"{type(tokenizer).__name__} has no Rust tokenizer; Rayscope needs a fast tokenizer")
        backend.no_truncation()
        backend.no_padding()
        backend.encode_special_tokens = tokenizer.split_special_tokens
        self._backend = backend
        self.hf = tokenizer
        self.vocab_size: int = len(tokenizer)
        self._bos_token: str | None = tokenizer.bos_token
        self.bos_id: int | None = tokenizer.bos_token_id
        ids = (tokenizer.pad_token_id, tokenizer.eos_token_id, self.bos_id)
        self.pad_id: int | None = next((id_ for id_ in ids if id_ is not None), None)
        self.special_ids: frozenset[int] = frozenset(
            [id_ for id_ in ids if id_ is not None]
            + list(tokenizer.all_special_ids)
            + [id_ for id_, token in tokenizer.added_tokens_decoder.items() if token.special]
        )
        self.adds_bos = self.bos_id is not None and backend.encode("").ids[:1] == [self.bos_id]
        self._strings: dict[int, str] = {}

    @classmethod
    def load(cls, source: str, revision: str | None = None) -> Self:
        """Load the tokenizer of a Hugging Face repository or a local folder; code from the repository never runs."""
        transformers: Any = import_module("transformers")  # seconds to import, and tests build their own tokenizers
        return cls(transformers.AutoTokenizer.from_pretrained(source, revision=revision, trust_remote_code=False))

    def bos_prompt(self, text: str, limit: TokenLimit | None = None) -> Prompt:
        """Tokenise for an SAE: exactly one BOS at index 0, wherever the tokenizer has one.

        A text that starts with the BOS literal already has it. BOS literals further inside are the caller's and stay.

        Raises:
            InvalidRequest: The text is too long, not Unicode, or nothing at all.
        """
        return self._not_empty(self._with_bos(text, limit))

    def vector_prompt(self, text: str, limit: TokenLimit | None = None) -> Prompt:
        """Tokenise for a caller's own direction: BOS only if the tokenizer writes one by itself.

        Raises:
            InvalidRequest: The text is too long, not Unicode, or nothing at all.
        """
        return self._not_empty(self._with_bos(text, limit) if self.adds_bos else self._plain(text, limit))

    def tokenize(self, text: str, prepend_bos: bool | None = None, limit: TokenLimit | None = None) -> Prompt:
        """Tokenise for display. The empty text without BOS has no tokens.

        Args:
            text: The text.
            prepend_bos: Whether to start with BOS; None means yes, as in `bos_prompt`.
            limit: How long the text may be.

        Raises:
            InvalidRequest: The text is too long or not Unicode.
        """
        return self._with_bos(text, limit) if self.prepends(prepend_bos) else self._plain(text, limit)

    def prepends(self, prepend_bos: bool | None) -> bool:
        """Whether `tokenize` puts BOS first when asked with `prepend_bos`."""
        return self.bos_id is not None and prepend_bos is not False

    def encode_rendered(self, text: str, limit: TokenLimit | None = None) -> "Encoding":
        """Tokenise a written-out conversation, whose template has already put every special token in its place.

        Returns:
            The Rust encoding: `ids`, and `offsets` into the characters of `text`.

        Raises:
            InvalidRequest: The text is too long or not Unicode.
        """
        encoding = self._encode(text, limit, add_special_tokens=False)
        if limit is not None:
            limit.check(len(encoding.ids))
        return encoding

    def str_tokens(self, ids: Sequence[int]) -> tuple[str, ...]:
        """Each id decoded alone, leading space kept, nothing cleaned up."""
        return tuple(self._string(id_) for id_ in ids)

    def decode(self, ids: Sequence[int]) -> str:
        """The text of a sequence of tokens, special tokens kept, nothing cleaned up."""
        return self._backend.decode(list(ids), skip_special_tokens=False)

    def is_special(self, ids: Sequence[int]) -> tuple[bool, ...]:
        """For each id, whether it is BOS, EOS, padding, or another token that the tokenizer calls special."""
        return tuple(id_ in self.special_ids for id_ in ids)

    def special_positions(self, ids: Sequence[int]) -> tuple[int, ...]:
        """Positions of the tokens that `is_special` marks."""
        return tuple(at for at, id_ in enumerate(ids) if id_ in self.special_ids)

    def _with_bos(self, text: str, limit: TokenLimit | None) -> Prompt:
        if self.bos_id is None or self._bos_token is None:
            return self._plain(text, limit)
        bare = text.removeprefix(self._bos_token)
        ids = self._encode(self._bos_token + bare, limit).ids
        if self.adds_bos and ids[:2] == [self.bos_id, self.bos_id]:
            ids = ids[1:]
        if ids[:1] != [self.bos_id]:  # a tokenizer that splits special tokens reads the literal as text
            ids = [self.bos_id, *self._encode(bare, None).ids]
        return self._prompt(ids, limit)

    def _plain(self, text: str, limit: TokenLimit | None) -> Prompt:
        ids = self._encode(text, limit).ids
        return self._prompt(ids[1:] if self.adds_bos else ids, limit)

    def _encode(self, text: str, limit: TokenLimit | None, *, add_special_tokens: bool = True) -> "Encoding":
        check_unicode(text)
        if limit is not None:
            self._refuse_early(text, limit)
        return self._backend.encode(text, add_special_tokens=add_special_tokens)

    def _refuse_early(self, text: str, limit: TokenLimit) -> None:
        """Refuse a text whose beginning alone is far too long, without tokenising megabytes.

        No bound on characters per token would do: a normaliser may fold many into one, and a special token may swallow
        any run of spaces before it. But what follows a prefix changes only the tokens next to the cut, spaces before a
        cut aside, so a stripped prefix of more than twice the limit settles it.
        """
        length = _PREFIX_CHARS_PER_TOKEN * limit.max_tokens + _PREFIX_CHARS_AT_LEAST
        while length < len(text):
            n_tokens = len(self._backend.encode(text[:length].rstrip()).ids)
            if n_tokens > 2 * limit.max_tokens + _PREFIX_CHARS_AT_LEAST // 4:
                raise limit.refusal(n_tokens, "Counting stopped early: the text has at least as many tokens.")
            length *= _PREFIX_GROWTH

    def _prompt(self, ids: Sequence[int], limit: TokenLimit | None) -> Prompt:
        if limit is not None:
            limit.check(len(ids))
        has_bos = self.bos_id is not None and ids[:1] == [self.bos_id]
        return Prompt(tuple(ids), self.str_tokens(ids), self.is_special(ids), has_bos)

    @staticmethod
    def _not_empty(prompt: Prompt) -> Prompt:
        if not prompt.ids:
            raise InvalidRequest(
                "The prompt is empty",
                "This model's tokenizer puts no BOS token first, so an empty text has no tokens.",
            )
        return prompt

    def _string(self, id_: int) -> str:
        # Two threads may both miss and both write the same string.
        string = self._strings.get(id_)
        if string is None:
            string = self._backend.decode([id_], skip_special_tokens=False)
            piece = self._backend.id_to_token(id_)
            # Some SentencePiece decoders strip the space of a sequence's first token, and here every token is first.
            if piece is not None and piece.startswith(_SPACE_MARK) and string[:1] not in (" ", _SPACE_MARK):
                string = f" {string}"
            self._strings[id_] = string
        return string
