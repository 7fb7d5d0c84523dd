"""Routes about the cluster itself: alive, ready, what is served, and the peer's capability advert."""

import dataclasses
import logging
from collections import Counter
from typing import Literal

from fastapi import FastAPI, Request, Response

from core.catalogue.description import ModelDescription
from core.exchange.overview import capabilities, models_listing
from core.leases import NOTHING_RESIDENT
from core.wire.cluster import (
    CapabilitiesResponse,
    HealthResponse,
    JobsInfo,
    ModelsResponse,
    ReadyResponse,
    WorkersInfo,
)
from deployments.client import ModelClient
from deployments.gateway.desk import Desk
from deployments.gateway.routes import add_route

_TAG = "cluster"
_STARTING = frozenset({"NOT_STARTED", "DEPLOYING"})
_COMING = ("STARTING", "UPDATING", "RECOVERING", "PENDING_MIGRATION")
_COUNTS_TIMEOUT_S = 0.3
_LOG = logging.getLogger("ray.serve")


def add_cluster_routes(app: FastAPI, desk: Desk) -> None:
    """Adds the routes."""

    async def health(request: Request) -> Response:
        jobs = await _jobs(desk)
        workers = _workers(desk.directory.replicas(), 0 if jobs is None else jobs.in_progress)
        return desk.respond(request, None, HealthResponse(status="healthy", jobs=jobs, workers=workers))

    async def ready(request: Request) -> Response:
        applications = await desk.directory.statuses()
        state = _state(set(applications.values()))
        response = desk.respond(request, None, ReadyResponse(status=state, applications=applications))
        response.status_code = 200 if state == "ready" else 503
        return response

    async def models(request: Request) -> Response:
        await desk.directory.refresh()
        served = [client.served for client in desk.directory.clients()]
        graphs = [client.served for client in desk.directory.graph_clients()]
        return desk.respond(request, None, models_listing(served, graphs))

    async def advert(request: Request, model: str | None = None) -> Response:
        client = await desk.model(model)
        return desk.respond(request, None, await _capabilities(client, request, desk))

    add_route(app, "GET", "/health", _TAG, health, HealthResponse, "Whether the front door is up")
    summary = "Whether every application can take requests"
    add_route(app, "GET", "/ready", _TAG, ready, ReadyResponse, summary, {503: {"model": ReadyResponse}})
    add_route(app, "GET", "/v1/models", _TAG, models, ModelsResponse, "What is served")
    add_route(app, "GET", "/v1/capabilities", _TAG, advert, CapabilitiesResponse, "What one model can do")


async def _jobs(desk: Desk) -> JobsInfo | None:
    """Serverless jobs; the door is up whether or not their board answers."""
    try:
        counts = await desk.jobs.counts(_COUNTS_TIMEOUT_S)
    except Exception:
        _LOG.warning("the job board does not answer")
        return None
    return JobsInfo(**dataclasses.asdict(counts))


def _workers(replicas: Counter[str], n_jobs: int) -> WorkersInfo:
    ready = replicas["RUNNING"]
    running = min(ready, n_jobs)
    starting = sum(replicas[state] for state in _COMING)
    return WorkersInfo(idle=ready - running, initializing=starting, ready=ready, running=running)


def _state(statuses: set[str]) -> Literal["ready", "starting", "unhealthy"]:
    if statuses <= {"RUNNING"}:
        return "ready"
    return "starting" if statuses <= {"RUNNING"} | _STARTING else "unhealthy"


async def _capabilities(client: ModelClient, request: Request, desk: Desk) -> CapabilitiesResponse:
    description: ModelDescription = client.description
    if not description.runners:
        return capabilities(client.served, NOTHING_RESIDENT)
    report = await client.report(description.first_runner(), desk.deadline(request))
    return capabilities(client.served, report["residency"])
