"""vLLM with our extension: 16 requests together, none of them steered, half of them, and all, each in its own way.

Requests come through `SteeredEngine`, so an overhead is that of the whole engine, not of the hooks alone.

python -m benchmarks.steering_vllm FOLDER PASSES SECONDS TOKENS
"""

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.steering_cases import PROMPT_TOKENS, SEQUENCES, Prompt, Shape, Way, continuation, prompts, ways
from benchmarks.steering_timing import Order, Tokens, read_order, report, time_by_turns
from core.deadline import Deadline
from core.steerer.engine import SteeredEngine
from core.steerer.settings import EngineSettings

ENVIRONMENT = {
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "VLLM_LOGGING_LEVEL": "ERROR",
    "VLLM_NO_USAGE_STATS": "1",
    "HF_HUB_OFFLINE": "1",
}
"""For both vLLM processes. vLLM chooses and binds its threads by itself."""
_TIMEOUT_S = 600.0


def settings_of(folder: Path, n_tokens: int) -> EngineSettings:
    """What both vLLM engines are started with, besides the extension."""
    return EngineSettings(
        str(folder),
        dtype="float32",
        max_model_len=PROMPT_TOKENS + n_tokens,
        max_num_seqs=SEQUENCES,
        graphs="eager",
        engine={"block_size": 32},
    )


async def measure(order: Order) -> dict[str, Any]:
    """Times the three mixtures on one engine."""
    shape = Shape.read(order.folder)
    every = ways(shape)
    unsteered: list[Way | None] = [None] * SEQUENCES
    half = [way if number % 2 else None for number, way in enumerate(every)]
    engine = await SteeredEngine.start(settings_of(order.folder, order.n_tokens))

    async def write(prompt: Prompt, way: Way | None) -> tuple[int, ...]:
        interventions = () if way is None else way.interventions
        asked = continuation(prompt, way, order.n_tokens)
        (growth,) = await engine.generate([asked], [interventions], Deadline.after(_TIMEOUT_S))
        return growth.tokens

    async def together(number: int, chosen: Sequence[Way | None]) -> Tokens:
        return await asyncio.gather(*map(write, prompts(shape, number), chosen))

    try:
        return await time_by_turns(
            {
                "idle": lambda number: together(number, unsteered),
                "mixed": lambda number: together(number, half),
                "steered": lambda number: together(number, every),
            },
            order,
            "steered",
        )
    finally:
        await engine.aclose()


if __name__ == "__main__":
    report(asyncio.run(measure(read_order())))
