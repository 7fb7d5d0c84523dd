"""The serverless surface: jobs that are asked for now and fetched later, as RunPod's clients do it."""

from collections.abc import Callable
from typing import Any

from fastapi import FastAPI, Request, Response

from core.exchange.serverless import job_response, job_stream
from core.wire.base import WireModel
from core.wire.serverless import JobResponse, JobStreamResponse, ServerlessRequest
from deployments.gateway.desk import Desk
from deployments.gateway.routes import ERRORS, add_post, operation_id

_TAG = "serverless"
_LONGEST_POLL_S = 5.0
_LONGEST_WAIT_S = 90.0  # RunPod's; the job goes on after it


def add_serverless_routes(app: FastAPI, desk: Desk) -> None:
    """Adds the routes."""

    async def run(request: Request, body: ServerlessRequest) -> Response:
        return desk.respond(request, body, job_response(await desk.jobs.submit(body.input)))

    async def run_and_wait(request: Request, body: ServerlessRequest) -> Response:
        wait_s = min(_LONGEST_WAIT_S, desk.deadline(request).remaining_s())
        return desk.respond(request, body, job_response(await desk.jobs.run(body.input, wait_s)))

    async def status(request: Request, job_id: str) -> Response:
        return desk.respond(request, None, job_response(await desk.jobs.state(job_id)))

    async def stream(request: Request, job_id: str) -> Response:
        wait_s = min(_LONGEST_POLL_S, desk.deadline(request).remaining_s())
        job, news = await desk.jobs.news(job_id, wait_s)
        return desk.respond(request, None, job_stream(job, news=news))

    async def cancel(request: Request, job_id: str) -> Response:
        return desk.respond(request, None, job_response(await desk.jobs.cancel(job_id)))

    add_post(app, "/run", _TAG, ServerlessRequest, JobResponse, run)
    add_post(app, "/runsync", _TAG, ServerlessRequest, JobResponse, run_and_wait)
    _add(app, "get", "/status", status, JobResponse, "How far a job has come, and its answer")
    _add(app, "get", "/stream", stream, JobStreamResponse, "What a job has put out since it was last asked")
    _add(app, "post", "/cancel", cancel, JobResponse, "Stop a job")


def _add(
    app: FastAPI, verb: str, path: str, endpoint: Callable[..., Any], response: type[WireModel], summary: str
) -> None:
    app.add_api_route(
        f"{path}/{{job_id}}",
        endpoint,
        methods=[verb.upper()],
        tags=[_TAG],
        operation_id=operation_id(path, verb),
        summary=summary,
        response_model=response,
        responses=ERRORS,
    )
