"""Jobs of automatic interpretability: begun, followed, changed, read."""

from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing
from typing import Annotated, Any, Final, Literal

from fastapi import Body, FastAPI, Header, Query, Request, Response
from fastapi.responses import StreamingResponse
from pydantic import SecretStr

from core.autointerp.jobs.control import JobReport
from core.autointerp.providers.keys import ProviderKey
from core.errors import InvalidRequest, RayscopeError
from core.exchange.autointerp import provider_key
from core.exchange.autointerp_jobs import (
    asked_for,
    estimate_reply,
    event_data,
    job_change,
    job_list,
    job_reply,
    job_spec,
    result_line,
)
from core.wire.autointerp_jobs import (
    EstimateResponse,
    JobChangeRequest,
    JobDeletedResponse,
    JobListResponse,
    JobRequest,
    JobResponse,
    JobResultLine,
    JobResumeRequest,
)
from deployments.autointerp.job_client import JobsClient
from deployments.gateway.autointerp_routes import REFUSALS, TAG, ProviderKeyHeader
from deployments.gateway.desk import Desk
from deployments.gateway.errors import error_body, route_path
from deployments.gateway.events import Part, event_stream
from deployments.gateway.routes import ERRORS, add_post, add_route

_JOBS: Final = "/v1/autointerp/jobs"
_ONE: Final = f"{_JOBS}/{{job_id}}"
_Limit = Annotated[int, Query(ge=1, le=1000, description="Jobs at most.")]
_Before = Annotated[str | None, Query(description="The job before which to look; see `next`.")]
_Cursor = Annotated[int, Query(ge=0, description="The `cursor` of the last result that was read; 0: from the first.")]
_Lines = Annotated[int | None, Query(ge=1, description="Results at most; null: all that there are by now.")]
_Format = Annotated[Literal["ndjson", "parquet"], Query(description="Lines of JSON, or one table.")]
_IdempotencyKey = Annotated[
    str | None, Header(max_length=200, description="The same request with the same key begins no second job.")
]
_LastEventId = Annotated[str | None, Header(description="Number of the last event that was seen.")]
_CONFLICT: Final = {409: {"description": "It stands otherwise, or the key was used for another request."}}


