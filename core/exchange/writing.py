"""Requests that make the model write: what is to be written, and how it becomes a response while it grows.

    body -> Writing(continuations, composer)
                      |                ^
                      v                | growths
                     engine ------------

A composer answers in three ways. `whole` is the answer of a request that does not stream. For one that does, `part`
is the next event and `last` the closing one: in cumulative mode each is a complete response and the last one equals
`whole`; in delta mode each holds only what is new, and all of them joined equal `whole`.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from core.errors import InvalidRequest
from core.exchange.served import ServedModel
from core.generation.requests import Continuation, Growth, TokenScore
from core.generation.text import GrowingText
from core.persona.monitor import Spans
from core.prompts import PromptTokenizer
from core.wire.base import WireModel
from core.wire.steering import NPLogprob, NPLogprobTop, NPSteerType, SteerVectorReads
from core.wire.vector_reads import VectorRead

Response = TypeVar("Response", bound=WireModel)

MAX_PENALTY = 100.0


@dataclass(frozen=True, slots=True)
class Writing(Generic[Response]):
    """Texts to write, and what turns them into the response. For one request; the composer remembers.

    Attributes:
        continuations: The texts.
        composer: Makes the response.
        reads: Directions to read over the texts once they are written.
    """

    continuations: list[Continuation]
    composer: "Composer[Response]"
    reads: tuple[VectorRead, ...] = ()


@dataclass(frozen=True, slots=True)
class Piece:
    """What a response shows of one text.

    Attributes:
        text: The text, or what of it is new.
        logprobs: Scores of its tokens; None where there are none.
        whole: The text so far, also where `text` is only what is new.
    """

    text: str
    logprobs: list[NPLogprob] | None
    whole: str


class Composer(ABC, Generic[Response]):
    """Collects what the engine reports of one request's texts.

    Args:
        tokenizer: The model's tokenizer.
        continuations: The texts, in the order of the response.
        types: The type of each text.
        hidden_ids: Tokens that are left out of the text, and their scores with them.
        delta: Whether events hold only what is new.

    Attributes:
        vector_reads: What `vectorReads` shows; whoever reads them sets it before `last` or `whole`.
    """

    def __init__(
        self,
        tokenizer: PromptTokenizer,
        continuations: Sequence[Continuation],
        types: Sequence[NPSteerType],
        *,
        hidden_ids: Iterable[int] = (),
        delta: bool = False,
    ) -> None:
        hidden = frozenset(hidden_ids)
        self.delta = delta
        self._texts = [_Text(tokenizer, continuation.prompt, hidden) for continuation in continuations]
        self.types = types
        self.vector_reads: list[SteerVectorReads] | None = None
        self._prompts = [continuation.prompt for continuation in continuations]
        self._begins = True

    def messages_of(self, index: int) -> tuple[tuple[int, ...], Spans]:
        """A text from its first token on, and `(start, end)` of each message in it; what was written is the last."""
        prompt, written = self._prompts[index], self._texts[index].tokens
        tokens = (*prompt, *written)
        return tokens, (*self.messages_in(prompt), (len(prompt), len(tokens)))

    def messages_in(self, prompt: tuple[int, ...]) -> Spans:
        """`(start, end)` of each message of a prompt; a plain text is one."""
        return ((0, len(prompt)),)

    @property
    def texts(self) -> list[str]:
        """Each text so far."""
        return [text.text for text in self._texts]

    def add(self, growths: Iterable[Growth]) -> None:
        """Takes note of what has been written."""
        for growth in growths:
            self._texts[growth.index].add(growth)

    def part(self) -> Response | None:
        """The next event; None while nothing new can be shown, and once all is written: `last` shows that."""
        if all(text.finished for text in self._texts) or not any(text.grew for text in self._texts):
            return None
        return self._event(last=False)

    def last(self) -> Response:
        """The closing event."""
        return self._event(last=True)

    def whole(self) -> Response:
        """The whole answer."""
        return self.compose([text.piece(delta=False) for text in self._texts], first=True, last=True)

    @abstractmethod
    def compose(self, pieces: list[Piece], *, first: bool, last: bool) -> Response:
        """Makes a response.

        Args:
            pieces: What to show of each text.
            first: Whether this response has to say what no later one repeats.
            last: Whether this response has to say what holds only at the end.
        """

    def _event(self, *, last: bool) -> Response:
        if not self.delta:
            return self.whole()
        first = self._begins
        self._begins = False
        return self.compose([text.piece(delta=True) for text in self._texts], first=first, last=last)


class _Text:
    """One text while it grows, and how much of it has been shown."""

    def __init__(self, tokenizer: PromptTokenizer, prompt: Sequence[int], hidden: frozenset[int]) -> None:
        self.finished = False
        self._tokenizer = tokenizer
        self._hidden = hidden
        self._growing = GrowingText(tokenizer, prompt, hidden)
        self._logprobs: list[NPLogprob] = []
        self.text = ""
        self._shown = 0
        self._shown_logprobs = 0

    @property
    def grew(self) -> bool:
        """Whether there is text that has not been shown."""
        return len(self.text) > self._shown

    @property
    def tokens(self) -> tuple[int, ...]:
        """Every token that was written."""
        return self._growing.ids

    def add(self, growth: Growth) -> None:
        self._growing.push(growth.tokens)
        self.finished = self.finished or growth.finish is not None
        self.text = self._growing.read(final=self.finished)
        scored = zip(growth.tokens, growth.scores, strict=False)  # there are scores for all tokens or for none
        self._logprobs += [logprob(self._tokenizer, id_, score) for id_, score in scored if id_ not in self._hidden]

    def piece(self, *, delta: bool) -> Piece:
        """All of the text, or what of it has not been shown; it counts as shown from now on."""
        text, logprobs = (self._shown, self._shown_logprobs) if delta else (0, 0)
        self._shown, self._shown_logprobs = len(self.text), len(self._logprobs)
        return Piece(self.text[text:], self._logprobs[logprobs:] or None, self.text)


def logprob(tokenizer: PromptTokenizer, id_: int, score: TokenScore) -> NPLogprob:
    """A token's score in wire form."""
    strings = tokenizer.str_tokens([id_, *(candidate for candidate, _ in score.top)])
    return NPLogprob(
        token=strings[0],
        logprob=score.logprob,
        top_logprobs=[
            NPLogprobTop(token=string, logprob=value) for string, (_, value) in zip(strings[1:], score.top, strict=True)
        ],
    )


def room(model: ServedModel, n_prompt: int, wanted: int) -> int:
    """How many tokens may be written after a prompt of `n_prompt`: `wanted`, or what the budget leaves.

    Raises:
        InvalidRequest: The budget leaves none.
    """
    budget = model.description.limits.generation_limit
    if n_prompt >= budget:
        raise InvalidRequest(
            f"No room to generate: the prompt is {n_prompt} tokens and the per-request budget (prompt + completion) "
            f"is {budget}.",
            "Send a shorter prompt.",
        )
    return min(wanted, budget - n_prompt)


def check_penalty(penalty: float, name: str = "freqPenalty") -> None:
    """Refuses a penalty that would drown every logit.

    Raises:
        InvalidRequest: It is out of range.
    """
    if abs(penalty) > MAX_PENALTY:
        raise InvalidRequest(f"{name} must be from {-MAX_PENALTY:g} to {MAX_PENALTY:g}, got {penalty:g}")
