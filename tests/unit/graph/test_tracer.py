"""Promises of `core.graph.tracer` and `traced`: whichever way a graph is made, it is the same graph."""

import asyncio
import pickle
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from functools import cache
from typing import Any

import pytest
import torch

from core.deadline import Deadline
from core.demo import ARTEFACTS
from core.device import DeviceExecutor
from core.engine.model import EagerModel
from core.errors import DeadlineExceeded, InvalidRequest, TooLarge
from core.graph.admission import SchedulerLimits
from core.graph.attributor import GraphAttributor
from core.graph.effects import Effects
from core.graph.linear.weights import LinearWeights
from core.graph.plan import Progress
from core.graph.requests import AttributionOptions, ForwardPassQuestion, GraphPrompt
from core.graph.traced import Traced
from core.graph.tracer import EngineName, GraphTracer, TracerSettings
from core.graph.transcoders.opening import open_transcoders
from core.prompts import PromptTokenizer

FOLDER = str(ARTEFACTS / "model")


def later() -> Deadline:
    return Deadline.after(600)


ONCE, OFTEN = 1000, 1  # batches between two rankings
LIMITS = SchedulerLimits(block_rows=32, step_rows=64, budget_bytes=2**30)


@cache
def demo() -> tuple[EagerModel, Any, PromptTokenizer]:
    model = EagerModel.load(FOLDER, device="cpu")
    transcoders = open_transcoders(
        "plt-demo", n_layers=4, d_model=128, device=model.device, dtype=model.dtype, lazy_encoder=False, budget_bytes=0
    )
    return model, transcoders, PromptTokenizer.load(FOLDER)


def prompt(text: str) -> GraphPrompt:
    return GraphPrompt(tuple(demo()[2].bos_prompt(text).ids), n_silent=1)


@asynccontextmanager
async def tracer(
    engine: EngineName = "replay", interval: int = ONCE, limits: SchedulerLimits = LIMITS
) -> AsyncGenerator[GraphTracer]:
    model, transcoders, tokenizer = demo()
    device = DeviceExecutor()
    made = GraphTracer(
        model,
        transcoders,
        lambda token: tokenizer.str_tokens([token])[0],
        device,
        TracerSettings(engine, interval, limits),
    )
    yield made
    await made.aclose()
    await device.aclose()


async def attributed(traced: Traced) -> Effects:
    """The graph of a prompt that was traced, by weights read from the checkpoint."""
    _, transcoders, _ = demo()
    device = DeviceExecutor()
    weights = LinearWeights.of_checkpoint(FOLDER, device="cpu", dtype=torch.float32).with_skips(transcoders)
    attributor = GraphAttributor(weights, transcoders.shape, device, LIMITS)
    run = range(len(traced.prompt.features))
    effects = await attributor.assemble(traced, [(run, await attributor.rows(traced, run, 48, later()))])
    await attributor.aclose()
    await device.aclose()
    return effects


def graph(engine: EngineName, interval: int, options: AttributionOptions, text: str = "1 2 ") -> Effects:
    async def run() -> Effects:
        async with tracer(engine, interval) as made:
            traced = await made.trace(prompt(text), options, later())
            if isinstance(traced, Effects):
                return traced
            assert (engine, interval) != ("autograd", ONCE)
            return await attributed(pickle.loads(pickle.dumps(traced)))

    return asyncio.run(asyncio.wait_for(run(), 120))


def assert_same(one: Effects, other: Effects) -> None:
    for part in ("layer", "position", "index"):
        assert torch.equal(getattr(one.features, part), getattr(other.features, part))
    assert (one.token_ids, one.n_layers, one.n_active) == (other.token_ids, other.n_layers, other.n_active)
    assert (one.logits.token_ids, one.logits.labels) == (other.logits.token_ids, other.logits.labels)
    torch.testing.assert_close(one.features.activation, other.features.activation)
    torch.testing.assert_close(one.logits.probabilities, other.logits.probabilities)
    scale = other.weights.abs().max().item()
    torch.testing.assert_close(one.weights, other.weights, rtol=0, atol=1e-5 * scale)


