"""What the OpenAI-compatible routes answer: whole, in chunks, and when they refuse. Always snake_case."""

from typing import Annotated, Any, Literal, TypeAlias

from pydantic import BeforeValidator, Field

from core.errors import Overloaded, RayscopeError
from core.generation.requests import Finish
from core.wire.openai import OpenAIModel


def _absent(value: Any) -> bool:
    return value is None


def _encodable(value: Any) -> Any:
    # An error may quote the request, and JSON can carry half a surrogate pair, which UTF-8 cannot.
    return value.encode("utf-8", "replace").decode() if isinstance(value, str) else value


_Message: TypeAlias = Annotated[str, BeforeValidator(_encodable)]


class Usage(OpenAIModel):
    """How many tokens were read and written."""

    prompt_tokens: int = Field(description="Tokens of all prompts.")
    completion_tokens: int = Field(description="Tokens generated, ending tokens included.")
    total_tokens: int = Field(description="Both together.")


class CompletionLogprobs(OpenAIModel):
    """Log-probabilities of /v1/completions: lists with one entry per token."""

    tokens: list[str] = Field(
        description="Each token as text; one that ends inside a character as bytes, `bytes:\\xe2\\x82`."
    )
    token_logprobs: list[float] = Field(description="Log-probability of each token, in nats.")
    top_logprobs: list[dict[str, float]] | None = Field(description="The likeliest tokens at each position.")
    text_offset: list[int] = Field(description="Where each token begins in the choice's text.")


class CompletionChoice(OpenAIModel):
    """One text, or its newest part."""

    index: int = Field(description="Number of the choice: prompt by prompt, `n` for each.")
    text: str = Field(description="The text.")
    logprobs: CompletionLogprobs | None = Field(description="Log-probabilities, if asked for.")
    finish_reason: Finish | None = Field(description="Why it ended: stop or length; null while it goes on.")


class CompletionsResponse(OpenAIModel):
    """Answer of /v1/completions, and each chunk of a streamed one."""

    id: str = Field(description="Name of the answer.")
    object: Literal["text_completion"] = Field(default="text_completion", description="Kind of object.")
    created: int = Field(description="When, in seconds since the Unix epoch.")
    model: str = Field(description="The model that wrote it.")
    choices: list[CompletionChoice] = Field(description="The texts.")
    usage: Usage | None = Field(default=None, exclude_if=_absent, description="Token counts.")


class TopLogprob(OpenAIModel):
    """A token that could have been chosen."""

    token: str = Field(description="The token as text.")
    logprob: float = Field(description="Its log-probability, in nats.")
    bytes: list[int] = Field(description="Its bytes; tokens may end inside a character.")


class TokenLogprob(TopLogprob):
    """A token that was chosen."""

    top_logprobs: list[TopLogprob] = Field(description="The likeliest tokens at its position.")


class ChatLogprobs(OpenAIModel):
    """Log-probabilities of /v1/chat/completions."""

    content: list[TokenLogprob] = Field(description="One entry per token.")


class ChatReply(OpenAIModel):
    """The assistant's message."""

    role: Literal["assistant"] = Field(default="assistant", description="Always assistant.")
    content: str = Field(description="What it says.")
    refusal: None = Field(default=None, description="Always null.")


class ChatChoice(OpenAIModel):
    """One answer."""

    index: int = Field(description="Number of the choice.")
    message: ChatReply = Field(description="The message.")
    logprobs: ChatLogprobs | None = Field(description="Log-probabilities, if asked for.")
    finish_reason: Finish | None = Field(description="Why it ended: stop or length.")


class ChatCompletionsResponse(OpenAIModel):
    """Answer of /v1/chat/completions."""

    id: str = Field(description="Name of the answer.")
    object: Literal["chat.completion"] = Field(default="chat.completion", description="Kind of object.")
    created: int = Field(description="When, in seconds since the Unix epoch.")
    model: str = Field(description="The model that wrote it.")
    choices: list[ChatChoice] = Field(description="The answers.")
    usage: Usage = Field(description="Token counts.")


class ChatDelta(OpenAIModel):
    """What a message gained."""

    role: Literal["assistant"] | None = Field(
        default=None, exclude_if=_absent, description="In the first chunk of a choice only."
    )
    content: str | None = Field(default=None, exclude_if=_absent, description="New text.")


class ChatChunkChoice(OpenAIModel):
    """What one choice gained."""

    index: int = Field(description="Number of the choice.")
    delta: ChatDelta = Field(description="What is new.")
    logprobs: ChatLogprobs | None = Field(default=None, description="Log-probabilities of what is new.")
    finish_reason: Finish | None = Field(default=None, description="Why it ended; null while it goes on.")


class ChatCompletionsChunk(OpenAIModel):
    """One event of a streamed /v1/chat/completions."""

    id: str = Field(description="Name of the answer.")
    object: Literal["chat.completion.chunk"] = Field(default="chat.completion.chunk", description="Kind of object.")
    created: int = Field(description="When, in seconds since the Unix epoch.")
    model: str = Field(description="The model that writes it.")
    choices: list[ChatChunkChoice] = Field(description="What is new; empty in the chunk that counts the tokens.")
    usage: Usage | None = Field(default=None, exclude_if=_absent, description="Token counts, in the last chunk.")


class OpenAIError(OpenAIModel):
    """Why a request was refused or failed."""

    message: _Message = Field(description="What happened, and what to do about it.")
    type: str = Field(description="Kind of error, coarse: whose fault it is.")
    param: _Message | None = Field(description="The parameter that is wrong, where it is one.")
    code: str = Field(description="Kind of error, fine, for programs.")


class OpenAIErrorBody(OpenAIModel):
    """An error in OpenAI's shape."""

    error: OpenAIError = Field(description="The error.")


def openai_error(error: RayscopeError, param: str | None = None) -> OpenAIErrorBody:
    """An error of ours in OpenAI's shape, the hint behind the message."""
    return OpenAIErrorBody(error=OpenAIError(message=error.text, type=_type_of(error), param=param, code=error.code))


def _type_of(error: RayscopeError) -> str:
    if isinstance(error, Overloaded):
        return "rate_limit_error"
    if error.status == 401:
        return "authentication_error"
    return "invalid_request_error" if error.status < 500 else "server_error"
