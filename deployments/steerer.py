"""Steerer: one replica holds one model on vLLM and writes text with it, every text steered its own way."""

import asyncio
import dataclasses
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any

import psutil

from cluster.steerer_arguments import SteererArgs
from core.catalogue.description import ModelDescription
from core.deadline import Deadline
from core.errors import InvalidRequest
from core.generation.requests import Continuation, Growth, MeansRequest, Sampling
from core.questions import Floats
from core.steering.operators import Intervention


class Steerer:
    """Thin: resolves features to directions and hands texts to a `SteeredEngine`."""

    async def __init__(self, description: ModelDescription, args: SteererArgs) -> None:
        from core.saes.decoder_rows import DecoderRows
        from core.steerer.engine import SteeredEngine
        from core.steering.directions import Directions

        self._directions = Directions(DecoderRows(description.steerable_sources()))
        self._engine = await SteeredEngine.start(
            args.settings(description.weights, description.revision, description.dtype)
        )

    async def generate(self, continuations: list[Continuation], deadline: Deadline) -> list[Growth]:
        """Whole texts, in order; see `core.generation.requests`."""
        return await self._engine.generate(continuations, await self._resolve(continuations), deadline)

    async def stream(self, continuations: list[Continuation], deadline: Deadline) -> AsyncGenerator[list[Growth]]:
        """Texts as they grow; closing the stream stops the writing."""
        interventions = await self._resolve(continuations)
        async with aclosing(self._engine.stream(continuations, interventions, deadline)) as parts:
            async for growths in parts:
                yield growths

    async def read_means(self, request: MeansRequest, deadline: Deadline) -> Floats:
        """Mean activations of a written text, `[spans, d]`, read again as a prompt.

        Raises:
            InvalidRequest: The place is not on the residual stream, or generated positions are steered in another way
                than the prompt's, which a prompt can not repeat.
        """
        steering = request.continuation.steering
        if request.place.site is None or (steering is not None and steering.positions != "all"):
            raise InvalidRequest(
                "The Steerer reads the residual stream of texts that are steered throughout", "Steer all positions."
            )
        sampling = Sampling(max_tokens=1, temperature=0.0)
        read_again = dataclasses.replace(request.continuation, prompt=request.tokens, sampling=sampling)
        (interventions,) = await self._resolve([read_again])
        means = await self._engine.read(read_again, interventions, request.place.site, request.spans, deadline)
        return means.after

    async def report(self) -> dict[str, Any]:
        """How busy this replica is."""
        return {
            "generating": self._engine.running,
            "waiting": 0,  # vLLM decides by itself which of them it works on
            "process_ram_bytes": psutil.Process().memory_info().rss,
            "ranks": await self._engine.report(),
        }

    async def check_health(self) -> None:
        """Fails once the engine is dead or no longer steers; Serve then replaces the replica."""
        await self._engine.check_health()

    async def __del__(self) -> None:
        """Ends the model's workers on shutdown: Serve awaits this after the last request."""
        if hasattr(self, "_engine"):
            await self._engine.aclose()

    async def _resolve(self, continuations: list[Continuation]) -> list[tuple[Intervention, ...]]:
        async def of(continuation: Continuation) -> tuple[Intervention, ...]:
            return () if continuation.steering is None else await self._directions.resolve(continuation.steering)

        return list(await asyncio.gather(*(of(continuation) for continuation in continuations)))
