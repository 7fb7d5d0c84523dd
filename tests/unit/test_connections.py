"""Connections are kept for their name, used again, ended when idle, and given up when they break."""

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import httpx
import pytest

from core.connections import KeptConnections


@dataclass
class Hand:
    """A clock that is moved by hand."""

    now_s: float = 100.0

    def time(self) -> float:
        return self.now_s

    def monotonic(self) -> float:
        return self.now_s


@dataclass
class Server:
    """Answers every request on every connection; counts connections that were opened and that are open."""

    port: int = 0
    opened: int = 0
    open: int = 0
    changed: asyncio.Event = field(default_factory=asyncio.Event)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.opened += 1
        self.open += 1
        try:
            while await reader.readline():
                await reader.readuntil(b"\r\n\r\n")
                writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
        finally:
            writer.close()
            self.open -= 1
            self.changed.set()

    async def until_open(self, count: int) -> None:
        while self.open != count:
            self.changed.clear()
            await self.changed.wait()

    def request(self, port: int | None = None) -> httpx.Request:
        return httpx.Request("GET", f"http://127.0.0.1:{port or self.port}/")


@asynccontextmanager
async def serving(clock: Hand, most: int = 8) -> AsyncGenerator[tuple[Server, KeptConnections]]:
    server = Server()
    listening = await asyncio.start_server(server.serve, "127.0.0.1", 0)
    server.port = listening.sockets[0].getsockname()[1]
    connections = KeptConnections(httpx.create_ssl_context(), most, clock)
    async with listening:
        try:
            yield server, connections
        finally:
            await connections.aclose()


def within_a_minute(test: Callable[[], object]) -> None:
    async def run() -> None:
        async with asyncio.timeout(60):
            await test()  # pyright: ignore[reportGeneralTypeIssues]

    asyncio.run(run())


def test_a_connection_serves_one_request_after_the_other_and_none_together() -> None:
    async def run() -> None:
        async with serving(Hand()) as (server, connections):
            for _ in range(5):
                response = await connections.send("a", [server.request()])
                assert await response.aread() == b"ok"
                await response.aclose()
            assert server.opened == 1
            together = [await connections.send("a", [server.request()]) for _ in range(3)]
            assert server.opened == 3
            for response in together:
                await response.aclose()
            for response in [await connections.send("a", [server.request()]) for _ in range(3)]:
                await response.aread()
                await response.aclose()
            # What was not read to its end can not be used again, and says nothing.
            assert 3 <= server.opened <= 6

    within_a_minute(run)


def test_a_connection_of_one_name_serves_no_other() -> None:
    async def run() -> None:
        async with serving(Hand()) as (server, connections):
            for name in ("a", "b", "a", "b"):
                await (await connections.send(name, [server.request()])).aread()
            assert server.opened == 2

    within_a_minute(run)


def test_what_is_idle_too_long_or_too_many_is_closed() -> None:
    async def run() -> None:
        clock = Hand()
        async with serving(clock, most=2) as (server, connections):
            open_ones = [await connections.send(name, [server.request()]) for name in "abc"]
            for response in open_ones:
                await response.aread()
            await server.until_open(2)  # the longest idle of three had to go
            clock.now_s += 60.0
            await (await connections.send("d", [server.request()])).aread()
            await server.until_open(1)
            await connections.aclose()
            await server.until_open(0)

    within_a_minute(run)


def test_the_next_address_is_tried_and_who_finds_none_is_told() -> None:
    async def run() -> None:
        async with serving(Hand()) as (server, connections):
            unused = await asyncio.start_server(server.serve, "127.0.0.1", 0)
            port = unused.sockets[0].getsockname()[1]
            unused.close()
            await unused.wait_closed()
            response = await connections.send("a", [server.request(port), server.request()])
            assert await response.aread() == b"ok"
            with pytest.raises(httpx.ConnectError):
                await connections.send("b", [server.request(port)])

    within_a_minute(run)


def test_a_response_that_ends_after_the_end_of_all_closes_its_connection() -> None:
    async def run() -> None:
        async with serving(Hand()) as (server, connections):
            response = await connections.send("a", [server.request()])
            await connections.aclose()
            await response.aread()
            await server.until_open(0)

    within_a_minute(run)
