"""Graphs that go to storage: to a signed URL, to a bucket of the cluster's own, or, refused, nowhere."""

import asyncio
import gzip
import json
from collections.abc import Callable, Coroutine
from typing import Any

import httpx
import pytest

from tests.serve.conftest import BUCKET, RunningCluster
from tests.serve.demo_graphs import COUNT
from tests.serve.test_graphs import check_document, graph
from tests.unit.graph.storage import Answer, Storage, answers, breaks

QUERY = "X-Amz-Credential=AKIDSECRET&X-Amz-Signature=5f2d1c0a9b8e7d6c"


def with_storage(*wanted: Answer) -> Callable[[Callable[[Storage], Coroutine[Any, Any, Any]]], Any]:
    """Runs with a storage on this machine."""

    def run(test: Callable[[Storage], Coroutine[Any, Any, Any]]) -> Any:
        async def running() -> Any:
            async with Storage(*wanted) as storage:
                return await asyncio.wait_for(test(storage), 60)

        return asyncio.run(running())

    return run


async def ask(cluster: RunningCluster, request: dict[str, Any], path: str = "/generate-graph") -> httpx.Response:
    async with httpx.AsyncClient(timeout=60) as client:
        return await client.post(f"{cluster.url}{path}", json=request)


def url(storage: Storage, query: str = f"?{QUERY}") -> str:
    return f"http://127.0.0.1:{storage.port}/user-graphs/ann/1.json{query}"


def stored(body: bytes, cluster: RunningCluster) -> None:
    """Checks that a body is the seed's graph."""
    check_document(body)
    document, answered = json.loads(body), graph(cluster, COUNT)
    assert (document["nodes"], document["links"]) == (answered["nodes"], answered["links"])
    assert document["metadata"]["info"]["creator_name"] == "ann"


@pytest.mark.parametrize("compress", [False, True])
def test_a_graph_is_put_to_a_signed_url_with_the_signed_headers(cluster: RunningCluster, compress: bool) -> None:
    @with_storage(answers(200))
    async def received(storage: Storage) -> Any:
        request = COUNT | {"signed_url": url(storage), "compress": compress, "user_id": "ann"}
        response = await ask(cluster, request)
        assert response.status_code == 200
        said = f"Graph uploaded successfully to url: {url(storage, query='')}"
        assert (response.json()["success"], response.json()["error"]) == (said, None)
        assert "X-Amz" not in response.text
        return storage.received

    (one,) = received
    assert (one.method, one.target) == ("PUT", f"/user-graphs/ann/1.json?{QUERY}")
    assert one.header("content-type") == "application/json"
    assert one.header("content-encoding") == ("gzip" if compress else None)
    stored(gzip.decompress(bytes(one.body)) if compress else bytes(one.body), cluster)


def test_the_seeds_upload_to_a_presigned_url_of_s3_arrives(cluster: RunningCluster, bucket: Any) -> None:
    signed = bucket.meta.client.generate_presigned_url(
        "put_object", Params={"Bucket": BUCKET, "Key": "user-graphs/ann/1.json", "ContentType": "application/json"}
    )
    answer = cluster.post("/generate-graph", COUNT | {"signed_url": signed, "compress": True, "user_id": "ann"}).json()
    assert answer["error"] is None
    assert "Signature" not in answer["success"]
    kept = bucket.Object("user-graphs/ann/1.json").get()
    assert (kept["ContentType"], kept["ContentEncoding"]) == ("application/json", "gzip")
    stored(gzip.decompress(kept["Body"].read()), cluster)


def test_a_storage_that_stumbles_is_tried_again(cluster: RunningCluster) -> None:
    @with_storage(answers(503), breaks(1000), answers(204))
    async def received(storage: Storage) -> Any:
        response = await ask(cluster, COUNT | {"signed_url": url(storage), "user_id": "ann"})
        assert response.json()["error"] is None
        return storage.received

    assert len(received) == 3
    stored(bytes(received[-1].body), cluster)


