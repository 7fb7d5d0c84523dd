"""Graphs in the background: followed, seen in part, pruned anew, stopped; and graphs that nobody waits for any more."""

import asyncio
import json
from collections.abc import AsyncGenerator
from typing import Any

import httpx
import pytest
from ray import serve
from ray._common.test_utils import wait_for_condition

from tests.serve.conftest import GRAPHS, RunningCluster
from tests.serve.demo_graphs import COUNT, LONG, LONGEST, graph_request
from tests.serve.test_graphs import check_document, graph
from tests.unit.graph.storage import Storage, answers, hangs

ENDED = ("COMPLETED", "FAILED", "CANCELLED")


def held_bytes() -> int:
    """Memory that the attributor has promised to graphs."""
    attributor: Any = serve.get_deployment_handle("Attributor", GRAPHS)
    return attributor.held_bytes.remote().result(timeout_s=20)


async def events(client: httpx.AsyncClient, url: str, job_id: str) -> AsyncGenerator[dict[str, Any]]:
    async with client.stream("GET", f"{url}/graphs/{job_id}/events") as response:
        assert response.status_code == 200
        assert response.headers["content-type"].startswith("text/event-stream")
        async for line in response.aiter_lines():
            if line.startswith("data: "):
                yield json.loads(line.removeprefix("data: "))


def begun(cluster: RunningCluster, request: dict[str, Any]) -> str:
    """The id of a graph that was asked for."""
    response = cluster.post("/graphs", request)
    assert response.status_code == 202, response.text
    job = response.json()
    assert response.headers["location"] == f"/graphs/{job['id']}"
    assert job["status"] in ("IN_QUEUE", "IN_PROGRESS")
    assert job["progress"]["rows_done"] == 0
    return job["id"]


def followed(cluster: RunningCluster, job_id: str) -> list[dict[str, Any]]:
    """All that a graph's events say."""

    async def run() -> list[dict[str, Any]]:
        async with httpx.AsyncClient(timeout=60) as client:
            return [event async for event in events(client, cluster.url, job_id)]

    return asyncio.run(run())


def finished(cluster: RunningCluster, request: dict[str, Any]) -> str:
    """The id of a graph that is finished."""
    job_id = begun(cluster, request)
    last = followed(cluster, job_id)[-1]
    assert last["status"] == "COMPLETED", last
    return job_id


def test_a_graph_is_followed_until_it_is_there(cluster: RunningCluster) -> None:
    request = graph_request(LONG)
    job_id = begun(cluster, request)
    seen = followed(cluster, job_id)
    assert {event["id"] for event in seen} == {job_id}
    assert [event["status"] for event in seen[:-1]] == ["IN_PROGRESS"] * (len(seen) - 1)
    assert seen[-1]["status"] == "COMPLETED"
    stages = [event["progress"]["stage"] for event in seen]
    order = ["queued", "trace", "attribute", "publish"]
    assert sorted(stages, key=order.index) == stages
    assert {"attribute", "publish"} <= set(stages)
    rows = [event["progress"]["rows_done"] for event in seen]
    assert rows == sorted(rows)
    assert len(set(rows)) > 5
    total = seen[-1]["progress"]["rows_total"]
    assert rows[-1] == total > 1000
    state = cluster.get(f"/graphs/{job_id}").json()
    assert (state["status"], state["partial"]) == ("COMPLETED", False)
    check_document(json.dumps(state["graph"]).encode())
    at_once = graph(cluster, request)
    assert (state["graph"]["nodes"], state["graph"]["links"]) == (at_once["nodes"], at_once["links"])
    assert followed(cluster, job_id)[-1] == seen[-1]  # who comes late is told the end


def test_a_part_of_a_large_graph_can_be_seen_before_it_is_finished(cluster: RunningCluster) -> None:
    """A storage that does not answer keeps the graph from being finished for as long as the test looks at it."""
    everything = {"node_threshold": 1, "edge_threshold": 1, "max_feature_nodes": 800}
    request = graph_request(LONG, **everything)

    async def run() -> tuple[dict[str, Any], dict[str, Any]]:
        async with Storage(hangs) as storage, httpx.AsyncClient(timeout=60) as client:
            signed = request | {"signed_url": f"http://127.0.0.1:{storage.port}/graph.json?signature=x"}
            job_id = (await client.post(f"{cluster.url}/graphs", json=signed)).json()["id"]
            async for event in events(client, cluster.url, job_id):
                if event["progress"]["stage"] == "publish":
                    break
            seen = (await client.get(f"{cluster.url}/graphs/{job_id}")).json()
            early = await client.post(f"{cluster.url}/graphs/{job_id}/prune", json={})
            assert (early.status_code, early.json()["code"]) == (404, "not_found")
            await asyncio.wait_for(storage.read.wait(), 60)
            stopped = (await client.delete(f"{cluster.url}/graphs/{job_id}")).json()
            await asyncio.wait_for(storage.left.wait(), 60)  # the upload is stopped, too
            return seen, stopped

    seen, stopped = asyncio.run(run())
    assert (seen["status"], seen["partial"]) == ("IN_PROGRESS", True)
    assert stopped["status"] == "CANCELLED"
    check_document(json.dumps(seen["graph"]).encode())
    whole = graph(cluster, request)
    weights = {(link["source"], link["target"]): link["weight"] for link in whole["links"]}
    partial = {(link["source"], link["target"]): link["weight"] for link in seen["graph"]["links"]}
    assert partial.items() < weights.items()
    assert len(partial) > len(weights) // 4


