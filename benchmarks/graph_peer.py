"""circuit-tracer's side of `make bench-graphs`: the same prompts through each of its backends, in its own process."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.graph_cases import BATCH_SIZE, DEMO, SIZES
from benchmarks.graph_synthetic import EDGE_THRESHOLD, NODE_THRESHOLD, SHAPES, synthetic
from benchmarks.graph_timing import WARM_UP, Order, save
from core.graph.circuit_tracer.engine import Backend, CircuitTracer, Settings
from core.graph.circuit_tracer.process import interpreter

BACKENDS: tuple[Backend, ...] = ("nnsight", "transformerlens")

_TIMEOUT_S = 3600.0
_RANKED_ONCE = 1000


def measure(order: Order, backend: Backend) -> dict[str, Any]:
    """What graphs cost circuit-tracer, one by one, which is the only way it can.

    Raises:
        RayscopeError: circuit-tracer failed.
        Unavailable: It is not installed.
    """
    size = SIZES[order.size]
    with CircuitTracer(interpreter(), timeout_s=_TIMEOUT_S, threads=order.threads) as tracer:
        load = tracer.load(size.model, size.transcoders, backend)
        _, warm_up = tracer.attribute(size.prompt(WARM_UP), _settings(size.kept))
        costs: dict[str, list[dict[str, float]]] = {}
        for name, kept in order.settings(size).items():
            costs[name] = []
            for number in range(order.passes):
                effects, cost = tracer.attribute(size.prompt(number), _settings(kept))
                costs[name].append(cost.as_figures())
                if number == 0:
                    save(effects, Path(order.folder) / f"{name}.safetensors")
                del effects
    return {"load": load.as_figures(), "warm_up": warm_up.as_figures(), "graphs": costs}


def _settings(kept: int | None) -> Settings:
    return Settings(max_feature_nodes=kept, batch_size=BATCH_SIZE, update_interval=_RANKED_ONCE)


def measure_documents(names: Sequence[str], threads: int) -> dict[str, Any]:
    """What pruning and writing of made-up graphs cost circuit-tracer, and how much it keeps.

    Raises:
        RayscopeError: circuit-tracer failed.
        Unavailable: It is not installed.
    """
    demo, found = SIZES[DEMO], {}
    with CircuitTracer(interpreter(), timeout_s=_TIMEOUT_S, threads=threads) as tracer:
        tracer.load(demo.model, demo.transcoders, "nnsight")  # for its tokenizer
        for name in names:
            effects = synthetic(SHAPES[name])
            pruned = tracer.prune(effects, NODE_THRESHOLD, EDGE_THRESHOLD)
            content, cost = tracer.document(effects, NODE_THRESHOLD, EDGE_THRESHOLD)
            found[name] = {
                "prune": [pruned.cost.as_figures()],
                "document": [cost.as_figures()],
                "nodes": int(pruned.nodes.sum()),
                "links": int(pruned.edges.sum()),
                "document_bytes": len(content),
            }
    return found
