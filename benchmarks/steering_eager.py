"""The eager engine in process, as a Runner has it: one sequence, STEERED and DEFAULT of one prompt, and 16 clients.

    python -m benchmarks.steering_eager FOLDER PASSES SECONDS TOKENS

What goes together is also done one after the other, each sequence alone, which is how a server without batches works.
"""

import asyncio
import os
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any

import torch

from benchmarks.steering_cases import Prompt, Shape, Way, continuation, prompts, ways
from benchmarks.steering_timing import Order, Tokens, read_order, report, time_by_turns
from cluster.arguments import RunnerArgs
from core.deadline import Deadline
from core.device import DeviceExecutor
from core.engine.model import EagerModel
from core.generation.engine import GenerationEngine, GenerationLimits
from core.saes.decoder_rows import DecoderRows
from core.saes.encoder import LoadedSae
from core.steering.directions import Directions

_TIMEOUT_S = 600.0


async def measure(order: Order) -> dict[str, Any]:
    """Times one engine."""
    shape = Shape.read(order.folder)
    every = ways(shape)
    args = RunnerArgs.model_validate({})
    limits = GenerationLimits(
        args.generation_rows, args.generation_cache_tokens, args.batch_tokens, args.max_waiting_texts
    )
    device = DeviceExecutor("cpu")
    await device.run(torch.set_num_threads, os.cpu_count() or 1)
    model = await device.run(EagerModel.load, str(order.folder), device="cpu", dtype="float32")
    engine = GenerationEngine(model, device, Directions(DecoderRows({})), _no_saes, limits)

    async def write(prompt: Prompt, *chosen: Way | None) -> Tokens:
        asked = [continuation(prompt, way, order.n_tokens) for way in chosen]
        return [growth.tokens for growth in await engine.generate(asked, Deadline.after(_TIMEOUT_S))]

    async def one(number: int) -> Tokens:
        return await write(prompts(shape, number)[0], every[0])

    async def pair(number: int) -> Tokens:
        return await write(prompts(shape, number)[0], every[0], None)

    async def pair_in_turn(number: int) -> Tokens:
        prompt = prompts(shape, number)[0]
        return [*await write(prompt, every[0]), *await write(prompt, None)]

    async def clients(number: int) -> Tokens:
        written = await asyncio.gather(*map(write, prompts(shape, number), every))
        return [tokens for (tokens,) in written]

    async def clients_in_turn(number: int) -> Tokens:
        written = [await write(prompt, way) for prompt, way in zip(prompts(shape, number), every, strict=True)]
        return [tokens for (tokens,) in written]

    try:
        kinds = {
            "one": one,
            "pair": pair,
            "pair in turn": pair_in_turn,
            "sixteen": clients,
            "sixteen in turn": clients_in_turn,
        }
        return await time_by_turns(kinds, order, "sixteen")
    finally:
        await engine.aclose()
        await device.aclose()


@asynccontextmanager
async def _no_saes(_: Sequence[str], __: Deadline) -> AsyncGenerator[Mapping[str, LoadedSae]]:
    """No condition is asked for."""
    yield {}


if __name__ == "__main__":
    report(asyncio.run(measure(read_order())))
