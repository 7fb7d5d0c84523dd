"""What every request passes before a route sees it: its name, its size and its secret are settled in one ASGI layer.

    request id --> body size (413) --> secret (401) --> route

Serve names every request and repeats the name in the response header; here it is put where the routes find it.

The secret is compared in constant time and before the body is read. `/health`, `/ready`, `/check-busy` and the API
documents are open; the seed's older routes carry their secret in the body and check it themselves. `Authorization:
Bearer` is understood where a client can send no header of ours.
"""

import hmac
import uuid
from collections.abc import Callable
from typing import Any

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from core.errors import Forbidden, InvalidRequest, RayscopeError, TooLarge, Unauthorized
from deployments.gateway.errors import error_response, is_autointerp_path, is_graph_path, route_path

SECRET_HEADER = "x-secret-key"
REQUEST_ID_HEADER = "x-request-id"
SEED_PATHS = frozenset({"/activations-test", "/activations-all", "/top-k-by-decoder-cosine-similarity", "/completion"})
_OPEN_PATHS = (
    frozenset({"/health", "/ready", "/check-busy", "/docs", "/redoc", "/openapi.json", "/docs/oauth2-redirect"})
    | SEED_PATHS
)
_LONGEST_ID = 128


def check_secret(expected: str | None, given: str | None) -> None:
    """Does nothing if the secret is right, or if none is configured.

    Raises:
        Unauthorized: It is missing or wrong.
    """
    if expected is not None and not hmac.compare_digest(expected.encode(), (given or "").encode("utf-8", "replace")):
        raise Unauthorized("Invalid or missing X-SECRET-KEY header", "Send the cluster's secret in that header.")


def _check_graph_secret(expected: str | None, given: str | None) -> None:
    """The same on the graph routes, whose clients know two refusals.

    Raises:
        InvalidRequest: The header is missing.
        Forbidden: The secret is wrong.
    """
    if expected is not None and not given:
        raise InvalidRequest("x-secret-key header missing", "Send the cluster's secret in that header.")
    try:
        check_secret(expected, given)
    except Unauthorized:
        raise Forbidden("Invalid x-secret-key", "Send the cluster's secret in that header.") from None


def _check_autointerp_secret(expected: str | None, given: str | None) -> None:
    """The same on the automatic interpretability routes, in the words that their clients know.

    Raises:
        Unauthorized: It is missing or wrong.
    """
    try:
        check_secret(expected, given)
    except Unauthorized as error:
        said = "Invalid secret in X-SECRET-KEY header. Check that it matches the SECRET set in the server .env file."
        raise Unauthorized(said, error.hint) from None


def _check_of(path: str) -> Callable[[str | None, str | None], None]:
    if is_graph_path(path):
        return _check_graph_secret
    return _check_autointerp_secret if is_autointerp_path(path) else check_secret


def _given_secret(headers: Headers) -> str | None:
    """The secret that a request carries: in our header, or as the bearer token of OpenAI's and RunPod's clients."""
    scheme, _, token = headers.get("authorization", "").partition(" ")
    return headers.get(SECRET_HEADER) or (token if scheme.lower() == "bearer" else None)


class Door:
    """ASGI middleware. Outermost but for CORS and compression, so that its own answers carry those headers too."""

    def __init__(self, app: ASGIApp, *, secret: str | None, max_body_bytes: int) -> None:
        self._app = app
        self._secret = secret
        self._max_body_bytes = max_body_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Lets a request in, or answers for it."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        request_id = headers.get(REQUEST_ID_HEADER, "")[:_LONGEST_ID] or str(uuid.uuid4())
        scope.setdefault("state", {})["request_id"] = request_id
        path = route_path(scope)
        if scope["method"] == "POST":
            # Every body here is JSON, also when the client does not say so (`curl -d`).
            MutableHeaders(scope=scope)["content-type"] = "application/json"

        try:
            self._check_size(int(headers.get("content-length") or 0))
            if path not in _OPEN_PATHS and scope["method"] != "OPTIONS":
                _check_of(path)(self._secret, _given_secret(headers))
            received: list[Message] = await self._read(receive)
        except RayscopeError as error:
            await error_response(error, request_id, path)(scope, receive, send)
            return

        async def replay() -> Any:
            return received.pop(0) if received else await receive()

        await self._app(scope, replay, send)

    async def _read(self, receive: Receive) -> list[Message]:
        """The whole body: a chunked one states no length, so it is counted while it arrives."""
        messages: list[Message] = []
        size = 0
        while True:
            message = await receive()
            messages.append(message)
            size += len(message.get("body", b""))
            self._check_size(size)
            if not message.get("more_body", False):
                return messages

    def _check_size(self, size: int) -> None:
        if size > self._max_body_bytes:
            raise TooLarge(f"The request body is larger than {self._max_body_bytes} bytes.", "Send less at once.")
