"""Our side of `make bench-graphs`, in a process of its own: graphs one by one, and several at once.

    python -m benchmarks.graph_ours ORDER

It is what a replica does, a tracer and an attributor on one device thread, without the handles between them.
"""

import asyncio
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from benchmarks.graph_cases import BATCH_SIZE, SIZES, Size
from benchmarks.graph_timing import WARM_UP, Found, Order, report, save
from core.deadline import Deadline
from core.device import DeviceExecutor
from core.engine.model import EagerModel
from core.graph.admission import SchedulerLimits
from core.graph.attributor import GraphAttributor
from core.graph.circuit_tracer.worker.meter import Meter
from core.graph.effects import Effects
from core.graph.linear.weights import LinearWeights
from core.graph.requests import AttributionOptions, GraphPrompt
from core.graph.tracer import GraphTracer, TracerSettings
from core.graph.transcoders.opening import open_transcoders

_BUDGET_BYTES = 2**28
_TIMEOUT_S = 3600.0
_RANKED_ONCE = 1000


class _Replica:
    """A tracer and an attributor."""

    def __init__(self, size: Size) -> None:
        model = EagerModel.load(str(size.model), device="cpu", dtype="float32")
        transcoders = open_transcoders(
            str(size.transcoders),
            n_layers=size.n_layers,
            d_model=size.d_model,
            device="cpu",
            dtype=torch.float32,
            lazy_encoder=False,
            budget_bytes=_BUDGET_BYTES,
        )
        self._device = DeviceExecutor()
        limits = SchedulerLimits()
        self._tracer = GraphTracer(
            model, transcoders, str, self._device, TracerSettings("replay", _RANKED_ONCE, limits)
        )
        weights = LinearWeights.of_model(model.module).with_skips(transcoders)
        self._attributor = GraphAttributor(weights, transcoders.shape, self._device, limits)

    async def graph(self, ids: tuple[int, ...], kept: int | None) -> Effects:
        """One graph, from token ids to effects."""
        deadline = Deadline.after(_TIMEOUT_S)
        options = AttributionOptions(batch_size=BATCH_SIZE, max_feature_nodes=kept)
        traced = await self._tracer.trace(GraphPrompt(ids, 1), options, deadline)
        assert not isinstance(traced, Effects)
        run = range(len(traced.prompt.features))
        growing = await self._attributor.begin(traced)
        await self._attributor.grow(growing, run, BATCH_SIZE, deadline)
        return growing.assembly.whole()

    async def aclose(self) -> None:
        await self._attributor.aclose()
        await self._tracer.aclose()
        await self._device.aclose()


async def measure(order: Order) -> Found:
    """What graphs cost, and how many a second there are."""
    size = SIZES[order.size]
    with Meter() as loading:
        replica = _Replica(size)
    costs: dict[str, list[dict[str, float]]] = {}
    together: dict[str, dict[str, float]] = {}
    try:
        with Meter() as warming:
            await replica.graph(size.prompt(WARM_UP), size.kept)
        for name, kept in order.settings(size).items():
            costs[name] = []
            for number in range(order.passes):
                with Meter() as meter:
                    effects = await replica.graph(size.prompt(number), kept)
                costs[name].append(meter.cost)
                if number == 0:
                    save(effects, Path(order.folder) / f"{name}.safetensors")
                del effects
        for count in order.at_once:
            prompts = [size.prompt(number) for number in range(count)]
            together[str(count)] = {
                "in_turn_s": await _in_turn(replica, prompts, size.kept),
                "at_once_s": await _at_once(replica, prompts, size.kept),
            }
    finally:
        await replica.aclose()
    return {"load": loading.cost, "warm_up": warming.cost, "graphs": costs, "together": together}


async def _in_turn(replica: _Replica, prompts: Sequence[tuple[int, ...]], kept: int) -> float:
    began_s = time.perf_counter()
    for prompt in prompts:
        await replica.graph(prompt, kept)
    return time.perf_counter() - began_s


async def _at_once(replica: _Replica, prompts: Sequence[tuple[int, ...]], kept: int) -> float:
    began_s = time.perf_counter()
    await asyncio.gather(*(replica.graph(prompt, kept) for prompt in prompts))
    return time.perf_counter() - began_s


def main(words: Sequence[str]) -> Any:
    """Measures what is ordered on the command line."""
    order = Order.read(words)
    torch.set_num_threads(order.threads)
    report(asyncio.run(measure(order)))


if __name__ == "__main__":
    main(sys.argv[1:])
