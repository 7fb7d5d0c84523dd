"""Pruning and writing of made-up graphs, ours: `python -m benchmarks.graph_documents THREADS NAME...`."""

import sys
from collections.abc import Sequence
from typing import Any

import torch

from benchmarks.graph_synthetic import EDGE_THRESHOLD, NODE_THRESHOLD, SHAPES, Shape, synthetic
from benchmarks.graph_timing import report
from core.graph.circuit_tracer.worker.meter import Meter
from core.graph.document import Generator, GraphInfo, GraphTitle, graph_document
from core.graph.effects import Effects
from core.graph.pruning import prune
from core.graph.requests import AttributionOptions

_PASSES = 3


def measure(shape: Shape, passes: int) -> dict[str, Any]:
    """What pruning costs, and what it costs together with writing; how much is kept."""
    effects = synthetic(shape)
    pruning: list[dict[str, float]] = []
    both: list[dict[str, float]] = []
    for _ in range(passes):
        with Meter() as meter:
            graph = prune(effects, NODE_THRESHOLD, EDGE_THRESHOLD)
        pruning.append(meter.cost)
        with Meter() as meter:
            content = b"".join(graph_document(prune(effects, NODE_THRESHOLD, EDGE_THRESHOLD), _title(effects)).chunks())
        both.append(meter.cost)
    return {
        "prune": pruning,
        "document": both,
        "nodes": graph.n_nodes,
        "links": graph.n_links,
        "document_bytes": len(content),
    }


def _title(effects: Effects) -> GraphTitle:
    return GraphTitle(
        slug="slug",
        scan="scan",
        prompt="",
        prompt_tokens=tuple(map(str, effects.token_ids)),
        info=GraphInfo("", "", (), "", Generator("", "", ""), 0),
        generation=AttributionOptions(),
    )


def main(words: Sequence[str]) -> None:
    """Measures what is named on the command line."""
    threads, *names = words
    torch.set_num_threads(int(threads))
    measure(next(iter(SHAPES.values())), passes=1)
    report({name: measure(SHAPES[name], _PASSES) for name in names})


if __name__ == "__main__":
    main(sys.argv[1:])
