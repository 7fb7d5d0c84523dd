"""Uploads to signed URLs: the bytes that were signed for, tried again where that may help, and no secret told."""

import asyncio
import gzip
import logging
import random
import threading
from collections.abc import Callable, Coroutine, Iterator
from typing import Any

import pytest

from core.errors import UploadFailed, UrlRefused
from core.graph.upload import Uploaded, Uploader, UploadLimits
from core.outbound_urls import CheckedTransport, UrlPolicy
from tests.unit.graph.storage import Answer, Storage, answers, breaks, hangs, stalls

PATH = "/user-graphs/ann/my%20graph-1.json"
SECRET = "5f2d1c0a9b8e7d6c"
QUERY = f"X-Amz-Credential=AKIDSECRET%2F20260101%2Fus-east-1%2Fs3&X-Amz-Date=20260101T000000Z&X-Amz-Signature={SECRET}"
GRAPH = [b'{"metadata": {"slug": "', "ä".encode(), b'"}, "nodes": [', b'{"n": 1}, ' * 5000, b'{"n": 2}]}']
BODY = b"".join(GRAPH)
LARGE = random.Random(0).randbytes(24 * 2**20)  # larger than the buffers in between, and than what is held in memory
QUICK = UploadLimits(total_s=20.0, connect_s=5.0, idle_s=10.0)


class Waits:
    """Waits between attempts: noted, not waited for."""

    def __init__(self) -> None:
        self.seconds: list[float] = []

    async def __call__(self, seconds: float) -> None:
        self.seconds.append(seconds)


def running(test: Callable[..., Coroutine[Any, Any, None]]) -> Callable[..., None]:
    def run(caplog: pytest.LogCaptureFixture, **parameters: Any) -> None:
        with caplog.at_level(logging.DEBUG):
            asyncio.run(asyncio.wait_for(test(**parameters), 60))
        told = " ".join(record.getMessage() for record in caplog.records)
        assert_no_secret(told, caplog.text)

    run.__name__ = test.__name__
    return run


def assert_no_secret(*texts: str) -> None:
    for text in texts:
        assert SECRET not in text
        assert "AKIDSECRET" not in text
        assert "X-Amz" not in text


def url(storage: Storage) -> str:
    return f"http://127.0.0.1:{storage.port}{PATH}?{QUERY}"


def shown(storage: Storage) -> str:
    return f"http://127.0.0.1:{storage.port}{PATH}"


def uploader(limits: UploadLimits = QUICK, waits: Waits | None = None, policy: UrlPolicy | None = None) -> Uploader:
    return Uploader(CheckedTransport(policy or UrlPolicy(loopback=True)), limits, waits or Waits())


async def failure(storage: Storage, limits: UploadLimits = QUICK, parts: Any = GRAPH) -> UploadFailed:
    """The error of an upload, in which no secret is found."""
    with pytest.raises(UploadFailed) as caught:
        await uploader(limits).put(url(storage), parts, compress=False)
    error = caught.value
    assert_no_secret(str(error), repr(error), error.text, repr(error.args), repr(error.__context__ or ""))
    assert error.__suppress_context__ or error.__context__ is None
    return error


@running
async def test_a_graph_is_sent_with_the_signed_headers_and_no_others() -> None:
    async with Storage(answers(200)) as storage:
        uploaded = await uploader().put(url(storage), iter(GRAPH), compress=False)
    assert uploaded == Uploaded(shown(storage), len(BODY))
    assert_no_secret(repr(uploaded))
    (request,) = storage.received
    assert (request.method, request.target) == ("PUT", f"{PATH}?{QUERY}")
    assert sorted(request.headers) == [
        ("content-length", str(len(BODY))),
        ("content-type", "application/json"),
        ("host", f"127.0.0.1:{storage.port}"),
    ]
    assert request.body == BODY


@running
async def test_a_compressed_graph_says_so_and_is_the_same_every_time() -> None:
    async with Storage(answers(200), answers(200)) as storage:
        uploaded = [await uploader().put(url(storage), iter(GRAPH), compress=True) for _ in range(2)]
    first, second = storage.received
    assert first.header("content-encoding") == "gzip"
    assert len(first.headers) == 4
    assert gzip.decompress(first.body) == BODY
    assert first.body == second.body
    assert first.body[4:8] == bytes(4)  # no time of day (RFC 1952, 2.3)
    assert uploaded[0].n_bytes == len(first.body) < len(BODY) // 10


@pytest.mark.parametrize("status", [200, 201, 204])
def test_every_2xx_is_success(status: int, caplog: pytest.LogCaptureFixture) -> None:
    @running
    async def check() -> None:
        async with Storage(answers(status)) as storage:
            assert (await uploader().put(url(storage), GRAPH, compress=False)).n_bytes == len(BODY)

    check(caplog)


@pytest.mark.parametrize(
    "failing",
    [answers(503, body=b"<Error>SlowDown</Error>"), answers(500), breaks(0), breaks(20_000), stalls(4096)],
    ids=["503", "500", "reset at once", "reset midway", "stalled"],
)
def test_what_may_pass_is_tried_again_with_the_same_bytes(failing: Answer, caplog: pytest.LogCaptureFixture) -> None:
    @running
    async def check() -> None:
        waits = Waits()
        async with Storage(failing, answers(200)) as storage:
            limits = UploadLimits(total_s=20.0, idle_s=0.2)
            await uploader(limits, waits).put(url(storage), iter([LARGE]), compress=False)
        assert len(storage.received) == 2
        assert storage.received[1].body == LARGE
        assert LARGE.startswith(storage.received[0].body)
        assert len(waits.seconds) == 1

    check(caplog)
    assert f"{PATH}: attempt 1 failed" in caplog.text


