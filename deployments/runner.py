"""Runner: one replica holds one model and its resident SAEs, and answers questions about them."""

import asyncio
import os
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any

import psutil

from cluster.arguments import RunnerArgs
from core.batching import BatchLimits
from core.catalogue.catalogue import weights_location
from core.catalogue.description import ModelDescription
from core.deadline import Deadline
from core.device import DeviceExecutor, limit_memory, resolve_device
from core.generation.requests import Continuation, Growth, MeansRequest
from core.questions import Floats, Lookup, Question
from deployments.metrics import RayMetrics

_PROBE_TIMEOUT_S = 25.0
_PRELOAD_TIMEOUT_S = 3600.0


class Runner:
    """Thin: builds an `ActivationEngine` on its share of the device and hands requests to it."""

    async def __init__(self, description: ModelDescription, args: RunnerArgs) -> None:
        self._device_name = resolve_device(description.device)
        limit_memory(args.num_gpus or 1.0, self._device_name)
        self._metrics = RayMetrics()
        self._device = DeviceExecutor(self._device_name, metrics=self._metrics)
        self._engine, self._generation = await self._load(description, args)
        self._preload = (
            asyncio.create_task(self._engine.preload(Deadline.after(_PRELOAD_TIMEOUT_S))) if args.preload else None
        )

    async def ask(self, questions: list[Question], deadline: Deadline) -> list[Any]:
        """Answers questions about prompts, in order; see `core.questions`."""
        return await self._engine.ask(questions, deadline)

    async def look_up(self, lookup: Lookup, deadline: Deadline) -> Any:
        """Answers what SAE weights alone can tell."""
        return await self._engine.look_up(lookup, deadline)

    async def generate(self, continuations: list[Continuation], deadline: Deadline) -> list[Growth]:
        """Whole texts, in order; see `core.generation.requests`."""
        return await self._generation.generate(continuations, deadline)

    async def stream(self, continuations: list[Continuation], deadline: Deadline) -> AsyncGenerator[list[Growth]]:
        """Texts as they grow."""
        async with aclosing(self._generation.stream(continuations, deadline)) as parts:
            async for growths in parts:
                yield growths

    async def read_means(self, request: MeansRequest, deadline: Deadline) -> Floats:
        """Mean activations of a written text, `[spans, d]`."""
        return await self._generation.read_means(request, deadline)

    async def report(self) -> dict[str, Any]:
        """What this replica holds and how busy it is."""
        return {
            "residency": self._engine.residency(),
            "queue_time_s": self._engine.queue_time_s(),
            "generating": self._generation.running,
            "waiting": self._generation.waiting,
            "process_ram_bytes": psutil.Process().memory_info().rss,
        }

    async def check_health(self) -> None:
        """Fails once the device or the batcher no longer works; Serve then replaces the replica."""
        await self._engine.check(_PROBE_TIMEOUT_S)

    async def __del__(self) -> None:
        """Drains on shutdown: Serve awaits this after the last request."""
        if self._preload is not None:
            self._preload.cancel()
        await self._generation.aclose()
        await self._engine.aclose()

    async def _load(self, description: ModelDescription, args: RunnerArgs) -> Any:
        from core.activations import ActivationEngine, SaeBudget, default_sae_budget_bytes
        from core.engine.model import EagerModel
        from core.generation.engine import GenerationEngine, GenerationLimits
        from core.saes.decoder_rows import DecoderRows
        from core.steering.directions import Directions

        if self._device_name == "cpu":
            import torch

            # OpenMP keeps its thread count per thread, so it is set on the one that computes.
            await self._device.run(torch.set_num_threads, args.threads or os.cpu_count() or 1)
        model = await self._device.run(
            EagerModel.load,
            weights_location(description.weights),
            device=self._device_name,
            dtype=description.dtype,
            revision=description.revision,
        )
        cache_bytes = model.cache_bytes(args.generation_cache_tokens)
        gib = args.sae_budget_gib
        budget_bytes = (
            int(gib * 2**30)
            if gib is not None
            else default_sae_budget_bytes(self._device_name, args.num_gpus or 1.0, model.size_bytes() + cache_bytes)
        )
        sources = next(runner.sources for runner in description.runners if runner.name == args.name)
        engine = ActivationEngine(
            model,
            self._device,
            sources,
            sae_dtype=args.sae_dtype,
            budget=SaeBudget(budget_bytes, int(args.host_budget_gib * 2**30), args.max_loaded_saes),
            limits=BatchLimits(
                budget_tokens=args.batch_tokens,
                max_entries=args.batch_entries,
                max_queued_tokens=args.max_queued_tokens,
                max_entry_tokens=min(
                    args.max_queued_tokens,
                    max(description.limits.token_limit, description.limits.generation_limit),
                ),
            ),
            metrics=self._metrics,
        )
        generation = GenerationEngine(
            model,
            self._device,
            Directions(DecoderRows(description.steerable_sources(), engine.decoder_row)),
            engine.lease,
            GenerationLimits(
                max_rows=args.generation_rows,
                budget_tokens=max(args.generation_cache_tokens, description.limits.generation_limit),
                prefill_tokens=args.batch_tokens,
                max_waiting=args.max_waiting_texts,
            ),
            self._metrics,
        )
        return engine, generation
