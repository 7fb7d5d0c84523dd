"""Too many graphs at once: they wait, are told when to come back, or, where nothing may wait, what the peer says."""

import asyncio
from collections.abc import AsyncGenerator, Iterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest
from ray import serve
from ray._common.test_utils import wait_for_condition

from cluster.graph_arguments import GraphAppArgs
from core.engine.model import EagerModel
from core.graph.attribution import Choice, attribute
from core.graph.autograd import Autograd
from core.graph.prompt import prompt_tokens
from core.graph.pruning import prune
from core.graph.targets import Place, Unembedding, salient_targets
from core.graph.transcoders.opening import open_transcoders
from core.prompts import PromptTokenizer
from tests.ray_testing import deploy
from tests.serve.conftest import MAX_GRAPHS, MAX_QUEUED_GRAPHS, RunningCluster
from tests.serve.demo_graphs import COUNT, graph_request
from tests.tiny_models import D_MODEL, LLAMA_ID
from tests.unit.graph.folders import save_plt
from tests.unit.graph.storage import Storage, hangs

LLAMA = {"prompt": "Hello", "model_id": LLAMA_ID, "slug_identifier": "x", "node_threshold": 1, "edge_threshold": 1}


@pytest.fixture(scope="module")
def one_at_a_time(cluster: RunningCluster) -> Iterator[None]:
    """A second graph application that lets nobody wait."""
    from deployments.graph.app import build_graph_app

    folder = save_plt(cluster.folder / "plt", n_layers=4, d_model=D_MODEL, n_features=96)
    stage = {"num_cpus": 0.1, "threads": 1}
    args = {
        "model": LLAMA_ID,
        "transcoder_set": str(folder),
        "scan": "tiny",
        "max_queued_graphs": 0,
        "row_shards": 3,
        "uploads": {"allow_loopback": True},
        "tracer": stage,
        "attributor": stage,
        "publisher": stage,
    }
    deploy(build_graph_app, GraphAppArgs.model_validate(args), "one-at-a-time", None)
    yield
    serve.delete("one-at-a-time")
    wait_for_condition(lambda: cluster.post("/generate-graph", LLAMA).status_code == 400, timeout=20)


@asynccontextmanager
async def occupied(url: str, request: dict[str, Any], count: int, running: int) -> AsyncGenerator[list[str]]:
    """Graphs in the background whose storage does not answer."""
    async with Storage(*[hangs] * running) as storage, httpx.AsyncClient(timeout=60) as client:
        signed = request | {"signed_url": f"http://127.0.0.1:{storage.port}/graph.json?signature=x"}
        replies = [await client.post(f"{url}/graphs", json=signed) for _ in range(count)]
        assert {reply.status_code for reply in replies} == {202}
        jobs = [reply.json()["id"] for reply in replies]
        try:
            while len(storage.received) < running:
                await asyncio.wait_for(storage.read.wait(), 60)
                storage.read.clear()
            yield jobs
        finally:
            stopped = [await client.delete(f"{url}/graphs/{job}") for job in jobs]
            assert {reply.json()["status"] for reply in stopped} == {"CANCELLED"}


def test_rows_that_are_computed_in_shards_make_the_same_graph(cluster: RunningCluster, one_at_a_time: None) -> None:
    model = EagerModel.load(LLAMA_ID, device="cpu")
    transcoders = open_transcoders(
        str(cluster.folder / "plt"),
        n_layers=4,
        d_model=D_MODEL,
        device=model.device,
        dtype=model.dtype,
        lazy_encoder=False,
        budget_bytes=0,
    )
    tokenizer = PromptTokenizer.load(LLAMA_ID)
    traced = Autograd.trace(model, transcoders, prompt_tokens(tokenizer, LLAMA["prompt"]).ids)
    place = Place(traced.n_layers, len(traced.token_ids) - 1)
    unembedding = Unembedding.of(model.module.get_output_embeddings().weight)
    chosen = salient_targets(traced.logits, unembedding, place, str)
    effects = attribute(traced, chosen.nodes, chosen.rows, Choice())
    served = cluster.post("/generate-graph", LLAMA).json()
    weights = sorted(link["weight"] for link in served["links"])
    assert len(weights) > 100
    assert weights == pytest.approx(sorted(prune(effects, 1, 1).weights.tolist()), abs=1e-4)