@pytest.mark.parametrize("status", [400, 403, 302])
def test_a_storage_that_refuses_is_told_in_the_peers_words(cluster: RunningCluster, status: int) -> None:
    @with_storage(answers(status, ["Location: http://127.0.0.1/elsewhere"], b"<Signature>5f2d1c0a9b8e7d6c</Signature>"))
    async def response(storage: Storage) -> httpx.Response:
        return await ask(cluster, COUNT | {"signed_url": url(storage)})

    assert response.status_code == 200
    answer = response.json()
    assert (answer["success"], answer["error"]) == (None, "Failed to upload file")
    assert str(status) in answer["detail"]
    assert "5f2d1c0a9b8e7d6c" not in response.text


def test_a_graph_in_the_background_says_where_it_went_or_why_it_did_not(cluster: RunningCluster) -> None:
    @with_storage(answers(200), answers(403))
    async def states(storage: Storage) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = []
        async with httpx.AsyncClient(timeout=60) as client:
            for _ in range(2):
                begun = await ask(cluster, COUNT | {"signed_url": url(storage)}, "/graphs")
                job_id = begun.json()["id"]
                followed = await client.get(f"{cluster.url}/graphs/{job_id}/events")
                assert followed.status_code == 200
                found.append((await client.get(f"{cluster.url}/graphs/{job_id}")).json())
        return found

    there, not_there = states
    assert there["status"] == "COMPLETED"
    assert there["upload"]["success"].startswith("Graph uploaded successfully to url: http://127.0.0.1:")
    assert "graph" not in there
    assert (not_there["status"], "upload" in not_there) == ("FAILED", False)
    assert "403" in not_there["error"]
    assert QUERY not in json.dumps(states)


@pytest.mark.parametrize("compress", [False, True])
def test_a_graph_in_the_clusters_bucket_can_be_fetched_by_whoever_has_the_answer(
    cluster: RunningCluster, bucket: Any, compress: bool
) -> None:
    place = f"s3://{BUCKET}/ours/{compress}.json"
    answer = cluster.post(
        "/generate-graph", COUNT | {"destination": place, "compress": compress, "user_id": "ann"}
    ).json()
    assert answer["success"] == f"Graph uploaded successfully to url: {place}"
    fetched = httpx.get(answer["url"], timeout=60)
    assert (fetched.status_code, fetched.headers["content-type"]) == (200, "application/json")
    assert fetched.headers.get("content-encoding") == ("gzip" if compress else None)
    stored(fetched.content, cluster)
    assert bucket.Object(f"ours/{compress}.json").content_type == "application/json"


def test_a_graph_pruned_anew_can_go_to_storage_too(cluster: RunningCluster, bucket: Any) -> None:
    job_id = cluster.post("/graphs", COUNT).json()["id"]
    assert cluster.get(f"/graphs/{job_id}/events").status_code == 200
    thresholds = {"node_threshold": 0.6, "edge_threshold": 0.9}
    answer = cluster.post(f"/graphs/{job_id}/prune", thresholds | {"destination": f"s3://{BUCKET}/pruned.json"}).json()
    assert answer["error"] is None
    kept = json.loads(bucket.Object("pruned.json").get()["Body"].read())
    assert kept["links"] == graph(cluster, COUNT | thresholds)["links"]


@pytest.mark.parametrize(
    "place",
    [
        {"signed_url": "http://storage.example.com/graph.json?signature=hunter2"},
        {"signed_url": "https://169.254.169.254/latest?signature=hunter2"},
        {"signed_url": "https://10.0.0.1/graph.json?signature=hunter2"},
        {"signed_url": "https://ann:hunter2@storage.example.com/graph.json"},
        {"signed_url": "file:///etc/passwd?hunter2"},
        {"signed_url": "nonsense?hunter2"},
        {"destination": "s3://somebody-elses/graph.json"},
        {"destination": f"s3://{BUCKET}/../other/graph.json"},
        {"destination": f"s3://{BUCKET}"},
        {"destination": f"s3://{BUCKET}/a.json", "signed_url": "https://storage.example.com/graph.json?hunter2"},
    ],
    ids=lambda place: next(iter(place.values())).partition("?")[0],
)
@pytest.mark.parametrize("path", ["/generate-graph", "/graphs"])
def test_a_place_that_graphs_may_not_go_to_is_refused_and_not_repeated(
    cluster: RunningCluster, path: str, place: dict[str, str]
) -> None:
    response = cluster.post(path, COUNT | place)
    assert response.status_code == 400, response.text
    assert response.json()["code"] in ("url_refused", "invalid_request")
    assert "hunter2" not in response.text
