"""circuit-tracer as the engine of a served application, beside one of ours: the same graph of the demo."""

import asyncio
import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cluster.graph_arguments import GraphAppArgs
from core.clock import SYSTEM_CLOCK
from core.deadline import Deadline
from core.errors import InvalidRequest
from core.exchange.graph import generate_graph
from core.graph.requests import Delivery, GraphPrompt, PruningOptions
from core.wire.graph import GraphGenerationRequest
from tests.ray_testing import deploy, ray_instance

THEIRS, OURS = "circuit-tracer", "replay"
ENGINES = (OURS, THEIRS)
PROMPT = "The capital of France is"
EVERYTHING: dict[str, Any] = {"node_threshold": 1, "edge_threshold": 1, "max_feature_nodes": 150}


@pytest.fixture(scope="module")
def applications(oracle_python: Path) -> Iterator[None]:
    """The demo, served once with each engine."""
    from deployments.graph.app import build_graph_app

    stage = {"num_cpus": 0.1, "threads": 1}
    args: dict[str, Any] = {"model": "rayscope-demo", "transcoder_set": "plt-demo", "working_gib": 2}
    args |= dict.fromkeys(("tracer", "attributor", "publisher"), stage)
    environments = {OURS: {}, THEIRS: {"oracle_python": str(oracle_python)}}
    with ray_instance():
        for engine, environment in environments.items():
            given = GraphAppArgs.model_validate(args | environment | {"engine": engine})
            deploy(build_graph_app, given, engine, None)
        yield


async def connected(engine: str) -> Any:
    from deployments.graph.client import GraphClient

    return await GraphClient.connect(engine)


def graph(engine: str, prompt: str = PROMPT, **wishes: Any) -> dict[str, Any]:
    """A document, as the application answers it."""

    async def ask() -> dict[str, Any]:
        client = await connected(engine)
        return await client.graph(prompt, slug="a-graph", timeout_s=300, **wishes)

    return asyncio.run(ask())


def same(ours: dict[str, Any], theirs: dict[str, Any]) -> None:
    """Both have the same nodes, and the same effects between them; effects of 0 need not be links."""
    assert ours["metadata"]["prompt_tokens"] == theirs["metadata"]["prompt_tokens"]
    for name in ("replacement_score", "completeness_score"):
        assert ours["metadata"][name] == pytest.approx(theirs["metadata"][name], abs=1e-5)
    texts = ("node_id", "feature", "layer", "ctx_idx", "feature_type", "jsNodeId", "clerp", "is_target_logit")
    for mine, other in zip(ours["nodes"], theirs["nodes"], strict=True):
        assert [mine[name] for name in texts] == [other[name] for name in texts]
        for name in ("token_prob", "influence", "activation"):
            assert (mine[name] is None) == (other[name] is None)
            assert mine[name] is None or mine[name] == pytest.approx(other[name], abs=1e-4)
    weights = [{(link["source"], link["target"]): link["weight"] for link in one["links"]} for one in (ours, theirs)]
    scale = max(map(abs, weights[1].values()))
    assert len(weights[1]) > 1000
    for pair in weights[0].keys() | weights[1].keys():
        assert weights[0].get(pair, 0.0) == pytest.approx(weights[1].get(pair, 0.0), abs=1e-5 * scale), pair


def test_a_served_graph_of_circuit_tracer_s_is_the_one_that_replay_makes(applications: None) -> None:
    ours, theirs = (graph(engine, **EVERYTHING) for engine in ENGINES)
    assert sum(node["feature_type"] == "cross layer transcoder" for node in ours["nodes"]) > 100
    same(ours, theirs)


def test_targets_are_explained_by_circuit_tracer_too(applications: None) -> None:
    wishes: dict[str, Any] = EVERYTHING | {"targets": [40, 41], "max_feature_nodes": 80}
    ours, theirs = (graph(engine, PROMPT, **wishes) for engine in ENGINES)
    logits = [node["feature"] for node in theirs["nodes"] if node["feature_type"] == "logit"]
    assert sorted(logits) == [40, 41]
    same(ours, theirs)


def test_a_graph_of_circuit_tracer_s_is_pruned_anew_like_any_other(applications: None) -> None:
    async def run(engine: str) -> Any:
        client = await connected(engine)
        body = {"prompt": PROMPT, "model_id": "rayscope-demo", "slug_identifier": "a-graph"} | EVERYTHING
        request = GraphGenerationRequest.model_validate(body)
        job = await client.submit(generate_graph(request, client.served, SYSTEM_CLOCK.time()))
        last = [state async for state in client.changes(job.id)][-1]
        assert last.status == "COMPLETED", last.error
        deadline = Deadline.after(120)
        return (await client.prune(job.id, PruningOptions(0.6, 0.9), None, Delivery(), deadline)).content

    assert asyncio.run(run(THEIRS)) is not None


def test_what_circuit_tracer_can_not_do_is_refused_with_the_reason_and_the_next_graph_is_made(
    applications: None,
) -> None:
    async def run() -> None:
        client = await connected(THEIRS)
        body = {"prompt": PROMPT, "model_id": "rayscope-demo", "slug_identifier": "a-graph"}
        question = generate_graph(GraphGenerationRequest.model_validate(body), client.served, SYSTEM_CLOCK.time())
        single = dataclasses.replace(question, prompt=GraphPrompt(question.prompt.ids[:1], 1))
        with pytest.raises(InvalidRequest, match="single token"):
            await client.generate(single, Deadline.after(120))

    asyncio.run(run())
    assert graph(THEIRS, max_feature_nodes=20)["nodes"]
