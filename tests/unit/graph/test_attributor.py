"""Promises of `core.graph.attributor`: rows of traced prompts, in shards, and graphs that are not finished yet."""

import asyncio
from collections.abc import AsyncGenerator, Callable, Coroutine
from contextlib import asynccontextmanager
from functools import cache
from typing import Any

import pytest
import torch

from core.deadline import Deadline
from core.device import DeviceExecutor
from core.errors import DeadlineExceeded, RayscopeError, TooLarge, Unavailable
from core.graph.admission import SchedulerLimits
from core.graph.attribution import Choice, attribute
from core.graph.attributor import GraphAttributor
from core.graph.autograd import Autograd
from core.graph.effects import Effects
from core.graph.linear.weights import LinearWeights
from core.graph.plan import Progress
from core.graph.pruned import PrunedGraph
from core.graph.pruning import prune
from core.graph.requests import AttributionOptions, GraphPrompt
from core.graph.selection import shards
from core.graph.targets import Place, Unembedding, custom_targets
from core.graph.traced import Traced
from core.graph.tracer import GraphTracer, TracerSettings

from .architectures import D_MODEL, N_LAYERS, eager_model
from .plain_sets import PlainSet, random_set

IDS = (7, 3, 22, 60, 1, 44, 9, 13, 5)
TARGETS = (5, 17, 40)


def later() -> Deadline:
    return Deadline.after(600)


LIMITS = SchedulerLimits(block_rows=8, step_rows=16)


@cache
def transcoders() -> PlainSet:
    return random_set("skip", n_layers=N_LAYERS, d_model=D_MODEL, dtype=torch.float32)


@cache
def weights() -> LinearWeights:
    return LinearWeights.of_model(eager_model("llama", torch.float32).module).with_skips(transcoders())


@cache
def _traced(wanted: int | None) -> Traced:
    async def run() -> Traced:
        device = DeviceExecutor()
        settings = TracerSettings("replay", 1000, LIMITS)
        tracer = GraphTracer(eager_model("llama", torch.float32), transcoders(), str, device, settings)
        options = AttributionOptions(max_feature_nodes=wanted, targets=TARGETS)
        made = await tracer.trace(GraphPrompt(IDS, 1), options, later())
        await tracer.aclose()
        await device.aclose()
        assert isinstance(made, Traced)
        return made

    return asyncio.run(run())


@cache
def truth() -> Effects:
    """By gradients of the model itself."""
    model = eager_model("llama", torch.float32)
    linear = Autograd.trace(model, transcoders(), IDS, zeroed=1)
    unembedding = Unembedding.of(model.module.get_output_embeddings().weight)
    chosen = custom_targets(TARGETS, linear.logits, unembedding, Place(N_LAYERS, len(IDS) - 1), str)
    return attribute(linear, chosen.nodes, chosen.rows, Choice())


def traced(wanted: int | None = None) -> Traced:
    """The prompt, with some features or all."""
    return _traced(wanted)


@asynccontextmanager
async def attributor(limits: SchedulerLimits = LIMITS) -> AsyncGenerator[GraphAttributor]:
    device = DeviceExecutor()
    made = GraphAttributor(weights(), transcoders().shape, device, limits)
    yield made
    await made.aclose()
    await device.aclose()


def running(test: Callable[..., Coroutine[Any, Any, None]]) -> Callable[[], None]:
    def run() -> None:
        for wanted in (None, 1):
            traced(wanted)  # has an event loop of its own
        asyncio.run(asyncio.wait_for(test(), 60))

    run.__name__ = test.__name__
    return run


def links(pruned: PrunedGraph) -> dict[tuple[Any, ...], float]:
    """Weights by what the ends of a link are."""
    count, errors = len(pruned.index), len(pruned.layer)
    names: list[tuple[Any, ...]] = [
        (pruned.layer[i], pruned.position[i], pruned.index[i] if i < count else None) for i in range(errors)
    ]
    names += [("token", p) for p in range(len(pruned.token_ids))] + [("logit", id_) for id_ in pruned.logit_ids]
    ends = zip(pruned.sources, pruned.targets, strict=True)
    return {(names[s], names[t]): float(w) for (s, t), w in zip(ends, pruned.weights, strict=True)}