def test_a_finished_graph_is_pruned_anew_without_being_made_anew(cluster: RunningCluster) -> None:
    label = {"labels": {"0_0": "not in the graph"}}
    job_id = finished(cluster, COUNT | label)
    for node, edge in ((0.6, 0.9), (0.9, 0.8), (1.0, 1.0)):
        thresholds = {"node_threshold": node, "edge_threshold": edge}
        pruned = cluster.post(f"/graphs/{job_id}/prune", thresholds).json()
        check_document(json.dumps(pruned).encode())
        truth = graph(cluster, COUNT | thresholds)
        assert (pruned["nodes"], pruned["links"]) == (truth["nodes"], truth["links"])
        assert pruned["metadata"]["pruning_settings"] == thresholds
    feature = next(node for node in pruned["nodes"] if node["feature_type"] == "cross layer transcoder")
    name = feature["node_id"].rpartition("_")[0]
    named = cluster.post(f"/graphs/{job_id}/prune", thresholds | {"labels": {name: "numbers"}}).json()
    assert {node["clerp"] for node in named["nodes"] if node["node_id"].startswith(f"{name}_")} == {"numbers"}
    refused = cluster.post(f"/graphs/{job_id}/prune", {"node_threshold": 7})
    assert (refused.status_code, refused.json()["code"]) == (400, "invalid_request")


def test_a_deleted_graph_stops_and_its_memory_is_free(cluster: RunningCluster) -> None:
    async def run() -> tuple[dict[str, Any], dict[str, Any]]:
        async with httpx.AsyncClient(timeout=60) as client:
            job_id = (await client.post(f"{cluster.url}/graphs", json=graph_request(LONGEST))).json()["id"]
            async for event in events(client, cluster.url, job_id):
                if event["progress"]["rows_done"]:
                    break
            assert await asyncio.to_thread(held_bytes) > 0
            stopped = (await client.delete(f"{cluster.url}/graphs/{job_id}")).json()
            await asyncio.to_thread(wait_for_condition, lambda: held_bytes() == 0, 2, 20)
            gone = await client.get(f"{cluster.url}/graphs/{job_id}")
            assert (gone.status_code, gone.json()["code"]) == (404, "not_found")
            return event, stopped

    event, stopped = asyncio.run(run())
    assert stopped["status"] == "CANCELLED"
    assert stopped["progress"]["rows_done"] < event["progress"]["rows_total"]


def test_a_graph_that_nobody_waits_for_any_more_is_not_made(cluster: RunningCluster) -> None:
    async def run() -> None:
        async with Storage(answers(200)) as storage, httpx.AsyncClient(timeout=60) as client:
            signed = {"signed_url": f"http://127.0.0.1:{storage.port}/graph.json?signature=x"}
            asking = asyncio.create_task(
                client.post(f"{cluster.url}/generate-graph", json=graph_request(LONGEST) | signed)
            )
            await asyncio.to_thread(wait_for_condition, lambda: held_bytes() > 0, 60, 20)
            asking.cancel()
            await asyncio.gather(asking, return_exceptions=True)
            await asyncio.to_thread(wait_for_condition, lambda: held_bytes() == 0, 2, 20)
            after = await client.post(f"{cluster.url}/generate-graph", json=COUNT | signed)
            assert after.json()["error"] is None
            assert len(storage.received) == 1
            assert b"count-1-2" in storage.received[0].body

    asyncio.run(run())


def test_a_graph_that_can_not_be_shown_fails_with_the_reason(cluster: RunningCluster) -> None:
    stored = {"signed_url": "http://127.0.0.1:1/graph.json"}  # nothing is sent there
    job_id = begun(cluster, COUNT | stored | {"node_threshold": 0, "edge_threshold": 0})
    last = followed(cluster, job_id)[-1]
    assert last["status"] == "FAILED"
    assert "viewers cannot lay out" in last["error"]
    state = cluster.get(f"/graphs/{job_id}").json()
    assert (state["status"], "graph" in state) == ("FAILED", False)


@pytest.mark.parametrize("job_id", ["nonsense", f"{GRAPHS}.nonsense", "nobody.nonsense", ".", "%20"])
def test_a_graph_that_was_never_asked_for_is_not_found(cluster: RunningCluster, job_id: str) -> None:
    for verb, path in (("GET", ""), ("DELETE", ""), ("GET", "/events"), ("POST", "/prune")):
        response = httpx.request(verb, f"{cluster.url}/graphs/{job_id}{path}", json={}, timeout=60)
        assert response.status_code in (404, 405), (verb, path, response.text)
        assert response.json()["error"]
