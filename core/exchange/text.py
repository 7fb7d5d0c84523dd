"""`tokenize` and `apply-chat-template`: the tokenizer's answers, no model run."""

import dataclasses

from core.chat import render_chat
from core.chat_template import Message
from core.exchange.served import ServedModel
from core.wire.tokens import (
    ApplyChatTemplateRequest,
    ApplyChatTemplateResponse,
    TokenizeRequest,
    TokenizeResponse,
    TokenSpan,
)


def tokenize(request: TokenizeRequest, model: ServedModel) -> TokenizeResponse:
    """Token ids and strings of a text."""
    prompt = model.tokenizer.tokenize(request.text, request.prepend_bos, model.limit)
    return TokenizeResponse(
        tokens=list(prompt.ids),
        token_strings=list(prompt.strings),
        prepend_bos=model.tokenizer.prepends(request.prepend_bos),
    )


def apply_chat_template(request: ApplyChatTemplateRequest, model: ServedModel) -> ApplyChatTemplateResponse:
    """A conversation as the model reads it, with the owner of every token."""
    chat = render_chat(
        model.tokenizer,
        [Message(message.role, message.content, message.channel) for message in request.messages],
        request.add_generation_prompt,
        request.chat_template_kwargs,
        model.description.limits.token_limit,
    )
    spans = [TokenSpan(**dataclasses.asdict(span)) for span in chat.spans]
    return ApplyChatTemplateResponse(prompt=chat.prompt, tokens=list(chat.tokens), spans=spans)