def add_autointerp_job_routes(app: FastAPI, desk: Desk) -> None:
    """Adds the routes."""

    async def begin(
        request: Request,
        body: JobRequest,
        header_key: ProviderKeyHeader = None,
        idempotency_key: _IdempotencyKey = None,
    ) -> Response:
        spec, key = job_spec(body, await _key(desk, body, header_key))
        report = await (await _jobs(desk)).submit(spec, asked_for(spec, idempotency_key), key)
        response = desk.respond(request, body, job_reply(report))
        response.status_code = 202
        response.headers["location"] = f"{_JOBS}/{report.job.id}"
        return response

    async def estimate(request: Request, body: JobRequest, header_key: ProviderKeyHeader = None) -> Response:
        spec, _ = job_spec(body, await _key(desk, body, header_key))
        return desk.respond(request, body, estimate_reply(await (await _jobs(desk)).estimate(spec)))

    async def listed(request: Request, limit: _Limit = 100, before: _Before = None) -> Response:
        return desk.respond(request, None, job_list(await (await _jobs(desk)).reports(limit, before), limit))

    async def status(request: Request, job_id: str) -> Response:
        return desk.respond(request, None, job_reply(await (await _jobs(desk)).report(job_id)))

    async def change(request: Request, job_id: str, body: JobChangeRequest) -> Response:
        report = await (await _jobs(desk)).amend(job_id, job_change(body))
        return desk.respond(request, body, job_reply(report))

    async def delete(request: Request, job_id: str) -> Response:
        await (await _jobs(desk)).delete(job_id)
        return desk.respond(request, None, JobDeletedResponse(job_id=job_id, deleted=True))

    async def resume(
        request: Request,
        job_id: str,
        body: Annotated[JobResumeRequest | None, Body()] = None,
        header_key: ProviderKeyHeader = None,
    ) -> Response:
        given = header_key if body is None or body.openrouter_key is None else body.openrouter_key
        value = None if given is None else given.get_secret_value()
        report = await (await _jobs(desk)).resume(job_id, ProviderKey(value) if value else None)
        return desk.respond(request, body, job_reply(report))

    async def events(request: Request, job_id: str, last_event_id: _LastEventId = None) -> Response:
        after = _number(last_event_id)
        client = await _jobs(desk)
        await client.report(job_id)  # one that does not exist is an error and no stream
        parts = _events(client, job_id, after, snake_case=desk.case(request, None) == "snake")
        return await event_stream(parts, lambda error: _failed(request, error), at_once=True)

    async def results(
        request: Request, job_id: str, cursor: _Cursor = 0, limit: _Lines = None, format: _Format = "ndjson"
    ) -> Response:
        client = await _jobs(desk)
        if format == "parquet":
            headers = {"content-disposition": f'attachment; filename="{job_id}.parquet"'}
            return Response(await client.parquet(job_id), headers=headers, media_type="application/vnd.apache.parquet")
        await client.report(job_id)
        lines = _lines(client, job_id, cursor, limit, snake_case=desk.case(request, None) == "snake")
        return StreamingResponse(lines, media_type="application/x-ndjson")

    told = REFUSALS | _CONFLICT
    accepted: dict[int | str, dict[str, Any]] = {202: {"model": JobResponse, "description": "It was taken on."}}
    add_post(app, _JOBS, TAG, JobRequest, JobResponse, begin, responses=told | accepted)
    add_post(app, f"{_JOBS}/estimate", TAG, JobRequest, EstimateResponse, estimate, responses=REFUSALS)
    for verb, path, endpoint, response, summary in (
        ("GET", _JOBS, listed, JobListResponse, "Jobs, newest first"),
        ("GET", _ONE, status, JobResponse, "How a job goes"),
        ("PATCH", _ONE, change, JobResponse, "Change a job's budget, concurrency, priority or deadline"),
        ("DELETE", _ONE, delete, JobDeletedResponse, "Stop a job and forget all that came of it"),
        ("GET", f"{_ONE}/events", events, JobResponse, "What happens to a job, as server-sent events, until it ends"),
        ("GET", f"{_ONE}/results", results, JobResultLine, "What came of a job so far"),
        ("POST", f"{_ONE}/pause", _acting(desk, "pause"), JobResponse, "Begin no more units of a job"),
        ("POST", f"{_ONE}/cancel", _acting(desk, "cancel"), JobResponse, "Stop a job for good"),
        ("POST", f"{_ONE}/resume", resume, JobResponse, "Go on with a job, and try again what failed"),
    ):
        add_route(app, verb, path, TAG, endpoint, response, summary, ERRORS | told)


def _acting(desk: Desk, name: Literal["pause", "cancel"]) -> Callable[..., Awaitable[Response]]:
    async def act(request: Request, job_id: str) -> Response:
        client = await _jobs(desk)
        report: JobReport = await (client.pause(job_id) if name == "pause" else client.cancel(job_id))
        return desk.respond(request, None, job_reply(report))

    return act


async def _jobs(desk: Desk) -> JobsClient:
    return JobsClient((await desk.autointerp()).app_name)


async def _key(desk: Desk, body: JobRequest, header_key: SecretStr | None) -> SecretStr | None:
    """The key that a caller brings for a job, if it asks a model outside."""
    outside = (body.model is not None and body.provider != "local") or (
        body.judge is not None and body.judge.provider != "local"
    )
    if not outside:
        return None
    return provider_key(body, header_key, (await desk.autointerp()).description)


async def _events(client: JobsClient, job_id: str, after: int, *, snake_case: bool) -> AsyncGenerator[bytes | Part]:
    async with aclosing(client.follow(job_id, after)) as events:
        async for event in events:
            yield Part(event_data(event, snake_case=snake_case), event.kind, event.number)


async def _lines(
    client: JobsClient, job_id: str, cursor: int, limit: int | None, *, snake_case: bool
) -> AsyncGenerator[bytes]:
    async with aclosing(client.results(job_id, cursor, limit)) as results:
        async for result in results:
            line = result_line(result, snake_case=snake_case)
            yield line.model_dump_json(by_alias=not snake_case).encode() + b"\n"


def _number(last_event_id: str | None) -> int:
    """The event to go on after.

    Raises:
        InvalidRequest: It is no number of an event.
    """
    if not last_event_id:
        return 0
    if not last_event_id.isascii() or not last_event_id.isdigit():
        raise InvalidRequest("Last-Event-ID is no number.", "Send the `id` of the last event that was seen.")
    return int(last_event_id)


def _failed(request: Request, error: RayscopeError) -> bytes:
    return error_body(error, request.state.request_id, route_path(request.scope))