@pytest.mark.parametrize("interval", [ONCE, OFTEN])
@pytest.mark.parametrize("wanted", [None, 60])
def test_both_engines_make_the_same_graph_however_often_features_are_ranked(wanted: int | None, interval: int) -> None:
    options = AttributionOptions(max_feature_nodes=wanted, batch_size=16)
    replayed = graph("replay", interval, options)
    assert_same(replayed, graph("autograd", interval, options))
    assert replayed.n_active > 100
    assert len(replayed.features) == (wanted or replayed.n_active)


def test_features_that_are_ranked_again_are_chosen_by_what_is_known_by_then() -> None:
    """With all features wanted there is nothing to choose; with some, later rankings know more and choose others."""
    everything = AttributionOptions(max_feature_nodes=None, batch_size=16)
    assert_same(graph("replay", OFTEN, everything), graph("replay", ONCE, everything))
    some = AttributionOptions(max_feature_nodes=60, batch_size=16)
    once, often = graph("replay", ONCE, some), graph("replay", OFTEN, some)
    assert not torch.equal(once.features.index, often.features.index)


def test_a_prompt_that_was_traced_survives_the_journey_bit_for_bit() -> None:
    async def run() -> None:
        async with tracer() as made:
            traced = await made.trace(prompt("The capital of France is"), AttributionOptions(), later())
            assert isinstance(traced, Traced)
            there, here = await attributed(pickle.loads(pickle.dumps(traced))), await attributed(traced)
            assert torch.equal(there.weights, here.weights)
            assert torch.equal(there.features.activation, here.features.activation)

    asyncio.run(asyncio.wait_for(run(), 120))


def test_targets_stand_in_for_the_likeliest_tokens() -> None:
    found = graph("replay", ONCE, AttributionOptions(max_feature_nodes=20, targets=(17, 5)))
    assert set(found.logits.token_ids) == {17, 5}
    assert_same(found, graph("autograd", ONCE, AttributionOptions(max_feature_nodes=20, targets=(17, 5))))


def test_a_graph_that_is_made_here_reports_its_rows() -> None:
    async def run() -> list[Progress]:
        said: list[Progress] = []
        async with tracer("autograd") as made:
            await made.trace(prompt("1 2 "), AttributionOptions(max_feature_nodes=100), later(), said.append)
        return said

    said = asyncio.run(asyncio.wait_for(run(), 120))
    done = [one.done for one in said]
    assert done == sorted(done)
    assert (done[0], said[-1]) == (0, Progress(100, 100))
    assert len(set(done)) > 2


def test_several_prompts_at_once_are_traced_as_if_each_was_alone() -> None:
    texts = ["1 2 ", "7", "The capital of France is", "Le chat dort sur"]

    async def run() -> None:
        async with tracer() as made:
            options = AttributionOptions(max_feature_nodes=50)
            alone = [await made.trace(prompt(text), options, later()) for text in texts]
            together = await asyncio.gather(*(made.trace(prompt(text), options, later()) for text in texts))
            for one, other in zip(alone, together, strict=True):
                assert isinstance(one, Traced)
                assert isinstance(other, Traced)
                assert torch.equal(one.effects, other.effects)
                assert torch.equal(one.prompt.features.index, other.prompt.features.index)

    asyncio.run(asyncio.wait_for(run(), 120))


def test_what_can_not_be_traced_is_refused() -> None:
    async def run() -> None:
        async with tracer() as made:
            with pytest.raises(InvalidRequest):
                await made.trace(prompt("1"), AttributionOptions(targets=(10**6,)), later())
            with pytest.raises(DeadlineExceeded):
                await made.trace(prompt("1"), AttributionOptions(), Deadline(0.0))
            made.check()
        async with tracer(limits=SchedulerLimits(budget_bytes=1000)) as made:
            with pytest.raises(TooLarge):
                await made.trace(prompt("1 2 "), AttributionOptions(), later())

    asyncio.run(asyncio.wait_for(run(), 120))


def test_forward_passes_are_answered_by_the_same_model() -> None:
    model, _, _ = demo()
    ids = prompt("1 2 ").ids

    async def run() -> tuple[int, ...]:
        async with tracer() as made:
            return (await made.forward_pass(ForwardPassQuestion(ids, 4, 1.0), later())).token_ids

    with torch.no_grad():
        logits: torch.Tensor = model.module(input_ids=torch.tensor([ids])).logits[0, -1]
    assert asyncio.run(run()) == tuple(logits.topk(4).indices.tolist())
