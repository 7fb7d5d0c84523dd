"""The one place where errors become HTTP responses.

They have our own shape; OpenAI's where its clients call; and where the graph server's and the automatic
interpretability server's do, `detail` says what `error` says, because they look into either.
"""

import logging
import math
from collections.abc import Mapping
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException

from core.errors import InvalidRequest, Overloaded, RayscopeError
from core.wire.base import render
from core.wire.cluster import DetailedErrorBody, ErrorBody, SchemaErrorBody, schema_problems
from core.wire.openai_replies import openai_error

OPENAI_PATHS = frozenset({"/v1/completions", "/v1/chat/completions"})
_GRAPH_PATHS = frozenset({"/generate-graph", "/forward-pass", "/steer", "/parse-chat-prompt", "/check-busy", "/graphs"})
_AUTOINTERP_PREFIXES = ("/v1/explain/", "/v1/score/", "/v1/autointerp/")
_LOG = logging.getLogger("ray.serve")
_CODES = {404: "not_found", 405: "method_not_allowed"}


def route_path(scope: Mapping[str, Any]) -> str:
    """The path below the application's own prefix."""
    return scope["path"].removeprefix(scope.get("root_path", ""))


def is_graph_path(path: str) -> bool:
    """Whether a route is one of the graph server's, or of ours beside them."""
    return path in _GRAPH_PATHS or path.startswith("/graphs/")


def is_autointerp_path(path: str) -> bool:
    """Whether a route is one of the automatic interpretability server's, or of ours beside them."""
    return path.startswith(_AUTOINTERP_PREFIXES)


def error_response(error: RayscopeError, request_id: str, path: str) -> Response:
    """The response that an error deserves on a route, with `Retry-After` where waiting helps."""
    headers = {"retry-after": str(math.ceil(error.retry_after_s))} if isinstance(error, Overloaded) else {}
    return Response(error_body(error, request_id, path), error.status, headers, "application/json")


def error_body(error: RayscopeError, request_id: str, path: str) -> bytes:
    """What the clients of a route are told about an error."""
    if path in OPENAI_PATHS:
        return render(openai_error(error), "snake")
    return _told(path, error=error.message, code=error.code, hint=error.hint, request_id=request_id)


def install_error_handlers(app: FastAPI) -> None:
    """Makes `app` answer every error in the one shape."""

    async def expected(request: Request, error: Any) -> Response:
        return error_response(error, request.state.request_id, route_path(request.scope))

    async def malformed(request: Request, error: Any) -> Response:
        if route_path(request.scope) in OPENAI_PATHS:
            return _malformed_for_openai(error.errors()[0])
        body = SchemaErrorBody(
            error="The request does not fit its schema.",
            code="invalid_schema",
            hint="See `detail`, and /docs for the schema with examples.",
            request_id=request.state.request_id,
            detail=schema_problems(error.errors()),
        )
        return Response(render(body, "camel"), 422, media_type="application/json")

    async def http(request: Request, error: Any) -> Response:
        body = _told(
            route_path(request.scope),
            error=str(error.detail),
            code=_CODES.get(error.status_code, "http_error"),
            hint="See /docs for the routes.",
            request_id=request.state.request_id,
        )
        return Response(body, error.status_code, error.headers, "application/json")

    async def unexpected(request: Request, error: Exception) -> Response:
        _LOG.exception("request %s failed", request.state.request_id, exc_info=error)
        shown = RayscopeError("An error occurred while processing the request", "Report the requestId.")
        return error_response(shown, request.state.request_id, route_path(request.scope))

    app.add_exception_handler(RayscopeError, expected)
    app.add_exception_handler(RequestValidationError, malformed)
    app.add_exception_handler(HTTPException, http)
    app.add_exception_handler(Exception, unexpected)


def _told(path: str, **body: str | None) -> bytes:
    """The fields of an `ErrorBody` as a route's clients look for them."""
    shape = DetailedErrorBody if is_graph_path(path) or is_autointerp_path(path) else ErrorBody
    return render(shape.model_validate(body), "camel")


def _malformed_for_openai(problem: Mapping[str, Any]) -> Response:
    """OpenAI answers 400 to a body that does not fit, and names one parameter."""
    place = next((part for part in problem["loc"] if isinstance(part, str) and part != "body"), None)
    param = problem.get("ctx", {}).get("param", place)
    message = problem["msg"] if place is None else f"{place}: {problem['msg']}"
    return Response(render(openai_error(InvalidRequest(message), param), "snake"), 400, media_type="application/json")
