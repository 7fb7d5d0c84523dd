"""Two models and three Runner deployments on two logical GPUs: they pack by their fractions and scale one by one."""

import asyncio
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
import ray

from cluster.arguments import GatewayArgs, ModelAppArgs
from tests.ray_testing import deploy, replicas, serve_instance, wait_for_replicas
from tests.tiny_models import LLAMA_ID, save_sae_folder

HOOK = "blocks.1.hook_resid_post"


@pytest.fixture(scope="module")
def url(hub: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    from deployments.app import build_gateway, build_model_app

    root = tmp_path_factory.mktemp("saes")
    folders = {name: str(save_sae_folder(root / name, name, {1: HOOK})) for name in ("narrow", "wide")}
    with serve_instance(num_gpus=2) as address:
        deploy(build_gateway, GatewayArgs.model_validate({"num_cpus": 0.1}), "gateway", "/")
        quick = {"upscale_delay_s": 0.5, "downscale_delay_s": 1.0, "num_cpus": 0.1, "threads": 1}
        llama = {
            "model": LLAMA_ID,
            "device": "cpu",
            "runners": [
                {
                    "name": name,
                    "source_sets": [name],
                    "source_folders": {name: folders[name]},
                    "num_gpus": share,
                    **quick,
                    **scaling,
                }
                for name, share, scaling in (
                    ("narrow", 0.25, {"max_replicas": 3, "target_ongoing_requests": 2}),
                    ("wide", 0.5, {}),
                )
            ],
        }
        deploy(build_model_app, ModelAppArgs.model_validate(llama), "llama", None)
        gpt2 = {"model": "gpt2-small", "device": "cpu", "runners": [{"name": "plain", "num_gpus": 0.75, **quick}]}
        deploy(build_model_app, ModelAppArgs.model_validate(gpt2), "gpt2", None)
        yield address


def gpus_reserved() -> float:
    return 2 - ray.available_resources().get("GPU", 0.0)


def body(source: str) -> dict[str, str]:
    return {"prompt": "Hello world " * 20, "model": LLAMA_ID, "source": source, "index": "3"}


def test_three_runners_of_two_models_share_two_gpus_by_their_fractions(url: str) -> None:
    assert gpus_reserved() == pytest.approx(0.25 + 0.5 + 0.75)
    for source in ("1-narrow", "1-wide"):
        assert httpx.post(f"{url}/v1/activation/single", json=body(source), timeout=60).status_code == 200
    assert (
        httpx.post(f"{url}/v1/activation/raw", json={"prompts": ["x"], "model": "gpt2-small"}, timeout=60).status_code
        == 200
    )
    assert [replicas("llama", "narrow"), replicas("llama", "wide"), replicas("gpt2", "plain")] == [1, 1, 1]


def test_one_runner_scales_under_load_and_back_while_the_others_stay(url: str) -> None:
    async def load(stop: asyncio.Event) -> int:
        answered = 0

        async def client(session: httpx.AsyncClient) -> None:
            nonlocal answered
            while not stop.is_set():
                response = await session.post(f"{url}/v1/activation/single", json=body("1-narrow"))
                assert response.status_code == 200, response.text
                answered += 1

        async with httpx.AsyncClient(timeout=60, limits=httpx.Limits(max_connections=None)) as session:
            await asyncio.gather(*(client(session) for _ in range(24)))
        return answered

    async def run() -> int:
        stop = asyncio.Event()
        work = asyncio.create_task(load(stop))
        try:
            await asyncio.to_thread(wait_for_replicas, "llama", "narrow", 3, 120)
        finally:
            stop.set()
        return await work

    assert asyncio.run(run()) > 0
    assert gpus_reserved() == pytest.approx(3 * 0.25 + 0.5 + 0.75)
    wait_for_replicas("llama", "wide", 1)
    wait_for_replicas("gpt2", "plain", 1)
    wait_for_replicas("llama", "narrow", 1, 120)


def test_a_share_that_fits_on_no_gpu_is_refused_with_the_key(tmp_path: Path) -> None:
    from pydantic import ValidationError

    with pytest.raises(ValidationError, match=r"runners\.0\.num_gpus"):
        ModelAppArgs.model_validate({"model": "gpt2-small", "runners": [{"num_gpus": 1.5}]})
