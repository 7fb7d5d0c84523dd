"""Tracer: one replica holds one model and its transcoders, and turns prompts into what rows are computed from."""

import os
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from pathlib import Path
from typing import Any

import ray

from cluster.graph_arguments import GraphAppArgs
from core.catalogue.catalogue import weights_location
from core.catalogue.description import ModelDescription
from core.deadline import Deadline
from core.device import DeviceExecutor, limit_memory, resolve_device
from core.errors import Unavailable
from core.graph.plan import Progress
from core.graph.requests import (
    AttributionOptions,
    ForwardPassAnswer,
    ForwardPassQuestion,
    GraphPrompt,
    InterventionAnswer,
    InterventionQuestion,
)
from core.graph.stages import Handed, TracedGraph
from deployments.metrics import RayMetrics

PROBE_TIMEOUT_S = 25.0


class Tracer:
    """Thin: builds a `GraphTracer` on its share of the device and hands requests to it."""

    async def __init__(self, description: ModelDescription, args: GraphAppArgs) -> None:
        name = resolve_device(description.device)
        limit_memory(args.tracer.num_gpus or 1.0, name)
        self._device = DeviceExecutor(name, metrics=RayMetrics())
        self._row_shards = args.row_shards
        await set_threads(self._device, args.tracer.threads)
        self._tracer, self._shape = await _load(self._device, description, args)
        self._circuit_tracer = await _circuit_tracer(description, args)

    async def shape(self) -> Any:
        """Facts about the transcoders."""
        return self._shape

    async def trace(
        self, prompt: GraphPrompt, options: AttributionOptions, deadline: Deadline
    ) -> AsyncGenerator[Progress | TracedGraph]:
        """Traces a prompt: yields `Progress` where rows are computed here, and at last where the result lies."""
        from core.graph.effects import Effects
        from core.graph.following import followed
        from core.graph.selection import shards
        from core.graph.traced import Traced

        def work(report: Callable[[Progress], None]) -> Any:
            if self._circuit_tracer is not None:
                return self._circuit_tracer.attribute(prompt, options, deadline)
            return self._tracer.trace(prompt, options, deadline, report)

        async with aclosing(followed(work)) as news:
            async for one in news:
                if isinstance(one, Traced):
                    runs = shards(one.prompt.features, self._row_shards, options.batch_size)
                    n_bytes = one.prompt.nbytes + one.effects.nbytes
                    yield TracedGraph(Handed(ray.put(one), n_bytes), tuple(runs))
                elif isinstance(one, Effects):
                    yield TracedGraph(Handed(ray.put(one), one.weights.nbytes), ())
                else:
                    yield one

    async def forward_pass(self, question: ForwardPassQuestion, deadline: Deadline) -> ForwardPassAnswer:
        """What comes after a prompt."""
        return await self._tracer.forward_pass(question, deadline)

    async def intervene(self, question: InterventionQuestion, deadline: Deadline) -> InterventionAnswer:
        """A prompt continued twice, left alone and with features held."""
        return await self._tracer.intervene(question, deadline)

    async def check_health(self) -> None:
        """Fails once the device no longer works; Serve then replaces the replica."""
        self._tracer.check()
        if self._circuit_tracer is not None and not self._circuit_tracer.alive:
            raise Unavailable("circuit-tracer's process has ended", "This replica is being replaced.")
        await self._device.probe(PROBE_TIMEOUT_S)

    async def __del__(self) -> None:
        """Drains on shutdown."""
        await self._tracer.aclose()
        await self._device.aclose()
        if self._circuit_tracer is not None:
            self._circuit_tracer.close()


async def set_threads(device: DeviceExecutor, threads: int | None) -> None:
    """OpenMP keeps its thread count per thread, so it is set on the one that computes."""
    if device.device == "cpu":
        import torch

        await device.run(torch.set_num_threads, threads or os.cpu_count() or 1)


async def _circuit_tracer(description: ModelDescription, args: GraphAppArgs) -> Any:
    """circuit-tracer, where it is the engine."""
    if args.engine != "circuit-tracer" or args.oracle_python is None:
        return None
    from core.graph.circuit_tracer.graphs import CircuitTracerGraphs
    from core.graph.transcoders.location import locate

    folder = checkpoint_folder(weights_location(description.weights), description.revision)
    place = locate(args.transcoder_set).folder
    return await CircuitTracerGraphs.start(
        args.oracle_python,
        Path(folder),
        Path(place.path) if place.repo is None else args.transcoder_set,
        lazy_encoder=args.lazy_encoder,
        update_interval=args.update_interval,
        name=description.names.weights,
    )


def checkpoint_folder(weights: str, revision: str | None) -> str:
    """The local folder of a checkpoint; of one on the hub, what attribution reads of it."""
    if Path(weights).is_dir():
        return weights
    from huggingface_hub import snapshot_download

    return snapshot_download(weights, revision=revision, allow_patterns=["*.json", "*.safetensors"])


async def _load(device: DeviceExecutor, description: ModelDescription, args: GraphAppArgs) -> tuple[Any, Any]:
    from core.engine.model import EagerModel
    from core.graph.admission import SchedulerLimits
    from core.graph.linear.family import has_family
    from core.graph.tracer import GraphTracer, TracerSettings
    from core.graph.transcoders.opening import open_transcoders
    from core.prompts import PromptTokenizer

    location = weights_location(description.weights)
    model = await device.run(
        EagerModel.load, location, device=device.device, dtype=description.dtype, revision=description.revision
    )
    transcoders = await device.run(
        open_transcoders,
        args.transcoder_set,
        n_layers=model.shape.n_layers,
        d_model=model.shape.d_model,
        device=model.device,
        dtype=model.dtype,
        lazy_encoder=args.lazy_encoder,
        budget_bytes=int(args.decoder_budget_gib * 2**30),
    )
    tokenizer = PromptTokenizer.load(location, description.revision)
    limits = SchedulerLimits(
        block_rows=args.batch_rows,
        step_rows=args.batch_rows,
        max_running=args.max_graphs,
        max_queue=args.max_graphs,
        budget_bytes=int(args.working_gib * 2**30),
    )
    replays = args.engine == "replay" or (args.engine == "auto" and has_family(model.module.config))
    settings = TracerSettings("replay" if replays else "autograd", args.update_interval, limits)

    def build() -> GraphTracer:
        return GraphTracer(model, transcoders, lambda token: tokenizer.str_tokens([token])[0], device, settings)

    return await device.run(build), transcoders.shape
