"""A stage's replica that dies while a graph is made costs a retry of that stage and not the graph."""

import asyncio
import json
import os
import signal
from collections.abc import AsyncGenerator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
import ray
from ray import serve
from ray._common.test_utils import wait_for_condition

from cluster.arguments import GatewayArgs
from cluster.graph_arguments import GraphAppArgs
from tests.ray_testing import deploy, replicas, serve_instance
from tests.unit.graph.storage import Storage, answers, hangs

LONG = " ".join(["Le chat dort sur le tapis et mange."] * 5)
# Ranked after every 48 rows, so that rows are the tracer's; with all features, rows are the attributor's.
RERANKED = {"max_feature_nodes": 1500, "batch_size": 48}
RANKED_ONCE = {"max_feature_nodes": 0, "batch_size": 48}


@pytest.fixture(scope="module")
def url(hub: Path) -> Iterator[str]:
    from deployments.app import build_gateway
    from deployments.graph.app import build_graph_app

    stage = {"num_cpus": 0.1, "threads": 1}
    args = {
        "model": "rayscope-demo",
        "transcoder_set": "plt-demo",
        "update_interval": 1,
        "working_gib": 2,
        "kept_gib": 0,
        "uploads": {"allow_loopback": True},
        "tracer": stage,
        "attributor": stage,
        "publisher": stage,
    }
    with serve_instance() as address:
        deploy(build_gateway, GatewayArgs.model_validate({"num_cpus": 0.1}), "gateway", "/")
        deploy(build_graph_app, GraphAppArgs.model_validate(args), "graphs", None)
        yield address


def request(**wishes: Any) -> dict[str, Any]:
    return {"prompt": LONG, "model_id": "rayscope-demo", "slug_identifier": "a-graph", "edge_threshold": 0.8} | wishes


def replica(deployment: str) -> str | None:
    """The name of a deployment's replica, whatever it does."""
    actors: Any = ray.util.list_named_actors(all_namespaces=True)
    names: list[str] = [actor["name"] for actor in actors]
    return next((name for name in names if name.startswith(f"SERVE_REPLICA::graphs#{deployment}#")), None)


def kill(deployment: str) -> str:
    """Ends a replica as the kernel would, without a word to anybody; its name."""
    name = replica(deployment)
    assert name is not None
    victim: Any = ray.get_actor(name, namespace="serve")
    process, *_ = ray.get(victim.is_allocated.remote())
    os.kill(process, signal.SIGKILL)
    return name


def wait_for_heir(deployment: str, killed: str) -> None:
    """Waits until another replica runs in place of one that was killed."""
    wait_for_condition(
        lambda: replica(deployment) not in (None, killed) and replicas("graphs", deployment) == 1,
        timeout=180,
        retry_interval_ms=500,
    )


def changes(job_id: str) -> int:
    """How often something has happened to a background graph."""
    app_name, _, job = job_id.rpartition(".")
    handle: Any = serve.get_app_handle(app_name)
    return handle.state.remote(job).result(timeout_s=20).changes


@asynccontextmanager
async def begun(url: str, wishes: dict[str, Any]) -> AsyncGenerator[tuple[str, AsyncGenerator[dict[str, Any]]]]:
    """A graph in the background, and what its events say."""
    async with httpx.AsyncClient(timeout=120) as client:
        job_id = (await client.post(f"{url}/graphs", json=request(**wishes))).json()["id"]
        async with client.stream("GET", f"{url}/graphs/{job_id}/events") as response:

            async def events() -> AsyncGenerator[dict[str, Any]]:
                async for line in response.aiter_lines():
                    if line.startswith("data: "):
                        yield json.loads(line.removeprefix("data: "))

            yield job_id, events()


@pytest.mark.parametrize(
    ("victim", "wishes", "traced_again"),
    [("Tracer", RERANKED, True), ("Attributor", RANKED_ONCE, False)],
    ids=["Tracer", "Attributor"],
)
def test_a_replica_that_dies_among_the_rows_costs_a_retry(
    url: str, victim: str, wishes: dict[str, Any], traced_again: bool
) -> None:
    expected = httpx.post(f"{url}/generate-graph", json=request(**wishes), timeout=120).json()

    async def run() -> tuple[str, str, list[dict[str, Any]]]:
        async with begun(url, wishes) as (job_id, events):
            event = await anext(events)
            while not event["progress"]["rows_done"]:
                event = await anext(events)
            assert event["status"] == "IN_PROGRESS"
            assert event["progress"]["rows_done"] < event["progress"]["rows_total"]
            killed = await asyncio.to_thread(kill, victim)
            return job_id, killed, [event async for event in events]

    job_id, killed, after = asyncio.run(run())
    assert ("trace" in [event["progress"]["stage"] for event in after]) is traced_again
    assert after[-1]["status"] == "COMPLETED", after[-1]
    graph = httpx.get(f"{url}/graphs/{job_id}", timeout=120).json()["graph"]
    assert (graph["nodes"], graph["links"]) == (expected["nodes"], expected["links"])
    wait_for_heir(victim, killed)


