"""Too much load, and a replica that dies: clients get 429 with a time, or an answer, and never a 500."""

import asyncio
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import ray

from cluster.arguments import GatewayArgs, ModelAppArgs
from tests.ray_testing import deploy, serve_instance, wait_for_replicas
from tests.tiny_models import LLAMA_ID, save_sae_folder

BODY = {"prompt": "Hello world " * 20, "model": LLAMA_ID, "source": "1-mine", "index": "3"}


@pytest.fixture(scope="module")
def url(hub: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    from deployments.app import build_gateway, build_model_app

    folder = save_sae_folder(tmp_path_factory.mktemp("saes"), "mine", {1: "blocks.1.hook_resid_post"})
    runner = {
        "source_sets": ["mine"],
        "source_folders": {"mine": str(folder)},
        "max_ongoing_requests": 4,
        "max_queued_requests": 4,
        "num_cpus": 0.1,
        "threads": 1,
    }
    with serve_instance() as address:
        deploy(build_gateway, GatewayArgs.model_validate({"num_cpus": 0.1}), "gateway", "/")
        deploy(build_model_app, ModelAppArgs.model_validate({"model": LLAMA_ID, "runners": [runner]}), "llama", None)
        yield address


async def ask_many(url: str, count: int, each: int = 1) -> list[httpx.Response]:
    async with httpx.AsyncClient(timeout=90, limits=httpx.Limits(max_connections=None)) as client:

        async def one() -> list[httpx.Response]:
            return [await client.post(f"{url}/v1/activation/single", json=BODY) for _ in range(each)]

        return [response for answers in await asyncio.gather(*(one() for _ in range(count))) for response in answers]


def test_too_many_requests_are_told_when_to_come_back(url: str) -> None:
    responses = asyncio.run(ask_many(url, 64))
    statuses = Counter(response.status_code for response in responses)
    assert set(statuses) == {200, 429}
    for refused in (response for response in responses if response.status_code == 429):
        assert int(refused.headers["retry-after"]) >= 1
        assert refused.json()["code"] == "overloaded"


def test_a_dying_replica_costs_a_retry_and_not_a_request(url: str) -> None:
    expected = httpx.post(f"{url}/v1/activation/single", json=BODY, timeout=60).json()
    victim = replica_actor()

    async def run() -> list[httpx.Response]:
        asking = asyncio.create_task(ask_many(url, 3, each=6))
        await asyncio.to_thread(ray.kill, victim, no_restart=True)
        return await asking

    responses = asyncio.run(run())
    assert {response.status_code for response in responses} == {200}
    assert all(
        response.json()["activation"]["values"] == pytest.approx(expected["activation"]["values"], abs=1e-4)
        for response in responses
    )
    wait_for_replicas("llama", "Runner", 1)


def replica_actor() -> Any:
    names = [actor["name"] for actor in ray.util.list_named_actors(all_namespaces=True)]
    name = next(name for name in names if name.startswith("SERVE_REPLICA::llama#Runner#"))
    return ray.get_actor(name, namespace="serve")
