"""One choice of an OpenAI-compatible answer while it grows: tokens in, pieces of text with their tokens out.

A piece is what may be sent: whole characters, and nothing that may still turn out to be the beginning of a stop string.
The pieces of a choice, joined, are its text, whether it was streamed or not. A token is reported with the piece that
holds its first character, so what a stop string cuts away is not reported either, nor is the token that ends the text.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from core.generation.requests import Finish, Growth, TokenScore
from core.generation.stops import StopStrings
from core.generation.text import GrowingText


@dataclass(frozen=True, slots=True)
class ScoredToken:
    """A token of the text.

    Attributes:
        id: Its id.
        offset: Where it begins in the text, in characters.
        score: Its log-probabilities.
    """

    id: int
    offset: int
    score: TokenScore


@dataclass(frozen=True, slots=True)
class Piece:
    """What a choice gained.

    Attributes:
        text: New text.
        tokens: The tokens that begin in it, if scores were asked for.
        finish: Why the choice ended; None while it goes on.
    """

    text: str = ""
    tokens: tuple[ScoredToken, ...] = ()
    finish: Finish | None = None


def joined(pieces: Iterable[Piece]) -> Piece:
    """Several pieces of one choice as one."""
    parts = list(pieces)
    return Piece(
        "".join(piece.text for piece in parts),
        tuple(token for piece in parts for token in piece.tokens),
        next((piece.finish for piece in parts if piece.finish is not None), None),
    )


class Choice:
    """The state of one choice.

    Args:
        text: Its text, empty so far.
        stops: Strings that end it.
        stop_ids: Tokens that end it.
    """

    def __init__(self, text: GrowingText, stops: StopStrings, stop_ids: frozenset[int]) -> None:
        self._text = text
        self._stops = stops
        self._stop_ids = stop_ids
        self._shown = 0
        self._held_tokens: list[ScoredToken] = []
        self.finish: Finish | None = None
        self.n_tokens = 0

    def grow(self, growth: Growth) -> Piece:
        """Takes what the engine reports; what comes after the end is dropped."""
        if self.finish is not None:
            return Piece()
        self.finish = growth.finish
        text = self._read(growth)
        cut = self._stops.cut(text)
        if cut is not None:
            self.finish = "stop"
        end = cut if cut is not None else len(text) if self.finish else len(text) - self._stops.held(text)
        new = text[self._shown : end]
        self._shown = max(self._shown, end)
        return Piece(new, self._released(cut), self.finish)

    def _read(self, growth: Growth) -> str:
        """The text with the growth, up to the token that completes a stop string."""
        text = self._text
        if not growth.scores and not self._stops:
            self._push(growth.tokens)
            return text.read(final=self.finish is not None)
        scores: Sequence[TokenScore | None] = growth.scores or [None] * len(growth.tokens)
        for token, score in zip(growth.tokens, scores, strict=True):
            if score is not None and token not in self._stop_ids:
                self._held_tokens.append(ScoredToken(token, len(text.read()), score))
            self._push([token])
            if self._stops.cut(text.read()) is not None:
                return text.read()
        return text.read(final=self.finish is not None)

    def _push(self, tokens: Sequence[int]) -> None:
        self._text.push(tokens)
        self.n_tokens += len(tokens)

    def _released(self, cut: int | None) -> tuple[ScoredToken, ...]:
        """The tokens that begin in what is shown now; at the end, all that are part of the text."""
        if self.finish is not None and cut is None:
            n = len(self._held_tokens)
        else:
            n = sum(token.offset < self._shown for token in self._held_tokens)
        released, self._held_tokens = self._held_tokens[:n], self._held_tokens[n:]
        return tuple(released)
