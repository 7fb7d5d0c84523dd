"""OpenAI-compatible routes for every model that is served: OpenAI's clients work, and steer with `extra_body`."""

from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from typing import Any

from fastapi import FastAPI, Request, Response

from core.clock import SYSTEM_CLOCK
from core.deadline import Deadline
from core.errors import RayscopeError
from core.exchange.openai import Asked, Part, ask_chat, ask_completion
from core.exchange.openai_forms import Head
from core.exchange.served import ServedModel
from core.wire.base import WireModel, render
from core.wire.openai import ChatCompletionsRequest, CompletionsRequest
from core.wire.openai_replies import (
    ChatCompletionsResponse,
    CompletionsResponse,
    OpenAIErrorBody,
    openai_error,
)
from deployments.client import ModelClient
from deployments.gateway.desk import Desk
from deployments.gateway.events import event_stream
from deployments.gateway.routes import ERRORS, add_post

_TAG = "OpenAI-compatible"
_DONE = b"[DONE]"
_RESPONSES: dict[int | str, dict[str, Any]] = {
    **{status: {**shown, "model": OpenAIErrorBody} for status, shown in ERRORS.items()},
    200: {
        "description": "The answer; with `stream`, server-sent events that each hold a chunk of it, then `[DONE]`.",
        "content": {"text/event-stream": {"schema": {"type": "string"}}},
    },
}


def add_openai_routes(app: FastAPI, desk: Desk) -> None:
    """Adds the routes."""

    async def completions(request: Request, body: CompletionsRequest) -> Response:
        return await _answer(desk, request, body, ask_completion, "cmpl")

    async def chat(request: Request, body: ChatCompletionsRequest) -> Response:
        return await _answer(desk, request, body, ask_chat, "chatcmpl")

    add_post(app, "/v1/completions", _TAG, CompletionsRequest, CompletionsResponse, completions, responses=_RESPONSES)
    add_post(
        app,
        "/v1/chat/completions",
        _TAG,
        ChatCompletionsRequest,
        ChatCompletionsResponse,
        chat,
        responses=_RESPONSES,
    )


async def _answer(
    desk: Desk, request: Request, body: Any, ask: Callable[[Any, ServedModel, Head], Asked], kind: str
) -> Response:
    client = await desk.model(body.model)
    model = client.description.names.id
    head = Head(f"{kind}-{request.state.request_id}", int(SYSTEM_CLOCK.time()), model)
    asked = ask(body, client.served, head)
    deadline = desk.deadline(request)
    if body.stream:
        return await event_stream(_streamed(client, asked, deadline), _last_words)
    return desk.respond(request, body, await _whole(client, asked, deadline))


async def _whole(client: ModelClient, asked: Asked, deadline: Deadline) -> WireModel:
    """The answer at once. Stop strings are letters, which no engine sees: it is streamed to end it there."""
    parts: list[Part] = []
    if asked.stops:
        async with aclosing(client.stream(asked.continuations, deadline)) as growing:
            async for growths in growing:
                parts += asked.take(growths)
                if asked.done:
                    break
    else:
        parts = asked.take(await client.generate(asked.continuations, deadline))
    return asked.form.whole(asked.whole(parts), asked.usage)


async def _streamed(client: ModelClient, asked: Asked, deadline: Deadline) -> AsyncGenerator[bytes]:
    """The payloads of a stream."""
    opened: set[int] = set()
    async with aclosing(client.stream(asked.continuations, deadline)) as growing:
        async for growths in growing:
            for index, piece in asked.take(growths):
                if index not in opened:
                    opened.add(index)
                    for chunk in asked.form.opening(index, asked.echoed[index]):
                        yield render(chunk, "snake")
                yield render(asked.form.chunk(index, piece), "snake")
            if asked.done:
                break
    if asked.includes_usage:
        yield render(asked.form.counted(asked.usage), "snake")
    yield _DONE


def _last_words(error: RayscopeError) -> bytes:
    return render(openai_error(error), "snake")
