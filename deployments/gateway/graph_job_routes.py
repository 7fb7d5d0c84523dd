"""Graphs that are made in the background: begun, followed, pruned anew, stopped."""

from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any

from fastapi import FastAPI, Request, Response

from core.clock import SYSTEM_CLOCK
from core.errors import RayscopeError, UploadFailed
from core.exchange.graph import delivery_of, generate_graph, labels_of, pruning_options
from core.exchange.graph_jobs import app_and_job, graph_job, job_id_of, not_uploaded
from core.wire.base import render
from core.wire.graph import GraphGenerationRequest, GraphGenerationResponse
from core.wire.graph_jobs import GraphJobResponse, GraphPruneRequest
from deployments.gateway.desk import Desk
from deployments.gateway.errors import error_body, route_path
from deployments.gateway.events import event_stream
from deployments.gateway.graph_routes import REFUSALS, TAG, given
from deployments.gateway.routes import ERRORS, add_post, add_route
from deployments.graph.client import GraphClient


def add_graph_job_routes(app: FastAPI, desk: Desk) -> None:
    """Adds the routes."""

    async def begin(request: Request, body: GraphGenerationRequest) -> Response:
        client = await desk.graphs(body.model_id, body.transcoder_set)
        state = await client.submit(generate_graph(body, client.served, SYSTEM_CLOCK.time()))
        job_id = job_id_of(client.app_name, state)
        response = desk.respond(request, body, graph_job(job_id, state))
        response.status_code = 202
        response.headers["location"] = f"/graphs/{job_id}"
        return response

    async def status(request: Request, job_id: str) -> Response:
        client, job = await _job(desk, job_id)
        state = await client.state(job)
        published = None if state.output is None else await client.result(job, desk.deadline(request))
        return desk.respond(request, None, graph_job(job_id, state, published))

    async def events(request: Request, job_id: str) -> Response:
        client, job = await _job(desk, job_id)
        return await event_stream(_events(client, job_id, job), lambda error: _failed(request, error))

    async def delete(request: Request, job_id: str) -> Response:
        client, job = await _job(desk, job_id)
        return desk.respond(request, None, graph_job(job_id, await client.delete(job)))

    async def prune(request: Request, job_id: str, body: GraphPruneRequest) -> Response:
        client, job = await _job(desk, job_id)
        labels = None if body.labels is None else labels_of(body.labels, client.served.description)
        try:
            published = await client.prune(
                job, pruning_options(body), labels, delivery_of(body), desk.deadline(request)
            )
        except UploadFailed as error:
            return desk.respond(request, body, not_uploaded(error))
        return given(published)

    accepted: dict[int | str, dict[str, Any]] = {202: {"model": GraphJobResponse, "description": "It was begun."}}
    add_post(app, "/graphs", TAG, GraphGenerationRequest, GraphJobResponse, begin, responses=REFUSALS | accepted)
    one = "/graphs/{job_id}"
    for verb, path, endpoint, response, summary in (
        ("GET", one, status, GraphJobResponse, "How far a background graph is, and what there is of it"),
        ("DELETE", one, delete, GraphJobResponse, "Stop a background graph and forget it"),
        ("GET", f"{one}/events", events, GraphJobResponse, "The same as server-sent events, until it has ended"),
        ("POST", f"{one}/prune", prune, GraphGenerationResponse, "A finished graph at other thresholds"),
    ):
        add_route(app, verb, path, TAG, endpoint, response, summary, ERRORS | REFUSALS)


async def _job(desk: Desk, job_id: str) -> tuple[GraphClient, str]:
    app_name, job = app_and_job(job_id)
    return await desk.directory.graphs_app(app_name), job


async def _events(client: GraphClient, job_id: str, job: str) -> AsyncGenerator[bytes]:
    async with aclosing(client.changes(job)) as states:
        async for state in states:
            yield render(graph_job(job_id, state), "snake")


def _failed(request: Request, error: RayscopeError) -> bytes:
    return error_body(error, request.state.request_id, route_path(request.scope))
