"""Many clients at once: every answer equals the one given alone, and batches really form."""

import asyncio
import random
from typing import Any

import httpx
import pytest

from tests.serve.conftest import DEMO, GPT2, RunningCluster

TEXTS = [
    "Le chat dort sur le tapis.",
    "The capital of France is Paris.",
    "uno dos tres cuatro",
    "Hello 👋",
    "3 + 4 = 7",
    "x",
]
CLIENTS = 16
REQUESTS_EACH = 8


def questions(rng: random.Random) -> tuple[str, dict[str, Any]]:
    text = rng.choice(TEXTS)
    model, source_set = rng.choice([(DEMO, "res-demo"), (DEMO, "att-demo"), (GPT2, "res-jb")])
    source = f"{rng.randrange(4)}-{source_set}"
    return rng.choice(
        [
            (
                "/v1/activation/single",
                {"prompt": text, "model": model, "source": source, "index": str(rng.randrange(90))},
            ),
            (
                "/v1/activation/all",
                {
                    "prompt": text,
                    "model": model,
                    "sourceSet": source_set,
                    "selectedSources": [],
                    "sortByTokenIndexes": [],
                    "ignoreBos": True,
                    "numResults": 5,
                },
            ),
            (
                "/v1/activation/topk-by-token",
                {"prompt": text, "model": model, "source": source, "topK": 2, "ignoreBos": True},
            ),
            ("/v1/activation/source", {"prompts": [text], "model": model, "source": source}),
            ("/v1/activation/raw", {"prompts": [text, "y"], "model": model, "layers": [1, 3]}),
            ("/v1/activation/attention", {"prompt": text, "model": model, "layer": 2, "head": 1}),
            ("/v1/tokenize", {"text": text, "model": model}),
            (
                "/v1/util/sae-topk-by-decoder-cossim",
                {
                    "feature": {"model": model, "source": source, "index": 5},
                    "model": model,
                    "source": source,
                    "numResults": 3,
                },
            ),
            ("/v1/activation/single", {"prompt": text, "model": model, "source": source, "index": "99999999"}),
        ]
    )


def same(one: Any, other: Any) -> bool:
    if isinstance(one, dict):
        keys = set(one) - {"requestId"}
        return keys == set(other) - {"requestId"} and all(same(one[key], other[key]) for key in keys)
    if isinstance(one, list):
        return len(one) == len(other) and all(same(a, b) for a, b in zip(one, other, strict=True))
    if isinstance(one, float) and isinstance(other, (int, float)):
        return one == pytest.approx(other, abs=2e-3, rel=1e-3)
    return one == other


def test_sixteen_clients_mixing_routes_get_the_sequential_answers(cluster: RunningCluster) -> None:
    rng = random.Random(7)
    scripts = [[questions(rng) for _ in range(REQUESTS_EACH)] for _ in range(CLIENTS)]

    async def run_client(client: httpx.AsyncClient, script: list[Any]) -> list[Any]:
        return [(await client.post(f"{cluster.url}{path}", json=body)).json() for path, body in script]

    async def run_all() -> list[list[Any]]:
        async with httpx.AsyncClient(timeout=120) as client:
            return await asyncio.gather(*(run_client(client, script) for script in scripts))

    together = asyncio.run(run_all())
    for script, answers in zip(scripts, together, strict=True):
        for (path, body), answer in zip(script, answers, strict=True):
            alone = cluster.post(path, body).json()
            assert same(alone, answer), (path, body)


def test_a_client_that_leaves_does_not_disturb_the_others(cluster: RunningCluster) -> None:
    body = {"prompt": TEXTS[0], "model": DEMO, "source": "2-res-demo", "index": "17"}
    expected = cluster.post("/v1/activation/single", body).json()

    async def run() -> list[Any]:
        async with httpx.AsyncClient(timeout=60) as client:
            leaving = [
                asyncio.create_task(client.post(f"{cluster.url}/v1/activation/single", json=body)) for _ in range(20)
            ]
            await asyncio.sleep(0)
            staying = [
                asyncio.create_task(client.post(f"{cluster.url}/v1/activation/single", json=body)) for _ in range(20)
            ]
            for task in leaving[::2]:
                task.cancel()
            return [response.json() for response in await asyncio.gather(*staying)]

    assert all(same(expected, answer) for answer in asyncio.run(run()))