@running
async def test_it_gives_up_after_so_many_attempts_with_growing_random_waits() -> None:
    limits = UploadLimits(attempts=6, backoff_s=1.0, longest_wait_s=5.0)
    every: list[list[float]] = []
    for _ in range(3):
        waits = Waits()
        async with Storage(*[answers(502)] * 6) as storage:
            with pytest.raises(UploadFailed, match=r"answered 502") as caught:
                await uploader(limits, waits).put(url(storage), GRAPH, compress=False)
        assert caught.value.storage_status == 502
        assert len(storage.received) == 6
        assert all(0 <= wait <= bound for wait, bound in zip(waits.seconds, [1, 2, 4, 5, 5], strict=True))
        every.append(waits.seconds)
    assert every[0] != every[1] != every[2]


@running
async def test_a_storage_that_is_not_there_is_a_failure_without_a_status() -> None:
    async with Storage() as storage:
        pass
    error = await failure(storage)
    assert error.storage_status is None
    assert "ConnectError" in str(error)
    assert shown(storage) in str(error)


@running
async def test_a_storage_that_hangs_costs_no_more_than_the_limit_and_is_left() -> None:
    async with Storage(hangs) as storage:
        error = await failure(storage, UploadLimits(total_s=0.3))
        assert str(error) == f"The upload to {shown(storage)} took longer than 0.3 seconds."
        await storage.left.wait()
    assert len(storage.received) == 1


@running
async def test_a_storage_that_reads_slowly_is_waited_for() -> None:
    async with Storage(answers(200)) as storage:
        await uploader().put(url(storage), [LARGE], compress=False)
    assert storage.received[0].body == LARGE


@pytest.mark.parametrize("status", [400, 403, 404, 411])
def test_a_refusal_is_not_tried_again_and_its_words_are_not_passed_on(
    status: int, caplog: pytest.LogCaptureFixture
) -> None:
    @running
    async def check() -> None:
        said = f"<Error><SignatureProvided>{SECRET}</SignatureProvided></Error>".encode()
        async with Storage(answers(status, body=said)) as storage:
            error = await failure(storage)
        assert (error.storage_status, len(storage.received)) == (status, 1)
        assert str(error) == f"The storage at {shown(storage)} answered {status}."

    check(caplog)


@pytest.mark.parametrize("status", [301, 302, 307, 308])
def test_a_redirect_is_not_followed(status: int, caplog: pytest.LogCaptureFixture) -> None:
    @running
    async def check() -> None:
        async with Storage() as elsewhere:
            target = f"Location: http://127.0.0.1:{elsewhere.port}/"
            async with Storage(answers(status, [target])) as storage:
                error = await failure(storage)
        assert (error.storage_status, elsewhere.received) == (status, [])

    check(caplog)


@running
async def test_a_cancelled_upload_lets_go_of_the_connection() -> None:
    async with Storage(hangs) as storage:
        upload = asyncio.create_task(uploader().put(url(storage), GRAPH, compress=False))
        await storage.read.wait()
        upload.cancel()
        with pytest.raises(asyncio.CancelledError):
            await upload
        await storage.left.wait()


@running
async def test_a_cancelled_upload_takes_no_further_part() -> None:
    taken, go_on = threading.Event(), threading.Event()
    numbers: list[int] = []

    def parts() -> Iterator[bytes]:
        for number in range(1000):
            numbers.append(number)
            taken.set()
            go_on.wait(20)
            yield b"{}"

    async with Storage() as storage:
        upload = asyncio.create_task(uploader().put(url(storage), parts(), compress=False))
        await asyncio.to_thread(taken.wait, 20)
        upload.cancel()
        await asyncio.sleep(0)  # the cancellation arrives
        go_on.set()
        with pytest.raises(asyncio.CancelledError):
            await upload
    assert numbers == [0]
    assert storage.received == []


@running
async def test_a_graph_that_can_not_be_written_is_not_sent() -> None:
    def parts() -> Iterator[bytes]:
        yield b"{"
        raise ValueError("Out of range float values are not JSON compliant")

    async with Storage() as storage:
        with pytest.raises(ValueError, match="not JSON compliant"):
            await uploader().put(url(storage), parts(), compress=True)
    assert storage.received == []


@running
async def test_a_url_that_may_not_be_called_is_not_called_and_not_tried_again() -> None:
    waits = Waits()
    async with Storage() as storage:
        with pytest.raises(UrlRefused) as caught:
            await uploader(waits=waits, policy=UrlPolicy()).put(url(storage), GRAPH, compress=False)
    assert_no_secret(str(caught.value), caught.value.text, repr(caught.value))
    assert (storage.received, waits.seconds) == ([], [])


@running
async def test_many_uploads_go_on_at_once() -> None:
    bodies = [f'{{"slug": "{number}"}}'.encode() for number in range(8)]
    async with Storage(*[answers(200)] * 8) as storage:
        one = uploader()
        await asyncio.gather(*(one.put(url(storage), [body], compress=False) for body in bodies))
        await one.aclose()
    assert sorted(bytes(request.body) for request in storage.received) == sorted(bodies)
