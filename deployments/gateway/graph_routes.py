"""The graph routes: a graph, a look ahead, features held, and a chat prompt read."""

from typing import Any

from fastapi import FastAPI, Request, Response

from core.clock import SYSTEM_CLOCK
from core.errors import UploadFailed
from core.exchange.graph import forward_pass, generate_graph
from core.exchange.graph_jobs import not_uploaded, receipt_of
from core.exchange.graph_prompt import parse_chat_prompt
from core.exchange.graph_steering import steer
from core.graph.publisher import Published
from core.wire.base import render
from core.wire.cluster import DetailedErrorBody
from core.wire.graph import (
    CheckBusyResponse,
    ForwardPassRequest,
    ForwardPassResponse,
    GraphGenerationRequest,
    GraphGenerationResponse,
    ParseChatPromptRequest,
    ParseChatPromptResponse,
    SteerRequest,
    SteerResponse,
)
from deployments.gateway.desk import Desk
from deployments.gateway.routes import add_post, add_route

TAG = "attribution graphs"
REFUSALS: dict[int | str, dict[str, Any]] = {
    400: {"model": DetailedErrorBody, "description": "The request can not succeed as it is, or has no secret."},
    403: {"model": DetailedErrorBody, "description": "The secret is wrong."},
}
"""What these routes answer otherwise than all others."""


def add_graph_routes(app: FastAPI, desk: Desk) -> None:
    """Adds the routes."""

    async def generate(request: Request, body: GraphGenerationRequest) -> Response:
        client = await desk.graphs(body.model_id, body.transcoder_set)
        question = generate_graph(body, client.served, SYSTEM_CLOCK.time())
        try:
            published = await client.generate(question, desk.deadline(request))
        except UploadFailed as error:
            return desk.respond(request, body, not_uploaded(error))
        return given(published)

    async def look_ahead(request: Request, body: ForwardPassRequest) -> Response:
        client = await desk.graphs(body.model_id, body.transcoder_set)
        asked = forward_pass(body, client.served)
        answer = await client.forward_pass(asked.question, desk.deadline(request))
        return desk.respond(request, body, asked.reply(answer))

    async def hold(request: Request, body: SteerRequest, format: str = "objects") -> Response:
        client = await desk.graphs(body.model_id, body.transcoder_set)
        asked = steer(body, client.served, tuples=format == "tuples")
        answer = await client.intervene(asked.question, desk.deadline(request))
        return desk.respond(request, body, asked.reply(answer))

    async def parse(request: Request, body: ParseChatPromptRequest) -> Response:
        client = await desk.graphs(body.model_id, None)
        return desk.respond(request, body, parse_chat_prompt(body, client.served.model))

    async def check_busy(request: Request) -> Response:
        clients = desk.directory.graph_clients()
        busy = [await client.busy() for client in clients]
        return desk.respond(request, None, CheckBusyResponse(busy=any(busy)))

    add_post(app, "/generate-graph", TAG, GraphGenerationRequest, GraphGenerationResponse, generate, responses=REFUSALS)
    add_post(app, "/forward-pass", TAG, ForwardPassRequest, ForwardPassResponse, look_ahead, responses=REFUSALS)
    add_post(app, "/steer", TAG, SteerRequest, SteerResponse, hold, responses=REFUSALS)
    add_post(app, "/parse-chat-prompt", TAG, ParseChatPromptRequest, ParseChatPromptResponse, parse, responses=REFUSALS)
    summary = "Whether a graph would be refused now"
    add_route(app, "GET", "/check-busy", TAG, check_busy, CheckBusyResponse, summary)


def given(published: Published) -> Response:
    """The graph itself, or its receipt."""
    if published.content is not None:
        return Response(published.content, media_type="application/json")
    return Response(render(receipt_of(published), "snake"), media_type="application/json")
