"""Attributor: one replica holds a model's value and output weights, computes rows of graphs, and prunes them."""

import asyncio
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from typing import Any

import ray

from cluster.graph_arguments import GraphAppArgs
from core.catalogue.catalogue import weights_location
from core.catalogue.description import ModelDescription
from core.deadline import Deadline
from core.device import DeviceExecutor, limit_memory, resolve_device
from core.graph.plan import Progress
from core.graph.requests import GraphQuestion, PruningOptions
from core.graph.stages import AttributedGraph, Handed, PartialGraph, TracedGraph
from deployments.graph.tracer import PROBE_TIMEOUT_S, checkpoint_folder, set_threads
from deployments.metrics import RayMetrics

_PARTS = 4  # a graph's rows come in so many parts, and a partial graph can be had after each
_WORTH_SHOWING = 512  # rows; fewer are done before anybody looks


class Attributor:
    """Thin: builds a `GraphAttributor` on its share of the device and hands requests to it."""

    async def __init__(self, description: ModelDescription, args: GraphAppArgs) -> None:
        name = resolve_device(description.device)
        limit_memory(args.attributor.num_gpus or 1.0, name)
        self._device = DeviceExecutor(name, metrics=RayMetrics())
        await set_threads(self._device, args.attributor.threads)
        self._attributor: Any = await self._device.run(_load, self._device, description, args)
        self._prune: Any = await asyncio.to_thread(_pruning)

    async def rows(self, traced: TracedGraph, run: range, batch_size: int, deadline: Deadline) -> Handed:
        """Rows of a run of a graph's features, for the attributor that puts them together."""
        rows = (await self._attributor.rows(await traced.value.reference, run, batch_size, deadline)).cpu()
        return Handed(ray.put(rows), rows.nbytes)

    async def attribute(
        self,
        traced: TracedGraph,
        question: GraphQuestion,
        deadline: Deadline,
        parts: Sequence[tuple[range, Handed]] = (),
    ) -> AsyncGenerator[Progress | PartialGraph | AttributedGraph]:
        """Computes a graph's rows, or takes those that others have computed, and prunes it."""
        from core.graph.effects import Effects

        value = await traced.value.reference
        if isinstance(value, Effects):
            effects = value
        else:
            effects = None
            if parts:
                known = [(run, await handed.reference) for run, handed in parts]
                effects = await self._attributor.assemble(value, known)
            else:
                growing = await self._attributor.begin(value)
                async with aclosing(self._grow(growing, question, deadline)) as news:
                    async for one in news:
                        yield one
                effects = growing.assembly.whole()
                del growing
        del value
        pruned = await self._pruned(effects, question.pruning)
        yield AttributedGraph(pruned, await self._kept(effects), len(effects.features))

    async def prune(self, effects: Handed, options: PruningOptions) -> Handed:
        """The same graph at other thresholds."""
        return await self._pruned(await effects.reference, options)

    async def held_bytes(self) -> int:
        """Memory promised to graphs in progress."""
        return 0 if self._attributor is None else self._attributor.held_bytes

    async def check_health(self) -> None:
        """Fails once the device no longer works; Serve then replaces the replica."""
        if self._attributor is not None:
            self._attributor.check()
        await self._device.probe(PROBE_TIMEOUT_S)

    async def __del__(self) -> None:
        """Drains on shutdown."""
        if self._attributor is not None:
            await self._attributor.aclose()
        await self._device.aclose()

    async def _pruned(self, effects: Any, options: PruningOptions) -> Handed:
        return _handed(await self._device.run(self._prune, effects, options.node_threshold, options.edge_threshold))

    async def _grow(
        self, graph: Any, question: GraphQuestion, deadline: Deadline
    ) -> AsyncGenerator[Progress | PartialGraph]:
        """Computes all rows, part by part."""
        from core.graph.following import followed
        from core.graph.selection import shards

        features, batch_size = graph.assembly.effects.features, question.attribution.batch_size
        total = len(features)
        runs = shards(features, _PARTS if total >= _WORTH_SHOWING else 1, batch_size)
        for run in runs:

            def work(report: Callable[[Progress], None], run: range = run) -> Any:
                return self._attributor.grow(graph, run, batch_size, deadline, report)

            async with aclosing(followed(work)) as news:
                async for one in news:
                    if one is not None:
                        yield Progress(run.start + one.done, total)
            if run is not runs[-1]:
                yield PartialGraph(await self._pruned(graph.assembly.effects, question.pruning))

    async def _kept(self, effects: Any) -> Handed:
        from core.graph.tracer import effects_on_cpu

        kept = await self._device.run(effects_on_cpu, effects)
        return Handed(ray.put(kept), kept.weights.nbytes)


def _handed(pruned: Any) -> Handed:
    return Handed(ray.put(pruned), pruned.sources.nbytes + pruned.weights.nbytes)


def _pruning() -> Any:
    from core.graph.pruning import prune

    return prune


def _load(device: DeviceExecutor, description: ModelDescription, args: GraphAppArgs) -> Any:
    """The attributor; None where rows are the tracer's, and only pruning is left."""
    import torch
    from transformers import AutoConfig

    from core.graph.admission import SchedulerLimits
    from core.graph.attributor import GraphAttributor
    from core.graph.linear.family import has_family
    from core.graph.linear.weights import LinearWeights
    from core.graph.transcoders.opening import open_transcoders

    folder = checkpoint_folder(weights_location(description.weights), description.revision)
    config: Any = AutoConfig.from_pretrained(folder)
    if args.engine not in ("auto", "replay") or (args.engine == "auto" and not has_family(config)):
        return None
    stored = config.get_text_config().dtype or torch.float32
    dtype = stored if description.dtype == "auto" else getattr(torch, description.dtype)
    weights = LinearWeights.of_checkpoint(folder, device=device.device, dtype=dtype)
    transcoders = open_transcoders(
        args.transcoder_set,
        n_layers=weights.n_layers,
        d_model=weights.d_model,
        device=device.device,
        dtype=weights.dtype,
        lazy_encoder=True,
        budget_bytes=0,
    )
    limits = SchedulerLimits(
        block_rows=args.batch_rows,
        step_rows=args.batch_rows,
        max_running=args.max_graphs,
        max_queue=args.max_graphs,
        budget_bytes=int(args.working_gib * 2**30),
    )
    return GraphAttributor(weights.with_skips(transcoders), transcoders.shape, device, limits)
