"""Graphs in the cluster's own buckets, against a real S3 server in this process and against one that fails."""

import asyncio
import gzip
import logging
import random
from collections.abc import Iterator
from typing import Any
from urllib.parse import parse_qs, urlsplit

import boto3
import httpx
import pytest

from core.errors import UploadFailed, UrlRefused
from core.graph.s3 import S3Limits, S3Place, S3Store
from core.graph.upload import Uploader
from core.outbound_urls import CheckedTransport, UrlPolicy
from tests.s3_server import S3_SECRET, s3_server
from tests.unit.graph.storage import Received, Storage, Streams, answers, hangs

GRAPH = [b'{"nodes": [', b'{"n": 1}, ' * 5000, b'{"n": 2}]}']
BODY = b"".join(GRAPH)
PART_BYTES = 5 * 2**20
LARGE = random.Random(0).randbytes(12 * 2**20)
BUCKET = "graphs"


@pytest.fixture(scope="module")
def server() -> Iterator[dict[str, str]]:
    with s3_server() as variables:
        yield variables


@pytest.fixture(autouse=True)
def credentials(monkeypatch: pytest.MonkeyPatch, server: dict[str, str]) -> None:
    """As an operator sets them."""
    for variable, value in server.items():
        monkeypatch.setenv(variable, value)


@pytest.fixture
def bucket(credentials: None) -> Iterator[Any]:
    bucket = boto3.session.Session().resource("s3").Bucket(BUCKET)
    bucket.create()
    yield bucket
    bucket.objects.delete()
    bucket.delete()


async def put(store: S3Store, destination: str, parts: Any = GRAPH, *, compress: bool = False) -> Any:
    try:
        return await asyncio.wait_for(store.put(destination, parts, compress=compress), 60)
    finally:
        await store.aclose()


def test_a_graph_is_stored_and_can_be_fetched_without_credentials(
    bucket: Any, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO):
        stored = asyncio.run(put(S3Store((f"s3://{BUCKET}",)), f"s3://{BUCKET}/ann/my graph #1.json"))
    told = caplog.text
    assert stored.place == S3Place(BUCKET, "ann/my graph #1.json")
    assert stored.n_bytes == len(BODY)
    kept = bucket.Object("ann/my graph #1.json").get()
    assert kept["Body"].read() == BODY
    assert (kept["ContentType"], kept.get("ContentEncoding")) == ("application/json", None)
    fetched = httpx.get(stored.url)
    assert (fetched.status_code, fetched.content) == (200, BODY)
    signed = parse_qs(urlsplit(stored.url).query)
    assert signed["X-Amz-Expires"] == ["3600"]
    for text in (repr(stored), told):
        assert signed["X-Amz-Signature"][0] not in text
        assert S3_SECRET not in text


def test_a_compressed_graph_is_inflated_by_whoever_fetches_it(bucket: Any) -> None:
    store = S3Store((f"s3://{BUCKET}",))
    stored = asyncio.run(put(store, f"s3://{BUCKET}/graph.json", compress=True))
    kept = bucket.Object("graph.json").get()
    assert kept["ContentEncoding"] == "gzip"
    packed = kept["Body"].read()
    assert gzip.decompress(packed) == BODY
    assert stored.n_bytes == len(packed)
    fetched = httpx.get(stored.url)
    assert fetched.headers["content-type"] == "application/json"
    assert fetched.content == BODY


def test_a_large_graph_is_sent_in_parts(bucket: Any) -> None:
    store = S3Store((f"s3://{BUCKET}",), S3Limits(part_bytes=PART_BYTES))
    asyncio.run(put(store, f"s3://{BUCKET}/large.json", [LARGE[:7], LARGE[7:]]))
    kept = bucket.Object("large.json").get()
    assert kept["Body"].read() == LARGE
    assert kept["ETag"].strip('"').endswith("-3")


