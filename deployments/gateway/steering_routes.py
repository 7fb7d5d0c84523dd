"""Routes that make a model write under steering, whole or streamed; and the older `/completion`."""

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from typing import Any

from fastapi import FastAPI, Request, Response

from core.clock import SYSTEM_CLOCK
from core.errors import RayscopeError
from core.exchange.seed_completion import seed_completion
from core.exchange.served import ServedModel
from core.exchange.steering import completion
from core.exchange.steering_chat import completion_chat
from core.exchange.steering_health import steering_health
from core.exchange.writing import Writing
from core.wire.seed_completion import CompletionRequest, CompletionResponse
from core.wire.steering import SteerCompletionRequest, SteerCompletionResponse
from core.wire.steering_chat import SteerCompletionChatRequest, SteerCompletionChatResponse, SteerHealthResponse
from deployments.client import ModelClient
from deployments.gateway.desk import Desk
from deployments.gateway.errors import error_body, route_path
from deployments.gateway.events import event_stream
from deployments.gateway.routes import OLDER, add_post, add_route
from deployments.readings import add_readings

_TAG = "steering"
_STREAMED: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "The answer; with `stream`, server-sent events that each hold one.",
        "content": {"text/event-stream": {"schema": {"type": "string"}}},
    }
}


def add_steering_routes(app: FastAPI, desk: Desk) -> None:
    """Adds the routes."""

    async def text(request: Request, body: SteerCompletionRequest) -> Response:
        return await _answer(desk, request, body, completion)

    async def chat(request: Request, body: SteerCompletionChatRequest) -> Response:
        return await _answer(desk, request, body, completion_chat)

    async def older(request: Request, body: CompletionRequest) -> Response:
        desk.check_body_secret(body.secret)
        return await _answer(desk, request, body, seed_completion)

    async def health(request: Request, model: str | None = None) -> Response:
        client = await desk.model(model)
        return desk.respond(request, None, await _health(client, request, desk))

    add_post(
        app, "/v1/steer/completion", _TAG, SteerCompletionRequest, SteerCompletionResponse, text, responses=_STREAMED
    )
    add_post(
        app,
        "/v1/steer/completion-chat",
        _TAG,
        SteerCompletionChatRequest,
        SteerCompletionChatResponse,
        chat,
        responses=_STREAMED,
    )
    add_post(app, "/completion", OLDER, CompletionRequest, CompletionResponse, older)
    summary = "How busy a model is with writing"
    add_route(app, "GET", "/v1/steer/health", _TAG, health, SteerHealthResponse, summary)


async def _answer(
    desk: Desk, request: Request, body: Any, exchange: Callable[[Any, ServedModel], Writing[Any]]
) -> Response:
    """Writes what a body asks for."""
    client = await desk.model(body.model)
    writing = exchange(body, client.served)
    if getattr(body, "stream", False):
        return await event_stream(_events(desk, request, body, client, writing), lambda error: _failed(request, error))
    deadline = desk.deadline(request)
    writing.composer.add(await client.generate(writing.continuations, deadline))
    await add_readings(client, writing, deadline)
    return desk.respond(request, body, writing.composer.whole())


async def _events(
    desk: Desk, request: Request, body: Any, client: ModelClient, writing: Writing[Any]
) -> AsyncGenerator[bytes]:
    """Each event's body while the texts grow."""
    composer = writing.composer
    deadline = desk.deadline(request)
    async with aclosing(client.stream(writing.continuations, deadline)) as stream:
        async for growths in stream:
            composer.add(growths)
            part = composer.part()
            if part is not None:
                yield desk.render(request, body, part)
    await add_readings(client, writing, deadline)
    yield desk.render(request, body, composer.last())


def _failed(request: Request, error: RayscopeError) -> bytes:
    return error_body(error, request.state.request_id, route_path(request.scope))


async def _health(client: ModelClient, request: Request, desk: Desk) -> SteerHealthResponse:
    deadline = desk.deadline(request)
    names = client.description.deployments()
    reports = await asyncio.gather(*(client.report(name, deadline) for name in names))
    return steering_health(client.served, reports, SYSTEM_CLOCK.time())
