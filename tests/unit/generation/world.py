"""A generation engine over a tiny model, and truth's cases as requests."""

import copy
import dataclasses
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any

import numpy as np

from core.catalogue.sources import Source
from core.deadline import Deadline
from core.device import DeviceExecutor
from core.generation.engine import GenerationEngine, GenerationLimits
from core.generation.requests import Continuation, Sampling
from core.saes.decoder_rows import DecoderRows
from core.saes.encoder import LoadedSae
from core.steering.directions import Directions
from core.steering.specification import Method, Push, Steering, VectorDirection, parse_hook
from tests.unit.engine.families import eager_model
from tests.unit.generation.truth import Case

LIMITS = GenerationLimits(max_rows=8, budget_tokens=1024, prefill_tokens=128, max_waiting=64)


@asynccontextmanager
async def no_lease(names: Sequence[str], _: Deadline) -> AsyncGenerator[Mapping[str, LoadedSae]]:
    """For requests without conditions."""
    assert not names
    yield {}


@asynccontextmanager
async def engine_of(
    family: str,
    limits: GenerationLimits = LIMITS,
    sources: Mapping[str, Source] | None = None,
    saes: Mapping[str, LoadedSae] | None = None,
    max_positions: int | None = None,
) -> AsyncGenerator[GenerationEngine]:
    """An engine; `max_positions` stands for the model's own, for families that can read further than they say."""

    @asynccontextmanager
    async def lease(names: Sequence[str], _: Deadline) -> AsyncGenerator[Mapping[str, LoadedSae]]:
        yield {name: (saes or {})[name] for name in names}

    device = DeviceExecutor("cpu")
    model = copy.copy(eager_model(family))
    if max_positions is not None:
        model.shape = dataclasses.replace(model.shape, max_positions=max_positions)
    engine = GenerationEngine(model, device, Directions(DecoderRows(sources or {})), lease, limits)
    try:
        yield engine
    finally:
        await engine.aclose()
        await device.aclose()


def steering_of(case: Case) -> Steering | None:
    if not case.bends:
        return None
    methods = {bend.method for bend in case.bends}
    assert len(methods) == 1
    pushes = tuple(
        Push(
            VectorDirection(
                parse_hook(f"blocks.{bend.layer}.{'hook_' if bend.point.startswith('resid') else ''}{bend.point}"),
                np.array(bend.vector, dtype=np.float32),
            ),
            bend.c,
            bend.low,
        )
        for bend in case.bends
    )
    positions: Any = case.positions
    return Steering(
        pushes,
        Method(methods.pop()),
        positions=positions,
        special_tokens=not case.spared,
    )


def request_of(case: Case, n_tokens: int, **sampling: Any) -> Continuation:
    settings: dict[str, Any] = {"temperature": 0.0} | sampling
    return Continuation(case.prompt, Sampling(n_tokens, **settings), steering_of(case), tuple(sorted(case.spared)))
