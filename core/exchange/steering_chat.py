"""`/v1/steer/completion-chat`: the next turn of a conversation."""

from collections.abc import Sequence

from core.chat import message_partition, write_chat
from core.chat_template import Message
from core.errors import InvalidRequest
from core.exchange.served import ServedModel
from core.exchange.steering import continuations_of
from core.exchange.writing import Composer, Piece, Writing
from core.generation.requests import Continuation
from core.generation.turns import TurnFormat, without_reasoning
from core.persona.asset import PersonaAsset
from core.persona.monitor import Spans, rendered
from core.prompts import PromptTokenizer
from core.wire.steering_chat import (
    NPSteerChatMessage,
    NPSteerChatResult,
    SteerAssistantAxis,
    SteerCompletionChatRequest,
    SteerCompletionChatResponse,
)


def completion_chat(request: SteerCompletionChatRequest, model: ServedModel) -> Writing[SteerCompletionChatResponse]:
    """One conversation, continued once per listed type."""
    request.directions()
    check_template(model.tokenizer)
    messages = without_reasoning(Message(message.role, message.content) for message in request.prompt)
    persona = model.description.persona if request.is_assistant_axis else None
    if persona is not None:
        messages = rendered(messages, persona)
    prompt = write_chat(model.tokenizer, messages, limit=model.limit)
    turns = TurnFormat.of(model.tokenizer)
    continuations = continuations_of(
        request, model, prompt, turns.stop_ids, special_tokens=request.steer_special_tokens
    )
    composer = ChatComposer(request, model, messages, continuations, turns, persona)
    return Writing(continuations, composer, tuple(request.vector_reads or ()))


def check_template(tokenizer: PromptTokenizer) -> None:
    """Refuses chat messages for a model that has no way to write them.

    Raises:
        InvalidRequest: It has no chat template.
    """
    if not tokenizer.hf.chat_template:
        raise InvalidRequest(
            "This model has no chat template, so it cannot accept chat messages. Use /v1/steer/completion with a raw "
            "`prompt` instead."
        )


class ChatComposer(Composer[SteerCompletionChatResponse]):
    """The conversation with the assistant's turn, as messages and raw.

    Delta events leave the messages to the last one: what reads as a turn can change while it grows.

    Attributes:
        messages: The conversation as it was rendered for the model.
        persona: The directions to measure the assistant's turns along; None where nobody asked, or the model has none.
        assistant_axis: What `assistantAxis` shows. Whoever monitors personas sets it before `last` or `whole`; while it
            is None the response has no such key.
    """

    def __init__(
        self,
        request: SteerCompletionChatRequest,
        model: ServedModel,
        messages: Sequence[Message],
        continuations: Sequence[Continuation],
        turns: TurnFormat,
        persona: PersonaAsset | None,
    ) -> None:
        super().__init__(model.tokenizer, continuations, request.types, delta=request.stream_mode == "delta")
        self._tokenizer = model.tokenizer
        self.messages = messages
        self.assistant_axis: list[SteerAssistantAxis] | None = None
        self.persona = persona
        self._sent = request.prompt
        self._prompt = model.tokenizer.decode(continuations[0].prompt)
        self._turns = turns

    def compose(self, pieces: list[Piece], *, first: bool, last: bool) -> SteerCompletionChatResponse:
        """Shows the prompt in the first response only and messages in the last only; a whole answer is both."""
        prompt = self._prompt if first else ""
        return SteerCompletionChatResponse(
            outputs=[
                NPSteerChatResult(
                    chat_template=self._conversation(piece.whole) if last else [],
                    raw=prompt + piece.text,
                    type=kind,
                    logprobs=piece.logprobs,
                )
                for kind, piece in zip(self.types, pieces, strict=True)
            ],
            input=NPSteerChatResult(chat_template=self._sent if first else [], raw=prompt),
            assistant_axis=self.assistant_axis if last else None,
            vector_reads=self.vector_reads if last else None,
        )

    def messages_in(self, prompt: tuple[int, ...]) -> Spans:
        """Each message, if the prompt begins as the closed conversation does; its end opens the written turn."""
        partition = message_partition(self._tokenizer, self.messages)
        n_closed = len(partition.tokens)
        return partition.bounds if prompt[:n_closed] == partition.tokens else super().messages_in(prompt)

    def _conversation(self, generated: str) -> list[NPSteerChatMessage]:
        turns = self._turns.compose(self._prompt, generated)
        return [*self._sent, *(NPSteerChatMessage(role=turn.role, content=turn.content) for turn in turns)]
