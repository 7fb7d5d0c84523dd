"""Steerer: one replica holds one model on vLLM and writes text with it, every text steered its own way."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any

from cluster.steerer_arguments import SteererArgs
from core.catalogue.description import ModelDescription
from core.deadline import Deadline
from core.generation.requests import Continuation, Growth
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

    async def read(
        self, continuation: Continuation, site: int, spans: list[tuple[int, int]], deadline: Deadline
    ) -> Any:
        """`Means` of activations over spans of a text at a residual site, before and after steering."""
        (interventions,) = await self._resolve([continuation])
        return await self._engine.read(continuation, interventions, site, spans, deadline)

    async def report(self) -> dict[str, Any]:
        """How busy this replica is."""
        return {"generating": self._engine.running, "ranks": await self._engine.report()}

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
