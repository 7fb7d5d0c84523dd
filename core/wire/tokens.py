"""Bodies of `/v1/tokenize` and `/v1/apply-chat-template`: text in, tokens out, no model run.

`model` in the chat request is ours: the peer serves one model per process and needs no name.
"""

from typing import Any

from pydantic import ConfigDict, Field, StrictBool, StrictStr

from core.wire.base import RequestModel, WireModel


class TokenizeRequest(RequestModel):
    """Text to split into tokens."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"model": "rayscope-demo", "text": "Le chat dort sur le tapis."}]}
    )

    model: StrictStr = Field(description="Model whose tokenizer to use: a name or alias from /v1/models.")
    text: StrictStr = Field(description="The text.")
    prepend_bos: StrictBool | None = Field(
        default=None, description="Start with a BOS token; null does what the activation routes do, which is yes."
    )


class TokenizeResponse(WireModel):
    """Answer of /v1/tokenize."""

    tokens: list[int] = Field(description="Token ids.")
    token_strings: list[str] = Field(description="Each token as text, leading spaces kept.")
    prepend_bos: bool = Field(description="Whether a BOS token was prepended.")


class ChatMessage(RequestModel):
    """One message of a conversation."""

    role: str = Field(description="Who speaks: system, user, assistant, or what the model's template knows.")
    content: str = Field(description="What is said.")
    channel: str | None = Field(default=None, description="Channel of the message, for templates that have them.")


class ApplyChatTemplateRequest(RequestModel):
    """Messages to write out in the model's own chat format."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "messages": [{"role": "user", "content": "Le chat dort sur le tapis."}],
                    "addGenerationPrompt": True,
                    "model": "rayscope-demo",
                }
            ]
        }
    )

    messages: list[ChatMessage] = Field(description="The conversation, oldest first.")
    add_generation_prompt: bool = Field(default=True, description="End with the opening of an assistant turn.")
    chat_template_kwargs: dict[str, Any] = Field(
        default={}, description='Variables of the template, such as {"enable_thinking": false}.'
    )
    model: str | None = Field(
        default=None, description="Model whose template to use. May be left out where the cluster serves only one."
    )


class TokenSpan(WireModel):
    """One token of the written-out conversation, and whose it is."""

    position: int = Field(description="Position in the prompt.")
    token_id: int = Field(description="Id of the token.")
    token_str: str = Field(description="The token as text.")
    message_index: int | None = Field(description="Message that it belongs to; null for the template's own text.")
    role: str | None = Field(description="Whose turn it is in; null outside of turns.")
    channel: str | None = Field(description="Channel of the message.")
    section: str = Field(description="Part of the turn: header, content, footer; scaffold outside of turns.")


class ApplyChatTemplateResponse(WireModel):
    """Answer of /v1/apply-chat-template."""

    prompt: str = Field(description="The conversation as the model reads it.")
    tokens: list[int] = Field(description="Its token ids.")
    spans: list[TokenSpan] = Field(description="One entry per token.")