def test_several_graphs_at_once_go_through_one_store(bucket: Any) -> None:
    store = S3Store((f"s3://{BUCKET}",))

    async def run() -> None:
        names = [f"s3://{BUCKET}/{number}.json" for number in range(5)]
        await asyncio.gather(*(store.put(name, [name.encode()], compress=False) for name in names))
        await store.aclose()

    asyncio.run(run())
    assert {item.key: item.get()["Body"].read().decode() for item in bucket.objects.all()} == {
        f"{number}.json": f"s3://{BUCKET}/{number}.json" for number in range(5)
    }


@pytest.mark.parametrize("compress", [False, True])
def test_a_graph_can_be_put_to_a_url_that_the_caller_signed(compress: bool, bucket: Any) -> None:
    signed = bucket.meta.client.generate_presigned_url(
        "put_object", Params={"Bucket": BUCKET, "Key": "user-graphs/ann/1.json", "ContentType": "application/json"}
    )

    async def run() -> None:
        uploader = Uploader(CheckedTransport(UrlPolicy(loopback=True)))
        await uploader.put(signed, GRAPH, compress=compress)
        await uploader.aclose()

    asyncio.run(run())
    kept = bucket.Object("user-graphs/ann/1.json").get()
    body = kept["Body"].read()
    assert (gzip.decompress(body) if compress else body) == BODY
    assert (kept["ContentType"], kept.get("ContentEncoding")) == ("application/json", "gzip" if compress else None)


@pytest.mark.parametrize(
    ("allowed", "destination"),
    [
        ((), "s3://graphs/a.json"),
        (("s3://graphs",), "s3://graphs-of-others/a.json"),
        (("s3://graphs",), "s3://other/a.json"),
        (("s3://graphs/public",), "s3://graphs/public-not/a.json"),
        (("s3://graphs/public/",), "s3://graphs/a.json"),
        (("s3://graphs/public",), "s3://graphs/public/../a.json"),
        (("s3://graphs",), "s3://graphs/./a.json"),
        (("s3://graphs",), "s3://graphs//a.json"),
        (("s3://graphs",), "s3://graphs/folder/"),
        (("s3://graphs",), "s3://graphs/"),
        (("s3://graphs",), "s3://graphs"),
        (("s3://graphs",), "s3://graphs/a\n.json"),
        (("s3://graphs",), f"s3://graphs/{'ä' * 513}"),
        (("s3://graphs",), "https://graphs/a.json"),
        (("s3://graphs",), "S3://graphs/a.json"),
        (("s3://graphs",), "graphs/a.json"),
    ],
)
def test_only_listed_places_are_written_to(allowed: tuple[str, ...], destination: str) -> None:
    with pytest.raises(UrlRefused):
        S3Store(allowed).check(destination)


def test_what_is_refused_is_not_written(bucket: Any) -> None:
    with pytest.raises(UrlRefused):
        asyncio.run(put(S3Store((f"s3://{BUCKET}/public",)), f"s3://{BUCKET}/graph.json"))
    assert list(bucket.objects.all()) == []


@pytest.mark.parametrize("allowed", ["s3://graphs", "s3://graphs/", "s3://graphs/public", "s3://graphs/public/"])
def test_a_folder_may_be_written_with_or_without_a_slash(allowed: str) -> None:
    place = S3Store((allowed,)).check("s3://graphs/public/a?b=c#d.json")
    assert (place.bucket, place.key) == ("graphs", "public/a?b=c#d.json")


@pytest.mark.parametrize("allowed", ["", "s3://", "graphs", "s3:///graphs", "https://graphs", "s3://*"])
def test_a_list_that_says_nothing_clear_is_refused(allowed: str) -> None:
    with pytest.raises(ValueError, match="not a bucket"):
        S3Store(("s3://graphs", allowed))


def test_a_bucket_that_is_not_there_is_a_failure() -> None:
    with pytest.raises(UploadFailed, match="NoSuchBucket") as caught:
        asyncio.run(put(S3Store(("s3://nowhere",)), "s3://nowhere/graph.json"))
    assert caught.value.storage_status == 404
    assert S3_SECRET not in repr(caught.value) + caught.value.text