@running
async def test_rows_are_those_that_gradients_give() -> None:
    async with attributor() as made:
        run = range(len(traced().prompt.features))
        effects = await made.assemble(traced(), [(run, await made.rows(traced(), run, 48, later()))])
    assert torch.equal(effects.features.index, truth().features.index)
    scale = truth().weights.abs().max().item()
    torch.testing.assert_close(effects.weights, truth().weights, rtol=0, atol=1e-5 * scale)
    assert effects.n_active == len(truth().features)


@running
async def test_shards_of_several_attributors_are_one_graph() -> None:
    features = traced().prompt.features
    async with attributor() as one, attributor() as other:
        alone = await one.rows(traced(), range(len(features)), 48, later())
        whole = await one.assemble(traced(), [(range(len(features)), alone)])
        runs = shards(features, 3)
        assert len(runs) == 3
        parts = [(run, await (one, other)[at % 2].rows(traced(), run, 48, later())) for at, run in enumerate(runs)]
        sharded = await other.assemble(traced(), parts[::-1])
        torch.testing.assert_close(sharded.weights, whole.weights, rtol=0, atol=1e-5)
        with pytest.raises(RayscopeError, match="missing"):
            await other.assemble(traced(), parts[1:])


@running
async def test_a_growing_graph_shows_what_is_known_and_nothing_else() -> None:
    features = traced().prompt.features
    runs = shards(features, 4, 8)
    async with attributor() as made:
        parts = [(run, await made.rows(traced(), run, 8, later())) for run in runs]
        whole = await made.assemble(traced(), parts)
        everything = links(prune(whole, 1.0, 1.0))
        growing = await made.begin(traced())
        missing = set(range(len(features)))
        for run in (runs[2], runs[0], runs[3], runs[1]):
            with pytest.raises(RayscopeError, match=f"{len(missing)} rows of the graph are missing"):
                growing.assembly.whole()
            unknown = {
                (features.layer[i].item(), features.position[i].item(), features.index[i].item()) for i in missing
            }
            seen = links(prune(growing.assembly.effects, 1.0, 1.0))
            assert seen.items() <= everything.items()
            assert not unknown & {end for ends in seen for end in ends}
            await made.grow(growing, run, 8, later())
            missing -= set(run)
        assert torch.equal(growing.assembly.whole().weights, whole.weights)


@running
async def test_rows_that_are_done_are_reported() -> None:
    said: list[Progress] = []
    run = range(5, 31)
    async with attributor(SchedulerLimits(block_rows=4, step_rows=4)) as made:
        rows = await made.rows(traced(), run, 4, later(), said.append)
    done = [one.done for one in said]
    assert done == [*range(0, 26, 4), 26]
    assert {one.total for one in said} == {26}
    assert rows.shape == (26, traced().effects.shape[1])


@running
async def test_a_graph_of_one_feature_is_a_graph_and_so_is_no_row() -> None:
    async with attributor() as made:
        small = traced(1)
        effects = await made.assemble(small, [(range(1), await made.rows(small, range(1), 48, later()))])
        assert effects.weights.shape == (1 + len(TARGETS), 1 + (N_LAYERS + 1) * len(IDS))
        assert (await made.rows(small, range(0), 48, later())).shape[0] == 0


@running
async def test_memory_is_promised_while_rows_are_computed_and_free_when_their_reader_leaves() -> None:
    begun, held = asyncio.Event(), list[int]()
    async with attributor() as made:

        def report(_: Progress) -> None:
            held.append(made.held_bytes)
            begun.set()

        run = range(len(traced().prompt.features))
        reading = asyncio.create_task(made.rows(traced(), run, 1, later(), report))
        await begun.wait()
        reading.cancel()
        await asyncio.gather(reading, return_exceptions=True)
        assert held[0] > 0
        assert made.held_bytes == 0
        assert made.queue_time_s() == 0


@running
async def test_what_can_not_be_computed_is_refused() -> None:
    async with attributor(SchedulerLimits(budget_bytes=100)) as made:
        with pytest.raises(TooLarge):
            await made.rows(traced(), range(10), 48, later())
    with pytest.raises(Unavailable):
        made.check()
    async with attributor() as made:
        with pytest.raises(DeadlineExceeded):
            await made.rows(traced(), range(10), 48, Deadline(0.0))
