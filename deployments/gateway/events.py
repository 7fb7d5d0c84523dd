r"""Server-sent events: a response that arrives in parts, for every route that streams.

    parts        data: <part>\n\n                 one event per part, in order
    silence      : ping\n\n                       a comment, so that nobody in between thinks the connection dead
    failure      event: error\ndata: <body>\n\n  the last event; never a silent cut

Nothing is sent before the first part exists, so what fails until then is an ordinary error response with its status;
unless the stream is to begin at once, as one does that may have nothing to say for hours. A part may have a name and a
number, by which a client that comes back says where it was (`Last-Event-ID`). When the client leaves, the generator
behind the parts is closed at once, which stops the work behind it.

What a part says is the route's business, such as OpenAI's closing `[DONE]`.
"""

import asyncio
import logging
from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass
from typing import Final, TypeAlias

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from core.errors import RayscopeError

HEARTBEAT_S: Final = 10.0
_PING: Final = b": ping\n\n"
# A proxy that buffers would turn the stream back into one late answer.
_HEADERS: Final = {"cache-control": "no-cache", "x-accel-buffering": "no"}
_LOG = logging.getLogger("ray.serve")


@dataclass(frozen=True, slots=True)
class Part:
    """An event that has a name and a number."""

    payload: bytes
    name: str
    number: int


Parts: TypeAlias = AsyncGenerator[bytes | Part] | AsyncGenerator[bytes]
_Coming: TypeAlias = asyncio.Task[bytes | Part | None]


async def event_stream(
    parts: Parts,
    on_error: Callable[[RayscopeError], bytes],
    heartbeat_s: float = HEARTBEAT_S,
    *,
    at_once: bool = False,
) -> Response:
    """Waits for the first part and returns the response that sends it and all others.

    Args:
        parts: The payload of each event, without line breaks. Closed when the stream ends, however it ends.
        on_error: The payload of the closing `error` event, for a failure after the first part.
        heartbeat_s: Seconds of silence after which a comment is sent.
        at_once: Whether to begin the response before there is a part.

    Raises:
        RayscopeError: What went wrong before there was a first part.
    """
    if at_once:
        return _EventStream(None, parts, on_error, heartbeat_s)
    try:
        first = await anext(parts, None)
    except BaseException:
        await parts.aclose()
        raise
    return _EventStream([] if first is None else [first], parts, on_error, heartbeat_s)


def event(part: bytes | Part, name: str | None = None) -> bytes:
    """One event on the wire."""
    if isinstance(part, Part):
        return b"id: %d\n%b" % (part.number, event(part.payload, part.name))
    head = b"" if name is None else b"event: %b\n" % name.encode()
    return b"%bdata: %b\n\n" % (head, part)


class _EventStream(Response):
    """Sends the events; owns the generator and the task that waits for its next part."""

    media_type = "text/event-stream"

    def __init__(
        self,
        first: list[bytes | Part] | None,
        parts: Parts,
        on_error: Callable[[RayscopeError], bytes],
        heartbeat_s: float,
    ) -> None:
        super().__init__(headers=_HEADERS)
        del self.headers["content-length"]
        self._first = first
        self._parts = parts
        self._on_error = on_error
        self._heartbeat_s = heartbeat_s

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Sends everything, or stops when the client leaves."""
        leaving = asyncio.create_task(_leaving(receive))
        try:
            await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
            for part in self._first or ():
                await _send(send, event(part))
            if self._first is None or self._first:
                await self._send_rest(send, leaving)
            if not leaving.done():
                await send({"type": "http.response.body", "body": b"", "more_body": False})
        finally:
            await _cancelled(leaving)
            await self._parts.aclose()

    async def _send_rest(self, send: Send, leaving: asyncio.Task[None]) -> None:
        while True:
            coming = asyncio.create_task(_next(self._parts))
            try:
                await self._ping_until(coming, leaving, send)
            finally:
                await _cancelled(coming)
            if leaving.done():
                return
            failure = _failure(coming)
            if failure is not None:
                await _send(send, event(self._on_error(failure), "error"))
                return
            part = coming.result()
            if part is None:
                return
            await _send(send, event(part))

    async def _ping_until(self, coming: _Coming, leaving: asyncio.Task[None], send: Send) -> None:
        """Returns when the next part has come or the client has left."""
        while True:
            done, _ = await asyncio.wait(
                {coming, leaving}, timeout=self._heartbeat_s, return_when=asyncio.FIRST_COMPLETED
            )
            if done:
                return
            await _send(send, _PING)


async def _next(parts: Parts) -> bytes | Part | None:
    """The next part, or None after the last."""
    return await anext(parts, None)


def _failure(coming: _Coming) -> RayscopeError | None:
    """What a client may know of why a part did not come."""
    failure = asyncio.CancelledError() if coming.cancelled() else coming.exception()
    if failure is None or isinstance(failure, RayscopeError):
        return failure
    _LOG.error("a stream failed after it had begun", exc_info=failure)
    return RayscopeError("An error occurred while processing the request", "Report the requestId.")


async def _leaving(receive: Receive) -> None:
    """Returns when the client has left."""
    while (await receive())["type"] != "http.disconnect":
        pass


async def _send(send: Send, body: bytes) -> None:
    await send({"type": "http.response.body", "body": body, "more_body": True})


async def _cancelled(task: asyncio.Task[None] | _Coming) -> None:
    """Stops a task and waits until it has stopped."""
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