def test_an_endpoint_that_is_not_there_is_a_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    async def run() -> None:
        async with Storage() as gone:
            pass
        monkeypatch.setenv("AWS_ENDPOINT_URL_S3", f"http://127.0.0.1:{gone.port}")
        await put(S3Store(("s3://graphs",), S3Limits(attempts=1)), "s3://graphs/graph.json")

    with pytest.raises(UploadFailed, match="EndpointConnectionError") as caught:
        asyncio.run(run())
    assert caught.value.storage_status is None


def test_a_cluster_without_credentials_says_so(monkeypatch: pytest.MonkeyPatch, bucket: Any) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", "/nonexistent")
    monkeypatch.setenv("AWS_CONFIG_FILE", "/nonexistent")
    with pytest.raises(UploadFailed, match="NoCredentialsError"):
        asyncio.run(put(S3Store((f"s3://{BUCKET}",)), f"s3://{BUCKET}/graph.json"))


def test_a_storage_error_is_tried_again_and_the_loop_is_not_blocked_meanwhile(monkeypatch: pytest.MonkeyPatch) -> None:
    """The storage answers on the very loop that the store is used on: it could not, were the loop blocked."""

    async def run() -> None:
        async with Storage(answers(503), answers(200, ['ETag: "1"'])) as storage:
            monkeypatch.setenv("AWS_ENDPOINT_URL_S3", f"http://127.0.0.1:{storage.port}")
            await put(S3Store(("s3://graphs",)), "s3://graphs/graph.json")
        assert [request.method for request in storage.received] == ["PUT", "PUT"]

    asyncio.run(run())


def test_a_storage_that_hangs_costs_no_more_than_the_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    async def run() -> None:
        async with Storage(hangs) as storage:
            monkeypatch.setenv("AWS_ENDPOINT_URL_S3", f"http://127.0.0.1:{storage.port}")
            limits = S3Limits(total_s=3.0, idle_s=5.0, attempts=1)
            store = S3Store(("s3://graphs",), limits)
            with pytest.raises(UploadFailed, match=r"Storing s3://graphs/graph.json took longer than 3 seconds"):
                await store.put("s3://graphs/graph.json", GRAPH, compress=False)
            assert not storage.left.is_set()
            await store.aclose()
            await storage.left.wait()

    asyncio.run(asyncio.wait_for(run(), 20))


def test_a_cancelled_transfer_leaves_no_parts_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    begun = b"<InitiateMultipartUploadResult><UploadId>one</UploadId></InitiateMultipartUploadResult>"
    aborted = asyncio.Event()

    async def answer(storage: Storage, request: Received, streams: Streams) -> None:
        if request.method == "POST":
            await answers(200, body=begun)(storage, request, streams)
        elif request.method == "DELETE":
            await answers(204)(storage, request, streams)
            aborted.set()
        else:
            await hangs(storage, request, streams)

    async def run() -> None:
        async with Storage(*[answer] * 20) as storage:
            monkeypatch.setenv("AWS_ENDPOINT_URL_S3", f"http://127.0.0.1:{storage.port}")
            store = S3Store(("s3://graphs",), S3Limits(part_bytes=PART_BYTES, idle_s=1.0, attempts=1))
            upload = asyncio.create_task(store.put("s3://graphs/graph.json", [LARGE], compress=False))
            await storage.read.wait()
            upload.cancel()
            with pytest.raises(asyncio.CancelledError):
                await upload
            await aborted.wait()
            await store.aclose()
        assert storage.received[-1].target.endswith("?uploadId=one")

    asyncio.run(asyncio.wait_for(run(), 20))


def test_no_credentials_are_looked_for_before_the_first_graph(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(boto3.session, "Session", None)
    store = S3Store(("s3://graphs",))
    assert store.check("s3://graphs/a.json").key == "a.json"
    asyncio.run(store.aclose())
