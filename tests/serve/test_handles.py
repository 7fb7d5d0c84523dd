"""Python callers: a deployment of one's own composes the models by handles, with the same answers and typed errors."""

import asyncio
import pickle

import pytest
from ray import serve

from core.chat_template import Message
from core.deadline import Deadline
from core.demo.steering import language_of
from core.errors import InvalidRequest, NotFound, Unavailable
from core.generation.requests import Continuation, Sampling
from core.questions import FeatureQuestion
from core.steering.specification import FeatureDirection, Push, Steering
from deployments.client import ModelClient
from tests.serve.conftest import DEMO, RunningCluster

TEXT = "Le chat dort sur le tapis."


def test_the_example_deployment_composes_the_demo(cluster: RunningCluster) -> None:
    from examples.compose import app

    handle = serve.run(app, name="languages", route_prefix="/languages")
    scores = handle.judge.remote(TEXT, "2-res-demo", {"seventeen": 17}).result(timeout_s=60)
    body = {"prompt": TEXT, "model": DEMO, "source": "2-res-demo", "index": "17"}
    values = cluster.post("/v1/activation/single", body).json()["activation"]["values"]
    assert scores["seventeen"] == pytest.approx(sum(values) / (len(values) + 1), abs=1e-4)
    over_http = cluster.post("/languages", {"text": TEXT, "source": "2-res-demo", "features": {"seventeen": 17}})
    assert over_http.json() == pytest.approx(scores)
    serve.delete("languages")


def test_errors_cross_the_handle_with_their_type(cluster: RunningCluster) -> None:
    async def run() -> None:
        client = await ModelClient.connect(DEMO)
        with pytest.raises(NotFound, match="9-res-demo"):
            await client.feature(TEXT, "9-res-demo", 1)
        with pytest.raises(InvalidRequest, match="out of range") as refusal:
            await client.ask([FeatureQuestion((1, 2), "1-res-demo", 10**6)], Deadline.after(30))
        assert refusal.value.hint is not None
        assert isinstance(pickle.loads(pickle.dumps(refusal.value)), InvalidRequest)
        with pytest.raises(Unavailable):
            await ModelClient.connect("no-such-application")

    asyncio.run(run())


def test_the_client_ranks_and_looks_up(cluster: RunningCluster) -> None:
    async def run() -> None:
        client = await ModelClient.connect(DEMO)
        top = await client.top_features(TEXT, "res-demo", k=3)
        body = {
            "prompt": TEXT,
            "model": DEMO,
            "sourceSet": "res-demo",
            "selectedSources": [],
            "sortByTokenIndexes": [],
            "ignoreBos": True,
            "numResults": 3,
        }
        answer = cluster.post("/v1/activation/all", body).json()
        assert [(f["source"], f["index"]) for f in answer["activations"]] == list(
            zip(top.sources, top.indexes.tolist(), strict=True)
        )
        near = await client.neighbours("1-res-demo", 5, k=2)
        assert near.indexes[0] == 5
        vector = await client.encoder_vector("1-res-demo", 5)
        assert vector.hook_name == "blocks.1.hook_resid_post"

    asyncio.run(run())


def test_the_client_writes_steered_and_chats(cluster: RunningCluster) -> None:
    async def run() -> None:
        client = await ModelClient.connect(DEMO)
        spanish = Steering((Push(FeatureDirection("1-res-demo", 2), 12.8),))
        assert language_of(await client.complete("Le chat dort sur", max_tokens=20)) == "fr"
        assert language_of(await client.complete("Le chat dort sur", max_tokens=20, steering=spanish)) == "es"
        assert "Paris" in await client.chat([Message("user", "What is the capital of France?")], max_tokens=20)
        with pytest.raises(InvalidRequest, match="leaves room for"):
            await client.complete("Le chat dort sur", max_tokens=10**6)
        nowhere = Steering((Push(FeatureDirection("9-res-demo", 2), 1.0),))
        with pytest.raises(NotFound, match="9-res-demo"):
            await client.complete("Le chat dort sur", steering=nowhere)

    asyncio.run(run())


def test_whoever_stops_reading_a_text_frees_its_row(cluster: RunningCluster) -> None:
    async def run() -> None:
        client = await ModelClient.connect(DEMO)
        endless = Continuation((1, 5, 6), Sampling(400, 1.0, seed=1))
        deadline = Deadline.after(60)
        stream = client.stream([endless] * 4, deadline)
        await anext(stream)
        assert (await client.report("Runner", deadline))["generating"] == 4
        await stream.aclose()
        while (await client.report("Runner", deadline))["generating"]:
            deadline.check()

    asyncio.run(run())
