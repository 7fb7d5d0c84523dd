"""The stages of a graph application share a budget of devices, by the policy that `serve_config.yaml` names."""

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import ray
from ray import serve
from ray._common.test_utils import wait_for_condition
from ray.serve.context import _get_global_client
from ray.serve.schema import ServeDeploySchema

from cluster.arguments import GatewayArgs
from tests.ray_testing import deploy, serve_instance, wait_for_replicas

GRAPH = {
    "prompt": " ".join(["Le chat dort sur le tapis et mange."] * 5),
    "model_id": "rayscope-demo",
    "slug_identifier": "a-graph",
    "max_feature_nodes": 0,
}
TRACER, ATTRIBUTOR = 0.5, 0.25
DEVICES = 2  # twice what the policy may deal out
CLIENTS = 6


def application() -> dict[str, Any]:
    delays = {"upscale_delay_s": 1, "downscale_delay_s": 2}
    stage = {"num_cpus": 0.1, "threads": 1, "target_ongoing_requests": 1, **delays}
    return {
        "name": "graphs",
        "route_prefix": None,
        "import_path": "deployments.graph.app:build_graph_app",
        "autoscaling_policy": {
            "policy_function": "cluster.policies:ShareDevices",
            "policy_kwargs": {"devices": 1, "shares": {"Tracer": TRACER, "Attributor": ATTRIBUTOR}},
        },
        "args": {
            "model": "rayscope-demo",
            "device": "cpu",
            "transcoder_set": "plt-demo",
            "working_gib": 1,
            "kept_gib": 0,
            "tracer": stage | {"num_gpus": TRACER, "max_replicas": 2},
            "attributor": stage | {"num_gpus": ATTRIBUTOR, "max_replicas": 4},
            "publisher": {"num_cpus": 0.1},
        },
    }


@pytest.fixture(scope="module")
def url(hub: Path) -> Iterator[str]:
    from deployments.app import build_gateway

    with serve_instance(num_gpus=DEVICES) as address:
        client: Any = _get_global_client()
        client.deploy_apps(ServeDeploySchema.model_validate({"applications": [application()]}), _blocking=True)
        deploy(build_gateway, GatewayArgs.model_validate({"num_cpus": 0.1}), "gateway", "/")
        yield address


def planned(deployment: str) -> int:
    """Replicas that run, start or stop."""
    return sum(serve.status().applications["graphs"].deployments[deployment].replica_states.values())


def taken() -> float:
    """Devices that are reserved; Ray's count is a moment old."""
    return DEVICES - ray.available_resources().get("GPU", 0.0)


def test_the_busiest_stage_gets_what_is_left_of_the_budget_and_gives_it_back(url: str) -> None:
    async def load(stop: asyncio.Event) -> None:
        async with httpx.AsyncClient(timeout=120) as session:

            async def client() -> None:
                while not stop.is_set():
                    response = await session.post(f"{url}/generate-graph", json=GRAPH)
                    assert response.status_code == 200, response.text

            await asyncio.gather(*(client() for _ in range(CLIENTS)))

    async def run() -> None:
        stop = asyncio.Event()
        loading = asyncio.create_task(load(stop))
        try:
            await asyncio.to_thread(wait_for_replicas, "graphs", "Attributor", 2, 120)
            # All of them have work, four would fit on the devices, and the budget is spent.
            assert planned("Attributor") == 2
            assert planned("Tracer") == 1
            await asyncio.to_thread(wait_for_condition, lambda: taken() == pytest.approx(TRACER + 2 * ATTRIBUTOR), 20)
        finally:
            stop.set()
            await loading

    asyncio.run(run())
    wait_for_condition(lambda: planned("Attributor") == 1, timeout=120, retry_interval_ms=500)