def test_a_tracer_that_dies_when_its_part_is_done_costs_nothing_that_is_seen(url: str) -> None:
    async def run() -> tuple[str, list[dict[str, Any]]]:
        async with begun(url, RANKED_ONCE) as (_, events):
            async for event in events:
                if event["progress"]["rows_done"]:
                    break
            killed = await asyncio.to_thread(kill, "Tracer")
            return killed, [event async for event in events]

    killed, after = asyncio.run(run())
    assert after[-1]["status"] == "COMPLETED"
    wait_for_heir("Tracer", killed)


def test_a_publisher_that_dies_while_it_uploads_costs_an_upload_and_no_rows(url: str) -> None:
    async def run() -> tuple[str, list[dict[str, Any]], list[Any], int]:
        async with Storage(hangs, answers(200)) as storage:
            signed = {"signed_url": f"http://127.0.0.1:{storage.port}/graph.json", "max_feature_nodes": 200}
            async with begun(url, signed) as (job_id, events):
                await asyncio.wait_for(storage.read.wait(), 120)
                before = await asyncio.to_thread(changes, job_id)
                killed = await asyncio.to_thread(kill, "Publisher")
                seen = [event async for event in events]
                return killed, seen, storage.received, await asyncio.to_thread(changes, job_id) - before

    killed, seen, received, happened = asyncio.run(run())
    assert seen[-1]["status"] == "COMPLETED"
    assert happened == 3  # it was published again, was there, and had ended
    first, second = (json.loads(bytes(one.body)) for one in received)
    assert (first["nodes"], first["links"]) == (second["nodes"], second["links"])
    wait_for_heir("Publisher", killed)


def test_a_publisher_and_an_attributor_that_die_at_once_cost_the_rows_and_no_trace(url: str) -> None:
    async def run() -> tuple[dict[str, str], list[dict[str, Any]]]:
        async with Storage(hangs, answers(200)) as storage:
            signed = {"signed_url": f"http://127.0.0.1:{storage.port}/graph.json", "max_feature_nodes": 200}
            async with begun(url, signed) as (_, events):
                await asyncio.wait_for(storage.read.wait(), 120)
                while (await anext(events))["progress"]["stage"] != "publish":
                    pass
                killed = {victim: await asyncio.to_thread(kill, victim) for victim in ("Attributor", "Publisher")}
                return killed, [event async for event in events]

    killed, after = asyncio.run(run())
    assert after[-1]["status"] == "COMPLETED"
    assert "trace" not in [event["progress"]["stage"] for event in after]
    for victim, name in killed.items():
        wait_for_heir(victim, name)


def test_what_was_kept_by_a_replica_that_died_is_said_to_be_lost_and_no_server_error(url: str) -> None:
    async def run() -> str:
        async with begun(url, {"max_feature_nodes": 200}) as (job_id, events):
            assert [event async for event in events][-1]["status"] == "COMPLETED"
            return job_id

    job_id = asyncio.run(run())
    assert httpx.get(f"{url}/graphs/{job_id}", timeout=120).status_code == 200
    killed = {victim: kill(victim) for victim in ("Publisher", "Attributor")}
    for victim, name in killed.items():
        wait_for_heir(victim, name)
    for ask in (
        lambda: httpx.get(f"{url}/graphs/{job_id}", timeout=120),
        lambda: httpx.post(f"{url}/graphs/{job_id}/prune", json={}, timeout=120),
    ):
        # What lies on this node is there until the node has heard of its owner's death.
        wait_for_condition(lambda ask=ask: _is_lost(ask()), timeout=60, raise_exceptions=True)
    assert httpx.post(f"{url}/generate-graph", json=request(max_feature_nodes=50), timeout=120).status_code == 200


def _is_lost(answer: httpx.Response) -> bool:
    if answer.status_code == 200:
        return False
    assert (answer.status_code, answer.json()["code"]) == (503, "unavailable"), answer.text
    return "lost" in answer.json()["error"]
