"""Upload: puts a finished graph to a URL that the caller signed.

    PUT <signed url>
    Content-Type: application/json        what the caller signed; anything else is a 403
    Content-Encoding: gzip                only if compressed
    Content-Length: ...                   see `core.graph.spool`

A `PUT` of one object is idempotent, so what may pass is tried again: 5xx answers and broken connections, with waits
drawn at random below a growing bound ("full jitter": Brooker 2015, "Exponential Backoff And Jitter"). Every 2xx is
success. Redirects are not followed: the signature is for one host, and a redirect could lead anywhere.

The query of the URL is a credential. It is sent, and it is nowhere else: not in logs, errors, replies or reprs. That is
why requests are sent by the transport itself: `httpx` clients log every URL whole. What the storage says is not passed
on either; S3's error documents repeat parts of the signature.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable
from contextlib import aclosing
from dataclasses import dataclass
from typing import Final

import httpx
from tenacity import AsyncRetrying, RetryCallState, retry_if_exception, stop_after_attempt, wait_random_exponential

from core.errors import UploadFailed
from core.graph.spool import Spool, spooled
from core.outbound_urls import redacted

_LOG = logging.getLogger("ray.serve")
_SIGN_ANEW: Final = "See whether the signed URL has expired, and was signed for PUT with Content-Type application/json."
_TRY_AGAIN: Final = "Try again later, or leave the URL out to have the graph in the answer."


@dataclass(frozen=True, slots=True)
class UploadLimits:
    """How long to try.

    Attributes:
        total_s: Seconds for all attempts, after the body has been written.
        connect_s: Seconds to connect.
        idle_s: Seconds without a byte sent or received.
        attempts: Attempts in all.
        backoff_s: The first wait is below this; each bound is twice the one before.
        longest_wait_s: No wait is longer.
    """

    total_s: float = 120.0
    connect_s: float = 10.0
    idle_s: float = 30.0
    attempts: int = 5
    backoff_s: float = 0.5
    longest_wait_s: float = 8.0


@dataclass(frozen=True, slots=True)
class Uploaded:
    """What is stored.

    Attributes:
        url: Where, redacted.
        n_bytes: As it was sent, so compressed if it was.
    """

    url: str
    n_bytes: int


class Uploader:
    """Puts bodies to signed URLs.

    Args:
        transport: Checks URLs and sends requests: a `core.outbound_urls.CheckedTransport`. Closed with the uploader.
        limits: How long to try.
        sleep: Waits between attempts.
    """

    def __init__(
        self,
        transport: httpx.AsyncBaseTransport,
        limits: UploadLimits | None = None,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._transport = transport
        self._limits = limits or UploadLimits()
        self._sleep = sleep

    async def put(self, url: str, parts: Iterable[bytes], *, compress: bool) -> Uploaded:
        """Uploads a body; cancelling stops the request.

        Args:
            url: Where to.
            parts: The body, taken in a thread.
            compress: Whether to compress it.

        Raises:
            UrlRefused: The URL may not be called.
            UploadFailed: The storage refused, or did not take it in time.
        """
        async with spooled(parts, compress=compress) as body:
            scope = asyncio.timeout(self._limits.total_s)
            try:
                async with scope:
                    await self._retrying(url)(self._send, url, body)
            except TimeoutError:
                if not scope.expired():
                    raise
                said = f"The upload to {redacted(url)} took longer than {self._limits.total_s:g} seconds."
                raise UploadFailed(said, _TRY_AGAIN) from None
            except httpx.TransportError as error:
                said = f"The upload to {redacted(url)} failed: {type(error).__name__}."
                raise UploadFailed(said, _TRY_AGAIN) from None
            return Uploaded(redacted(url), body.n_bytes)

    async def aclose(self) -> None:
        """Closes the transport."""
        await self._transport.aclose()

    async def _send(self, url: str, body: Spool) -> None:
        headers = {"Content-Type": "application/json", "Content-Length": str(body.n_bytes)}
        if body.compressed:
            headers["Content-Encoding"] = "gzip"
        limits = self._limits
        timeout = httpx.Timeout(limits.idle_s, connect=limits.connect_s).as_dict()
        async with aclosing(body.chunks()) as chunks:
            request = httpx.Request("PUT", url, headers=headers, content=chunks, extensions={"timeout": timeout})
            response = await self._transport.handle_async_request(request)
            await response.aclose()
        if response.is_success:
            return
        said = f"The storage at {redacted(url)} answered {response.status_code}."
        if response.is_redirect:
            raise UploadFailed(said, "Redirects are not followed; sign a URL of its target.", response.status_code)
        raise UploadFailed(said, _TRY_AGAIN if response.is_server_error else _SIGN_ANEW, response.status_code)

    def _retrying(self, url: str) -> AsyncRetrying:
        limits = self._limits

        def tell(state: RetryCallState) -> None:
            reason = state.outcome and state.outcome.exception()
            status = reason.storage_status if isinstance(reason, UploadFailed) else type(reason).__name__
            _LOG.warning("upload to %s: attempt %d failed: %s", redacted(url), state.attempt_number, status)

        return AsyncRetrying(
            retry=retry_if_exception(_may_pass),
            stop=stop_after_attempt(limits.attempts),
            wait=wait_random_exponential(multiplier=limits.backoff_s, max=limits.longest_wait_s),
            sleep=self._sleep,
            before_sleep=tell,
            reraise=True,
        )


def _may_pass(error: BaseException) -> bool:
    if isinstance(error, UploadFailed):
        return error.storage_status is not None and error.storage_status >= httpx.codes.INTERNAL_SERVER_ERROR
    return isinstance(error, httpx.TransportError)
