"""transformers' own `generate` with hooks that steer: one sequence, 16 one after the other, and 16 in one batch.

    python -m benchmarks.steering_transformers FOLDER PASSES SECONDS TOKENS

What somebody writes who has no server. The hooks share nothing with ours but the description of what is asked, so that
equal tokens mean that both did the same work.
"""

import asyncio
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch

from benchmarks.steering_cases import Prompt, Shape, Way, prompts, ways
from benchmarks.steering_timing import Order, Tokens, read_order, report, time_by_turns
from core.steering.specification import Method


async def measure(order: Order) -> dict[str, Any]:
    """Times one model."""
    from transformers import AutoModelForCausalLM

    torch.set_num_threads(os.cpu_count() or 1)
    model: Any = AutoModelForCausalLM.from_pretrained(order.folder, dtype=torch.float32).eval()
    model.generation_config.eos_token_id = None  # every sequence has the same length
    model.generation_config.pad_token_id = 0
    shape = Shape.read(order.folder)
    every = ways(shape)

    def write(batch: Sequence[Prompt], chosen: Sequence[Way]) -> list[list[int]]:
        ids = torch.tensor(batch)
        with torch.inference_mode(), _steered(model, chosen):
            written = model.generate(
                ids, attention_mask=torch.ones_like(ids), max_new_tokens=order.n_tokens, do_sample=False
            )
        return written[:, ids.shape[1] :].tolist()

    async def one(number: int) -> Tokens:
        return write(prompts(shape, number)[:1], every[:1])

    async def sixteen(number: int) -> Tokens:
        return write(prompts(shape, number), every)

    async def sixteen_in_turn(number: int) -> Tokens:
        pairs = zip(prompts(shape, number), every, strict=True)
        return [tokens for prompt, way in pairs for tokens in write([prompt], [way])]

    return await time_by_turns({"one": one, "sixteen": sixteen, "sixteen in turn": sixteen_in_turn}, order, "sixteen")


@contextmanager
def _steered(model: Any, chosen: Sequence[Way]) -> Iterator[None]:
    """Steers row `n` of every batch in the n-th of the chosen ways."""
    by_layer: dict[int, list[tuple[int, Way, torch.Tensor]]] = {}
    for row, way in enumerate(chosen):
        by_layer.setdefault(way.layer, []).append((row, way, torch.from_numpy(way.direction)))
    handles = [model.model.layers[layer].register_forward_hook(_hook(rows)) for layer, rows in by_layer.items()]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _hook(rows: Sequence[tuple[int, Way, torch.Tensor]]) -> Any:
    def steer(_: Any, __: Any, output: Any) -> None:
        hidden = output[0] if isinstance(output, tuple) else output
        for row, way, direction in rows:
            hidden[row] += _change(way, hidden[row], direction)

    return steer


def _change(way: Way, hidden: torch.Tensor, direction: torch.Tensor) -> torch.Tensor:
    """What is added to `[pos, d]`."""
    if way.method is Method.SIMPLE_ADDITIVE:
        return way.coefficient * direction
    along = (hidden @ direction).unsqueeze(-1)
    wanted = way.coefficient * along if way.method is Method.ORTHOGONAL_DECOMP else along.clamp(max=way.coefficient)
    return (wanted - along) * direction


if __name__ == "__main__":
    report(asyncio.run(measure(read_order())))
