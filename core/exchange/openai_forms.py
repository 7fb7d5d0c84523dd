"""How the two OpenAI-compatible routes word the same thing: texts, their log-probabilities, whole or in chunks."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from core.exchange.openai_choice import Piece, ScoredToken
from core.generation.token_bytes import token_bytes
from core.prompts import PromptTokenizer
from core.wire.base import WireModel
from core.wire.openai_replies import (
    ChatChoice,
    ChatChunkChoice,
    ChatCompletionsChunk,
    ChatCompletionsResponse,
    ChatDelta,
    ChatLogprobs,
    ChatReply,
    CompletionChoice,
    CompletionLogprobs,
    CompletionsResponse,
    TokenLogprob,
    TopLogprob,
    Usage,
)


@dataclass(frozen=True, slots=True)
class Head:
    """What all parts of one answer have in common.

    Attributes:
        id: Name of the answer.
        created: When, in whole seconds since the Unix epoch.
        model: The model's id.
    """

    id: str
    created: int
    model: str


class Form(Protocol):
    """The wording of one route."""

    def whole(self, choices: Sequence[Piece], usage: Usage) -> WireModel:
        """The answer at once."""
        ...

    def opening(self, index: int, echoed: str) -> list[WireModel]:
        """What a stream says of a choice before its first piece."""
        ...

    def chunk(self, index: int, piece: Piece) -> WireModel:
        """What a stream says of a piece."""
        ...

    def counted(self, usage: Usage) -> WireModel:
        """What a stream says of the token counts."""
        ...


class CompletionForm:
    """The wording of `/v1/completions`.

    Args:
        head: What all parts have in common.
        tokenizer: The model's.
        n_top: Number of likeliest tokens to report per position; None reports no log-probabilities.
    """

    def __init__(self, head: Head, tokenizer: PromptTokenizer, n_top: int | None) -> None:
        self._head = head
        self._tokenizer = tokenizer
        self._n_top = n_top

    def whole(self, choices: Sequence[Piece], usage: Usage) -> CompletionsResponse:
        """The answer at once."""
        return self._response([self._choice(index, piece) for index, piece in enumerate(choices)], usage)

    def opening(self, index: int, echoed: str) -> list[WireModel]:
        """The prompt, if it is echoed."""
        return [self._response([self._choice(index, Piece(echoed))])] if echoed else []

    def chunk(self, index: int, piece: Piece) -> CompletionsResponse:
        """New text."""
        return self._response([self._choice(index, piece)])

    def counted(self, usage: Usage) -> CompletionsResponse:
        """The token counts."""
        return self._response([], usage)

    def _response(self, choices: list[CompletionChoice], usage: Usage | None = None) -> CompletionsResponse:
        head = self._head
        return CompletionsResponse(id=head.id, created=head.created, model=head.model, choices=choices, usage=usage)

    def _choice(self, index: int, piece: Piece) -> CompletionChoice:
        logprobs = None if self._n_top is None else self._logprobs(piece.tokens, self._n_top)
        return CompletionChoice(index=index, text=piece.text, logprobs=logprobs, finish_reason=piece.finish)

    def _logprobs(self, tokens: Sequence[ScoredToken], n_top: int) -> CompletionLogprobs:
        return CompletionLogprobs(
            tokens=[self._string(token.id) for token in tokens],
            token_logprobs=[token.score.logprob for token in tokens],
            top_logprobs=[{self._string(id_): logprob for id_, logprob in token.score.top[:n_top]} for token in tokens]
            if n_top
            else None,
            text_offset=[token.offset for token in tokens],
        )

    def _string(self, token: int) -> str:
        raw = token_bytes(self._tokenizer, token)
        try:
            raw.decode()
        except UnicodeDecodeError:
            return "bytes:" + "".join(f"\\x{byte:02x}" for byte in raw)
        return self._tokenizer.str_tokens([token])[0]


class ChatForm:
    """The wording of `/v1/chat/completions`.

    Args:
        head: What all parts have in common.
        tokenizer: The model's.
        n_top: Number of likeliest tokens to report per position; None reports no log-probabilities.
    """

    def __init__(self, head: Head, tokenizer: PromptTokenizer, n_top: int | None) -> None:
        self._head = head
        self._tokenizer = tokenizer
        self._n_top = n_top

    def whole(self, choices: Sequence[Piece], usage: Usage) -> ChatCompletionsResponse:
        """The answer at once."""
        head = self._head
        return ChatCompletionsResponse(
            id=head.id,
            created=head.created,
            model=head.model,
            choices=[
                ChatChoice(
                    index=index,
                    message=ChatReply(content=piece.text),
                    logprobs=self._logprobs(piece),
                    finish_reason=piece.finish,
                )
                for index, piece in enumerate(choices)
            ],
            usage=usage,
        )

    def opening(self, index: int, echoed: str) -> list[WireModel]:
        """Who speaks."""
        return [self._chunk([ChatChunkChoice(index=index, delta=ChatDelta(role="assistant", content=echoed))])]

    def chunk(self, index: int, piece: Piece) -> ChatCompletionsChunk:
        """New text."""
        delta = ChatDelta(content=piece.text or None)
        choice = ChatChunkChoice(index=index, delta=delta, logprobs=self._logprobs(piece), finish_reason=piece.finish)
        return self._chunk([choice])

    def counted(self, usage: Usage) -> ChatCompletionsChunk:
        """The token counts."""
        return self._chunk([], usage)

    def _chunk(self, choices: list[ChatChunkChoice], usage: Usage | None = None) -> ChatCompletionsChunk:
        head = self._head
        return ChatCompletionsChunk(id=head.id, created=head.created, model=head.model, choices=choices, usage=usage)

    def _logprobs(self, piece: Piece) -> ChatLogprobs | None:
        if self._n_top is None:
            return None
        return ChatLogprobs(content=[self._token(token, self._n_top) for token in piece.tokens])

    def _token(self, token: ScoredToken, n_top: int) -> TokenLogprob:
        top = [self._top(id_, logprob) for id_, logprob in token.score.top[:n_top]]
        chosen = self._top(token.id, token.score.logprob)
        return TokenLogprob(token=chosen.token, logprob=chosen.logprob, bytes=chosen.bytes, top_logprobs=top)

    def _top(self, token: int, logprob: float) -> TopLogprob:
        text = self._tokenizer.str_tokens([token])[0]
        return TopLogprob(token=text, logprob=logprob, bytes=list(token_bytes(self._tokenizer, token)))
