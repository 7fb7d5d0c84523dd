"""The one place where errors become HTTP responses."""

import logging
import math
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException

from core.errors import Overloaded, RayscopeError
from core.wire.base import render
from core.wire.cluster import ErrorBody, SchemaErrorBody, schema_problems

_LOG = logging.getLogger("ray.serve")
_CODES = {404: "not_found", 405: "method_not_allowed"}


def error_response(error: RayscopeError, request_id: str) -> Response:
    """The response that an error deserves, with `Retry-After` where waiting helps."""
    body = ErrorBody(error=error.message, code=error.code, hint=error.hint, request_id=request_id)
    headers = {"retry-after": str(math.ceil(error.retry_after_s))} if isinstance(error, Overloaded) else {}
    return Response(render(body, "camel"), error.status, headers, "application/json")


def install_error_handlers(app: FastAPI) -> None:
    """Makes `app` answer every error in the one shape."""

    async def expected(request: Request, error: Any) -> Response:
        return error_response(error, request.state.request_id)

    async def malformed(request: Request, error: Any) -> Response:
        body = SchemaErrorBody(
            error="The request does not fit its schema.",
            code="invalid_schema",
            hint="See `detail`, and /docs for the schema with examples.",
            request_id=request.state.request_id,
            detail=schema_problems(error.errors()),
        )
        return Response(render(body, "camel"), 422, media_type="application/json")

    async def http(request: Request, error: Any) -> Response:
        code = _CODES.get(error.status_code, "http_error")
        body = ErrorBody(
            error=str(error.detail), code=code, hint="See /docs for the routes.", request_id=request.state.request_id
        )
        return Response(render(body, "camel"), error.status_code, error.headers, "application/json")

    async def unexpected(request: Request, error: Exception) -> Response:
        _LOG.exception("request %s failed", request.state.request_id, exc_info=error)
        shown = RayscopeError("An error occurred while processing the request", "Report the requestId.")
        return error_response(shown, request.state.request_id)

    app.add_exception_handler(RayscopeError, expected)
    app.add_exception_handler(RequestValidationError, malformed)
    app.add_exception_handler(HTTPException, http)
    app.add_exception_handler(Exception, unexpected)
