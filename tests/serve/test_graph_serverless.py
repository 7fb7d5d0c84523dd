"""Serverless jobs of the graph routes: the same envelope as for steering, and the routes' own replies in it."""

import time
from typing import Any
from urllib.parse import urlsplit

import orjson
import pytest

from tests.serve.conftest import DEMO, RunningCluster
from tests.serve.demo_graphs import COUNT, LONG, STEER, graph_request
from tests.serve.test_serverless import followed, post


def as_answered(cluster: RunningCluster, path: str, body: dict[str, Any]) -> dict[str, Any]:
    response = cluster.post(path, body)
    assert response.status_code == 200, response.text
    return undated(response.json())


def undated(document: dict[str, Any]) -> dict[str, Any]:
    """A reply without the time that a graph was made at."""
    if "metadata" in document:
        document["metadata"]["info"].pop("create_time_ms")
    return document


@pytest.mark.parametrize("type_", [{}, {"request_type": "graph"}], ids=["seed", "typed"])
def test_a_graph_job_is_answered_with_the_graph(cluster: RunningCluster, type_: dict[str, Any]) -> None:
    job = post(cluster, "/runsync", **COUNT, **type_)
    assert job["status"] == "COMPLETED", job
    assert set(job) == {"id", "status", "output", "delayTime", "executionTime"}
    assert undated(job["output"]) == as_answered(cluster, "/generate-graph", COUNT)


def test_a_graph_job_is_followed_by_its_stream_and_found_later(cluster: RunningCluster) -> None:
    accepted = post(cluster, "/run", **COUNT, deadline=time.time() + 60)
    outputs, ended = followed(cluster, accepted["id"])
    assert ended == {"status": "COMPLETED", "stream": []}
    (graph,) = outputs
    assert graph["metadata"]["slug"] == COUNT["slug_identifier"]
    for _ in range(2):  # it can be had more than once
        found = cluster.get(f"/status/{accepted['id']}").json()
        assert (found["status"], found["output"]) == ("COMPLETED", graph)


@pytest.mark.parametrize(
    ("type_", "body"),
    [
        ("forward-pass", {"prompt": "1 2 ", "model_id": DEMO}),
        ("steer", STEER),
        ("parse-chat-prompt", {"prompt": "<|user|>\nLe chat dort.<|end|>\n<|assistant|>\n"}),
    ],
)
def test_every_type_has_its_routes_reply(cluster: RunningCluster, type_: str, body: dict[str, Any]) -> None:
    job = post(cluster, "/runsync", request_type=type_, **body)
    assert job["status"] == "COMPLETED", job
    assert job["output"] == as_answered(cluster, f"/{type_}", body)


def test_a_graph_goes_to_its_signed_url_and_the_credentials_go_nowhere_else(
    cluster: RunningCluster, bucket: Any
) -> None:
    where = {"Bucket": bucket.name, "Key": "jobs/count.json", "ContentType": "application/json"}
    signed = bucket.meta.client.generate_presigned_url("put_object", Params=where)
    job = post(cluster, "/runsync", **COUNT, signed_url=signed)
    assert job["status"] == "COMPLETED", job
    url = signed.removesuffix(f"?{urlsplit(signed).query}")
    assert job["output"]["success"] == f"Graph uploaded successfully to url: {url}"
    assert job["output"]["error"] is None
    stored = orjson.loads(bucket.Object("jobs/count.json").get()["Body"].read())
    assert undated(stored) == as_answered(cluster, "/generate-graph", COUNT)


@pytest.mark.parametrize("input_", [COUNT, STEER | {"request_type": "steer"}], ids=["graph", "steer"])
def test_a_job_that_comes_too_late_is_not_begun(cluster: RunningCluster, input_: dict[str, Any]) -> None:
    deadline = int(time.time()) - 100
    output = post(cluster, "/runsync", **input_, deadline=deadline)["output"]
    assert output.keys() == {"error", "server_time", "deadline", "delta_seconds"}
    assert output["error"].startswith(f"Request deadline exceeded by {output['delta_seconds']:.2f} seconds")
    assert output["deadline"] == deadline
    assert output["delta_seconds"] >= 100


@pytest.mark.parametrize(
    ("input_", "words"),
    [
        ({"request_type": "health"}, "Unknown request type: health"),
        ({"request_type": "steer", "prompt": "x"}, "The input is no steer request: model_id: Field required"),
        (COUNT | {"model_id": "nobody"}, f"Model 'nobody' is not available. Only '{DEMO}' is currently loaded"),
        (COUNT | {"node_threshold": 2}, "node_threshold must be from 0 to 1, got 2.0"),
        (COUNT | {"signed_url": "https://10.0.0.1/x?signature=secret"}, ""),
    ],
    ids=["type", "schema", "model", "threshold", "url"],
)
def test_a_mistake_is_the_jobs_failure(cluster: RunningCluster, input_: dict[str, Any], words: str) -> None:
    job = post(cluster, "/runsync", **input_)
    assert (job["status"], "output" in job) == ("FAILED", False)
    assert job["error"].startswith(words)
    assert "secret" not in job["error"]


def test_a_cancelled_graph_job_ends(cluster: RunningCluster) -> None:
    jobs = [post(cluster, "/run", **graph_request(LONG, max_feature_nodes=0))["id"] for _ in range(12)]
    ends = [cluster.post(f"/cancel/{job}", {}).json()["status"] for job in jobs]
    assert ends[-1] == "CANCELLED"  # it waited for eight others, each of which takes a second
    assert set(ends) <= {"CANCELLED", "COMPLETED"}
    assert [cluster.get(f"/status/{job}").json()["status"] for job in jobs] == ends
    assert post(cluster, "/runsync", **COUNT)["status"] == "COMPLETED"
