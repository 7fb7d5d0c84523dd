"""Server-sent events over bare ASGI: framing, heartbeats, failures, and clients that leave."""

import asyncio
from collections.abc import AsyncGenerator, Callable
from typing import Any

import pytest

from core.errors import InvalidRequest, RayscopeError, Unavailable
from deployments.gateway.events import Part, event, event_stream

NEVER = 3600.0


class Client:
    """The other end of the connection."""

    def __init__(self) -> None:
        self.status: int | None = None
        self.headers: dict[str, str] = {}
        self.body = b""
        self.ended = False
        self._left = asyncio.Event()
        self._arrived = asyncio.Event()

    async def receive(self) -> dict[str, Any]:
        await self._left.wait()
        return {"type": "http.disconnect"}

    async def send(self, message: Any) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            self.headers = {key.decode(): value.decode() for key, value in message["headers"]}
        else:
            self.body += message["body"]
            self.ended = not message["more_body"]
        self._arrived.set()

    def leave(self) -> None:
        self._left.set()

    async def until(self, condition: Callable[[bytes], bool]) -> None:
        while not condition(self.body):
            self._arrived.clear()
            await self._arrived.wait()


class Source:
    """Parts that come when they are put, and a note of whether the generator was closed."""

    def __init__(self) -> None:
        self._queue: asyncio.Queue[bytes | Exception | None] = asyncio.Queue()
        self.closed = False

    def put(self, *parts: bytes | Exception | None) -> None:
        for part in parts:
            self._queue.put_nowait(part)

    async def parts(self) -> AsyncGenerator[bytes]:
        try:
            while (part := await self._queue.get()) is not None:
                if isinstance(part, Exception):
                    raise part
                yield part
        finally:
            self.closed = True


def told(error: RayscopeError) -> bytes:
    return f'{{"error":"{error}","code":"{error.code}"}}'.encode()


async def serve(source: Source, client: Client, heartbeat_s: float = NEVER) -> None:
    response = await event_stream(source.parts(), told, heartbeat_s)
    await response({"type": "http"}, client.receive, client.send)  # pyright: ignore[reportArgumentType]


def run(test: Callable[[Source, Client], Any]) -> None:
    async def body() -> None:
        async with asyncio.timeout(20):
            await test(Source(), Client())

    asyncio.run(body())


def test_every_part_is_one_event() -> None:
    async def test(source: Source, client: Client) -> None:
        source.put(b'{"a":1}', b"[DONE]", None)
        await serve(source, client)
        assert client.status == 200
        assert client.headers["content-type"].startswith("text/event-stream")
        assert "content-length" not in client.headers
        assert client.body == b'data: {"a":1}\n\ndata: [DONE]\n\n'
        assert client.ended
        assert source.closed

    run(test)


def test_a_part_is_sent_as_soon_as_it_is_there() -> None:
    async def test(source: Source, client: Client) -> None:
        source.put(b"1")
        serving = asyncio.create_task(serve(source, client))
        await client.until(lambda body: body == event(b"1"))
        source.put(b"2")
        await client.until(lambda body: body == event(b"1") + event(b"2"))
        source.put(None)
        await serving

    run(test)


def test_what_fails_before_the_first_part_is_no_stream() -> None:
    async def test(source: Source, client: Client) -> None:
        source.put(InvalidRequest("Nothing to steer with"))
        with pytest.raises(InvalidRequest, match="Nothing to steer with"):
            await serve(source, client)
        assert client.status is None
        assert source.closed

    run(test)


def test_what_fails_later_is_the_last_event() -> None:
    async def test(source: Source, client: Client) -> None:
        source.put(b"1", Unavailable("The replica died."))
        await serve(source, client)
        failure = b'event: error\ndata: {"error":"The replica died.","code":"unavailable"}\n\n'
        assert client.body == event(b"1") + failure
        assert client.ended

    run(test)


def test_a_bug_is_the_last_event_and_tells_nothing(caplog: pytest.LogCaptureFixture) -> None:
    async def test(source: Source, client: Client) -> None:
        source.put(b"1", ValueError("a password"))
        await serve(source, client)
        assert client.body.startswith(event(b"1") + b"event: error\n")
        assert b'"code":"internal"' in client.body
        assert b"password" not in client.body
        assert client.ended

    run(test)
    assert "a password" in caplog.text


def test_silence_is_filled_with_comments() -> None:
    async def test(source: Source, client: Client) -> None:
        source.put(b"1")
        serving = asyncio.create_task(serve(source, client, heartbeat_s=0.001))
        await client.until(lambda body: body.count(b": ping\n\n") >= 3)
        source.put(b"2", None)
        await serving
        assert client.body.replace(b": ping\n\n", b"") == event(b"1") + event(b"2")

    run(test)


def test_a_client_that_leaves_closes_the_generator_at_once() -> None:
    async def test(source: Source, client: Client) -> None:
        source.put(b"1")
        serving = asyncio.create_task(serve(source, client))
        await client.until(lambda body: body == event(b"1"))
        client.leave()
        await serving
        assert source.closed
        assert client.body == event(b"1")

    run(test)


@pytest.mark.parametrize("parts", [(), (b"1",)])
def test_a_request_that_is_cancelled_closes_the_generator(parts: tuple[bytes, ...]) -> None:
    async def test(source: Source, client: Client) -> None:
        source.put(*parts)
        serving = asyncio.create_task(serve(source, client))
        await (client.until(lambda body: body == event(b"1")) if parts else asyncio.sleep(0))
        serving.cancel()
        with pytest.raises(asyncio.CancelledError):
            await serving
        assert source.closed

    run(test)


def test_a_client_that_can_not_be_reached_closes_the_generator() -> None:
    async def test(source: Source, client: Client) -> None:
        async def broken(message: Any) -> None:
            raise OSError("gone")

        source.put(b"1", b"2")
        response = await event_stream(source.parts(), told, NEVER)
        with pytest.raises(OSError, match="gone"):
            await response({"type": "http"}, client.receive, broken)  # pyright: ignore[reportArgumentType]
        assert source.closed

    run(test)


def test_nothing_at_all_is_an_empty_stream() -> None:
    async def test(source: Source, client: Client) -> None:
        source.put(None)
        await serve(source, client)
        assert (client.status, client.body, client.ended) == (200, b"", True)

    run(test)


def test_a_part_with_a_name_and_a_number_says_both() -> None:
    assert event(Part(b"{}", "score", 7)) == b"id: 7\nevent: score\ndata: {}\n\n"


def test_a_stream_that_begins_at_once_has_its_head_before_there_is_a_part() -> None:
    async def test(source: Source, client: Client) -> None:
        response = await event_stream(source.parts(), told, NEVER, at_once=True)
        serving = asyncio.create_task(response({"type": "http"}, client.receive, client.send))  # pyright: ignore
        await client.until(lambda _: client.status is not None)
        source.put(Unavailable("The replica died."))
        await serving
        assert client.status == 200
        assert client.body == event(told(Unavailable("The replica died.")), "error")
        assert source.closed

    run(test)


def test_a_stream_that_begins_at_once_may_have_nothing_to_say() -> None:
    async def test(source: Source, client: Client) -> None:
        source.put(None)
        response = await event_stream(source.parts(), told, NEVER, at_once=True)
        await response({"type": "http"}, client.receive, client.send)  # pyright: ignore
        assert (client.status, client.body, client.ended) == (200, b"", True)

    run(test)
