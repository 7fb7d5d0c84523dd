"""A storage on this machine that fails in every way: it answers each request as the next of its answers says."""

import asyncio
import ssl
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Self, TypeAlias

PIECE_BYTES = 4096


@dataclass
class Received:
    """A request, as it came over the wire."""

    method: str
    target: str
    headers: list[tuple[str, str]]
    body: bytearray = field(default_factory=bytearray)

    def header(self, name: str) -> str | None:
        return dict(self.headers).get(name)


Streams: TypeAlias = tuple[asyncio.StreamReader, asyncio.StreamWriter]
Answer: TypeAlias = Callable[["Storage", Received, Streams], Awaitable[None]]


class Storage:
    """One request per connection. A request beyond the answers is a failed test."""

    def __init__(self, *answers: Answer, host: str = "127.0.0.1", tls: ssl.SSLContext | None = None) -> None:
        self.received: list[Received] = []
        self.read = asyncio.Event()
        self.left = asyncio.Event()
        self.closing = asyncio.Event()
        self._answers = list(answers)
        self._host = host
        self._tls = tls

    async def __aenter__(self) -> Self:
        # A small window, so that a body which is not read does not fit into buffers.
        self._server = await asyncio.start_server(self._serve, self._host, 0, limit=PIECE_BYTES, ssl=self._tls)
        self.port: int = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        self.closing.set()
        self._server.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            head = await reader.readuntil(b"\r\n\r\n")
            first, *lines = head.decode().split("\r\n")[:-2]
            method, target, _ = first.split(" ")
            headers = [(name.lower(), value) for name, value in (line.split(": ", 1) for line in lines)]
            request = Received(method, target, headers)
            self.received.append(request)
            await self._answers.pop(0)(self, request, (reader, writer))
        finally:
            writer.close()


async def read(request: Received, streams: Streams, n_bytes: int | None = None) -> None:
    """Reads the body, or this much of it, in small pieces that give way to others."""
    reader, writer = streams
    if request.header("expect") == "100-continue":
        writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
    wanted = int(request.header("content-length") or 0) if n_bytes is None else n_bytes
    while len(request.body) < wanted:
        piece = await reader.read(min(PIECE_BYTES, wanted - len(request.body)))
        if not piece:
            return
        request.body += piece
        await asyncio.sleep(0)


def answers(status: int, headers: Sequence[str] = (), body: bytes = b"") -> Answer:
    """Reads the whole request and answers."""

    async def answer(_: Storage, request: Received, streams: Streams) -> None:
        _, writer = streams
        await read(request, streams)
        lines = [f"HTTP/1.1 {status} Said", *headers, f"Content-Length: {len(body)}"]
        if status == 204:
            lines.pop()
        writer.write("\r\n".join([*lines, "", ""]).encode() + body)
        await writer.drain()

    return answer


def breaks(after_bytes: int) -> Answer:
    """Resets the connection in the middle of the body."""

    async def answer(_: Storage, request: Received, streams: Streams) -> None:
        _, writer = streams
        await read(request, streams, after_bytes)
        writer.transport.abort()

    return answer


def stalls(after_bytes: int) -> Answer:
    """Reads a part of the body, and then neither reads nor says anything."""

    async def answer(storage: Storage, request: Received, streams: Streams) -> None:
        await read(request, streams, after_bytes)
        await storage.closing.wait()

    return answer


async def hangs(storage: Storage, request: Received, streams: Streams) -> None:
    """Reads the whole request and says nothing until the client has left."""
    reader, _ = streams
    await read(request, streams)
    storage.read.set()
    await reader.read()
    storage.left.set()
