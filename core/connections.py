"""Connections that are kept for the next request to the same name, each by itself.

    response = await connections.send(name, [request, ...])     # `response.aclose()` gives the connection back

httpx has a pool for this, which walks over all of its connections for each of them at every request; with hundreds of
calls in flight that is more work than the calls. Here a connection is a transport with room for one, taken from the end
of its name's line and put back there, so that few are used much and the others end.

Connections belong to a name and not to an address, since one whose certificate was checked for one name must not serve
another at the same address. Lives on one event loop.

Deliberately not here: a limit of connections, which is a limit of calls (`core.autointerp.providers.rate`), and which
addresses may be called (`core.outbound_urls`).
"""

import ssl
from collections import deque
from collections.abc import AsyncIterator, Hashable, Sequence
from dataclasses import dataclass
from typing import Final

import httpx

from core.clock import SYSTEM_CLOCK, Clock

_KEPT_S: Final = 4.5  # many servers hang up after five idle seconds
_MOST_KEPT: Final = 512


@dataclass(frozen=True, slots=True, eq=False)
class _Idle:
    transport: httpx.AsyncHTTPTransport
    since_s: float


class KeptConnections:
    """Connections by name, to be closed with `aclose`.

    Args:
        ssl_context: Trusts whom.
        most: Idle ones kept at most, over all names.
        clock: Reads the time.
    """

    def __init__(self, ssl_context: ssl.SSLContext, most: int = _MOST_KEPT, clock: Clock = SYSTEM_CLOCK) -> None:
        self._ssl_context = ssl_context
        self._most = most
        self._clock = clock
        self._idle: dict[Hashable, deque[_Idle]] = {}
        self._n_idle = 0
        self._closed = False

    async def send(self, name: Hashable, requests: Sequence[httpx.Request]) -> httpx.Response:
        """Sends a request over a connection of a name, kept or new.

        Args:
            name: Whose connections may be used.
            requests: The same request to one address or several; the next is tried where there is no connection.

        Raises:
            httpx.TransportError: There was no connection, or it broke.
        """
        transport = self._take(name)
        try:
            response = await _first(transport, requests)
        except BaseException:
            await transport.aclose()
            raise
        assert isinstance(response.stream, httpx.AsyncByteStream)  # of an asynchronous transport
        body = _Body(self, name, transport, response.stream)
        return httpx.Response(
            response.status_code, headers=response.headers, stream=body, extensions=response.extensions
        )

    async def aclose(self) -> None:
        """Closes those that are idle; the others close when their responses do."""
        self._closed = True
        await _close([idle for name in list(self._idle) for idle in self._cut(name, len(self._idle[name]))])

    async def keep(self, name: Hashable, transport: httpx.AsyncHTTPTransport) -> None:
        """Takes back a connection whose response has ended."""
        if self._closed:
            await transport.aclose()
            return
        now_s = self._clock.monotonic()
        self._idle.setdefault(name, deque()).append(_Idle(transport, now_s))
        self._n_idle += 1
        ended: list[_Idle] = []
        for other, line in list(self._idle.items()):
            ended += self._cut(other, sum(idle.since_s <= now_s - _KEPT_S for idle in line))
        while self._n_idle > self._most:
            ended += self._cut(min(self._idle, key=lambda each: self._idle[each][0].since_s), 1)
        await _close(ended)

    def _take(self, name: Hashable) -> httpx.AsyncHTTPTransport:
        line = self._idle.get(name)
        if not line:
            limits = httpx.Limits(max_connections=1, max_keepalive_connections=1, keepalive_expiry=_KEPT_S)
            return httpx.AsyncHTTPTransport(verify=self._ssl_context, limits=limits)
        self._n_idle -= 1
        transport = line.pop().transport
        if not line:
            del self._idle[name]
        return transport

    def _cut(self, name: Hashable, count: int) -> list[_Idle]:
        """Takes out the connections of a name that have been idle longest."""
        line = self._idle[name]
        self._n_idle -= count
        cut = [line.popleft() for _ in range(count)]
        if not line:
            del self._idle[name]
        return cut


class _Body(httpx.AsyncByteStream):
    """A response's body, at whose end the connection is free again."""

    def __init__(
        self,
        connections: KeptConnections,
        name: Hashable,
        transport: httpx.AsyncHTTPTransport,
        stream: httpx.AsyncByteStream,
    ) -> None:
        self._connections = connections
        self._name = name
        self._transport: httpx.AsyncHTTPTransport | None = transport
        self._stream = stream

    async def __aiter__(self) -> AsyncIterator[bytes]:
        async for part in self._stream:
            yield part

    async def aclose(self) -> None:
        transport, self._transport = self._transport, None
        if transport is None:
            return
        try:
            await self._stream.aclose()
        except BaseException:
            await transport.aclose()
            raise
        await self._connections.keep(self._name, transport)


async def _close(idle: Sequence[_Idle]) -> None:
    for one in idle:
        await one.transport.aclose()


async def _first(transport: httpx.AsyncHTTPTransport, requests: Sequence[httpx.Request]) -> httpx.Response:
    *others, last = requests
    for request in others:
        try:
            return await transport.handle_async_request(request)
        except (httpx.ConnectError, httpx.ConnectTimeout):
            continue  # nothing of the body has been sent
    return await transport.handle_async_request(last)
