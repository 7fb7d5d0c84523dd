"""What the model reads for a request of the graph routes, and `/parse-chat-prompt`, which reads it back."""

from core.chat_template import Message
from core.exchange.served import ServedModel
from core.graph.chat import TurnDelimiters, render_prompt
from core.graph.prompt import bos_positions, prompt_tokens, without_bos
from core.wire.graph import (
    GraphChatMessage,
    GraphPromptRequest,
    ParseChatPromptRequest,
    ParseChatPromptResponse,
)


def prompt_text(request: GraphPromptRequest, model: ServedModel) -> str:
    """The text that a request is about: its messages as the template writes them, or its prompt.

    Raises:
        InvalidRequest: The model has no template, or it refuses the messages.
    """
    if not request.messages:
        return request.prompt
    return render_prompt(model.tokenizer, [Message(message.role, message.content) for message in request.messages])


def parse_chat_prompt(request: ParseChatPromptRequest, model: ServedModel) -> ParseChatPromptResponse:
    """The conversation in a prompt, and the positions where nothing is steered.

    Raises:
        InvalidRequest: The prompt is too long, not Unicode, or nothing at all.
    """
    prompt = without_bos(model.tokenizer, request.prompt)
    ids = prompt_tokens(model.tokenizer, prompt, limit=model.limit).ids
    messages = TurnDelimiters.learn(model.tokenizer).parse(prompt)
    return ParseChatPromptResponse(
        messages=None if messages is None else [GraphChatMessage(role=m.role, content=m.content) for m in messages],
        is_chat=messages is not None,
        prompt=prompt,
        unsteerable_positions=list(bos_positions(model.tokenizer, ids)),
    )
