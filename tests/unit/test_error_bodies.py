"""What clients are told of paths that lead nowhere: in the words that each of them looks for."""

import asyncio

import httpx
import pytest
from fastapi import FastAPI
from starlette.middleware.base import BaseHTTPMiddleware, RequestResponseEndpoint
from starlette.requests import Request
from starlette.responses import Response

from deployments.gateway.errors import install_error_handlers


def answer(verb: str, path: str) -> httpx.Response:
    app = FastAPI()
    install_error_handlers(app)

    @app.post("/steer")
    async def steer() -> None:
        pass

    async def named(request: Request, call_next: RequestResponseEndpoint) -> Response:
        request.state.request_id = "r"
        return await call_next(request)

    app.add_middleware(BaseHTTPMiddleware, dispatch=named)

    async def ask() -> httpx.Response:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://front") as client:
            return await client.request(verb, path)

    return asyncio.run(ask())


@pytest.mark.parametrize(
    ("verb", "path", "status", "code"),
    [
        ("GET", "/steer", 405, "method_not_allowed"),
        ("POST", "/graphs/x/y/z", 404, "not_found"),
        ("POST", "/v1/explain/a/b", 404, "not_found"),
        ("GET", "/v1/autointerp/nothing", 404, "not_found"),
    ],
)
def test_peers_clients_find_the_reason_where_they_look(verb: str, path: str, status: int, code: str) -> None:
    response = answer(verb, path)
    body = response.json()
    assert (response.status_code, body["code"]) == (status, code)
    assert body["detail"] == body["error"]


def test_elsewhere_there_is_no_second_name() -> None:
    assert set(answer("GET", "/v1/nothing").json()) == {"error", "code", "hint", "requestId"}