def test_where_nothing_may_wait_the_second_graph_is_told_what_the_peer_says(
    cluster: RunningCluster, one_at_a_time: None
) -> None:
    def ask(path: str) -> httpx.Response:
        return cluster.post(path, LLAMA)

    async def run() -> None:
        async with occupied(cluster.url, LLAMA, 1, 1):
            for path in ("/generate-graph", "/graphs"):
                refused = await asyncio.to_thread(ask, path)
                assert refused.status_code == 503
                assert refused.json()["error"] == "Server busy, please try again later."
            assert cluster.get("/check-busy").json() == {"busy": True}
            # What is no graph is answered meanwhile, unlike the peer's.
            looked = await asyncio.to_thread(cluster.post, "/forward-pass", {"prompt": "Hello", "model_id": LLAMA_ID})
            assert looked.status_code == 200

    asyncio.run(run())
    assert cluster.get("/check-busy").json() == {"busy": False}
    assert ask("/generate-graph").status_code == 200


def test_of_several_graphs_at_once_one_is_made_where_nothing_may_wait(
    cluster: RunningCluster, one_at_a_time: None
) -> None:
    async def run() -> list[httpx.Response]:
        async with httpx.AsyncClient(timeout=60) as client:
            return await asyncio.gather(*(client.post(f"{cluster.url}/generate-graph", json=LLAMA) for _ in range(4)))

    statuses = [response.status_code for response in asyncio.run(run())]
    assert set(statuses) <= {200, 503}
    assert 200 in statuses


def test_a_full_queue_tells_when_to_come_back_and_refuses_bad_places_at_once(cluster: RunningCluster) -> None:
    small = graph_request("1 2 ")

    async def run() -> None:
        async with occupied(cluster.url, small, MAX_GRAPHS, MAX_GRAPHS):
            # There is room to wait, but what can never be done does not wait for its turn to be told so.
            bad = small | {"destination": "s3://somebody-elses/graph.json"}
            refused = await asyncio.to_thread(cluster.post, "/generate-graph", bad)
            assert (refused.status_code, refused.json()["code"]) == (400, "url_refused")
            assert cluster.get("/check-busy").json() == {"busy": False}
            async with httpx.AsyncClient(timeout=60) as client:
                waiting = [await client.post(f"{cluster.url}/graphs", json=small) for _ in range(MAX_QUEUED_GRAPHS)]
                assert {reply.status_code for reply in waiting} == {202}
                assert cluster.get("/check-busy").json() == {"busy": True}
                for path in ("/generate-graph", "/graphs"):
                    full = await client.post(f"{cluster.url}{path}", json=small)
                    assert (full.status_code, full.json()["code"]) == (429, "overloaded")
                    assert int(full.headers["retry-after"]) >= 1
                steered = await client.post(
                    f"{cluster.url}/forward-pass", json={"prompt": "1 2 ", "model_id": COUNT["model_id"]}
                )
                assert steered.status_code == 200
                jobs = [reply.json() for reply in waiting]
                assert {job["progress"]["stage"] for job in jobs} == {"queued"}
        # When the others have left, those that waited are made.
        for job in jobs:
            assert "COMPLETED" in cluster.get(f"/graphs/{job['id']}/events").text

    asyncio.run(run())
    assert cluster.get("/check-busy").json() == {"busy": False}


def test_of_a_burst_whoever_finds_no_room_is_refused_and_no_graph_fails_later(cluster: RunningCluster) -> None:
    async def run() -> None:
        async with (
            occupied(cluster.url, graph_request("1 2 "), MAX_GRAPHS, MAX_GRAPHS),
            httpx.AsyncClient(timeout=60) as client,
        ):
            burst = await asyncio.gather(
                *(client.post(f"{cluster.url}/graphs", json=COUNT) for _ in range(4 * MAX_QUEUED_GRAPHS))
            )
            taken = [reply.json()["id"] for reply in burst if reply.status_code == 202]
            assert {reply.status_code for reply in burst} == {202, 429}
            states = [(await client.get(f"{cluster.url}/graphs/{job}")).json()["status"] for job in taken]
            assert "FAILED" not in states
            assert len(taken) == MAX_QUEUED_GRAPHS
            for job in taken:
                await client.delete(f"{cluster.url}/graphs/{job}")

    asyncio.run(run())
    assert cluster.get("/check-busy").json() == {"busy": False}
