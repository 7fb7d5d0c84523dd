"""The older route `/completion`, as an adapter over steering. Its document shows the assistant's role as `model`."""

from collections.abc import Sequence
from typing import Final

from core.chat import write_chat
from core.chat_template import Message
from core.exchange.served import ServedModel
from core.exchange.steering import continuations_of
from core.exchange.steering_chat import check_template
from core.exchange.writing import Composer, Piece, Writing
from core.generation.requests import Continuation
from core.generation.turns import TurnFormat, eos_ids
from core.wire.seed_completion import CompletionRequest, CompletionResponse, SeedCompletion, SeedMessage
from core.wire.steering import NPSteerType

_ROLE: Final = "model"


def seed_completion(request: CompletionRequest, model: ServedModel) -> Writing[CompletionResponse]:
    """One text, continued once per type; every position is steered."""
    turns = None
    if request.instruct:
        check_template(model.tokenizer)
        turns = TurnFormat.of(model.tokenizer)
        prompt = write_chat(model.tokenizer, [Message("user", request.prompt)], limit=model.limit)
    else:
        prompt = model.tokenizer.bos_prompt(request.prompt, model.limit).ids
    options = request.as_options()
    stop_ids = eos_ids(model.tokenizer) if turns is None else turns.stop_ids
    continuations = continuations_of(options, model, prompt, stop_ids, special_tokens=True)
    return Writing(continuations, _SeedComposer(request, options.types, model, continuations, turns))


class _SeedComposer(Composer[CompletionResponse]):
    """Keyed by type. A plain text ends before the token that ends it; a conversation shows how the turn ended."""

    def __init__(
        self,
        request: CompletionRequest,
        types: Sequence[NPSteerType],
        model: ServedModel,
        continuations: Sequence[Continuation],
        turns: TurnFormat | None,
    ) -> None:
        hidden = eos_ids(model.tokenizer) if turns is None else ()
        super().__init__(model.tokenizer, continuations, types, hidden_ids=hidden)
        self._asked = request.prompt
        self._prompt = model.tokenizer.decode(continuations[0].prompt)
        self._turns = turns

    def compose(self, pieces: list[Piece], *, first: bool, last: bool) -> CompletionResponse:
        written = {kind: self._written(piece.whole) for kind, piece in zip(self.types, pieces, strict=True)}
        return CompletionResponse(default=written.get(NPSteerType.DEFAULT), steered=written.get(NPSteerType.STEERED))

    def _written(self, generated: str) -> SeedCompletion:
        if self._turns is None:
            return SeedCompletion(raw=self._prompt + generated)
        turns = self._turns.compose(self._prompt, generated)
        messages = [SeedMessage(content=self._asked, role="user")]
        messages += [SeedMessage(content=turn.content, role=_ROLE) for turn in turns]
        return SeedCompletion(chat_template=messages, raw=self._prompt + generated)
