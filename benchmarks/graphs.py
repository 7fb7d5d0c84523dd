"""`make bench-graphs`: attribution graphs, ours beside circuit-tracer's on the same models and prompts.

    per round and size:  Rayscope -> circuit-tracer with nnsight -> circuit-tracer with TransformerLens, or backwards
    per round:           pruning and writing of made-up graphs, both

Each engine is a process of its own, one at a time, nothing else running. Graphs of the same prompt are compared, so
that none is fast by doing less. A run takes about an hour on two quiet cores (`--quick`: a few minutes, without the
largest size) and writes `results/graphs.json` after each round; `python -m benchmarks.report` makes the README's tables
from it. circuit-tracer comes from its own environment (`make oracle`).
"""

import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from benchmarks import graph_peer
from benchmarks.graph_cases import SIZES, build
from benchmarks.graph_report import RESULTS, tables
from benchmarks.graph_summary import ENGINES, OURS, PEER, judge, summarise
from benchmarks.graph_synthetic import SHAPES
from benchmarks.graph_timing import Order, difference
from benchmarks.machine import machine_facts
from benchmarks.progress import Show, steps

_BUSY_PERCENT = 5.0
_TIMEOUT_S = 3600.0
_SAME_FEATURES_AT_LEAST = 0.99
_DIFFERENCE_AT_MOST = 1e-4


@dataclass(frozen=True, slots=True)
class Plan:
    """What one run measures.

    Attributes:
        sizes: Models, by name.
        documents: Made-up graphs, by number of nodes.
        rounds: How often everything is repeated.
        passes: Prompts of each setting in a round.
        whole: Whether graphs of all features are measured, too.
        at_once: Numbers of graphs that are made at once.
        threads: torch's threads, on both sides.
    """

    sizes: list[str]
    documents: list[str]
    rounds: int
    passes: int
    whole: bool
    at_once: list[int]
    threads: int

    def order(self, size: str, folder: Path) -> Order:
        """What an engine is told."""
        return Order(size, str(folder), self.passes, self.whole, tuple(self.at_once), self.threads)


def run(plan: Plan, console: Console, keep: Callable[[dict[str, Any]], None]) -> None:
    """Measures everything; hands what is known to `keep` after each round, so that a late failure costs one round.

    Raises:
        RuntimeError: An engine failed, or two found different graphs.
        RayscopeError: circuit-tracer failed, or is not installed.
    """
    console.print("Making models and transcoders, unless they are there ...")
    for size in plan.sizes:
        build(SIZES[size])
    facts = machine_facts(("torch", "transformers"))
    if facts["busy_percent"] > _BUSY_PERCENT:
        console.print(f"[yellow]The machine is {facts['busy_percent']} % busy: figures will be noisy.[/yellow]")
    rounds: list[dict[str, Any]] = []
    with steps(console, plan.rounds * (len(plan.sizes) * len(ENGINES) + 2)) as show:
        for number in range(plan.rounds):
            engines = ENGINES if number % 2 == 0 else ENGINES[::-1]
            sizes = {size: _measure(plan, size, engines, show) for size in plan.sizes}
            with show("pruning and writing: ours"):
                ours = _ours("benchmarks.graph_documents", [str(plan.threads), *plan.documents])
            with show("pruning and writing: circuit-tracer"):
                theirs = graph_peer.measure_documents(plan.documents, plan.threads)
            _compare_documents(ours, theirs)
            rounds.append({"sizes": sizes, "documents": {OURS: ours, PEER: theirs}})
            summary = summarise(rounds)
            keep(
                {
                    "machine": facts,
                    "settings": asdict(plan) | {"rounds": len(rounds)},
                    "summary": summary,
                    "aims": judge(summary),
                    "rounds": rounds,
                }
            )


def _measure(plan: Plan, size: str, engines: Sequence[str], show: Show) -> dict[str, Any]:
    """What each engine found at one size."""
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory(prefix="graphs-") as root:
        for engine in engines:
            folder = Path(root) / engine
            folder.mkdir()
            order = plan.order(size, folder)
            with show(f"{size}: {engine}"):
                if engine == OURS:
                    found[engine] = _ours("benchmarks.graph_ours", order.words)
                else:
                    backend = next(name for name in graph_peer.BACKENDS if name == engine)
                    found[engine] = graph_peer.measure(order, backend)
        for engine in graph_peer.BACKENDS:
            found[engine]["agreement"] = {
                file.stem: _agreement(file, Path(root) / engine / file.name, f"{size}, {file.stem}, {engine}")
                for file in sorted((Path(root) / OURS).iterdir())
            }
    return found


def _ours(name: str, words: Sequence[str]) -> Any:
    ran = subprocess.run(
        [sys.executable, "-m", name, *words], capture_output=True, text=True, timeout=_TIMEOUT_S, check=False
    )
    if ran.returncode:
        raise RuntimeError(f"{name} failed:\n{ran.stderr[-4000:]}")
    return json.loads(ran.stdout.splitlines()[-1])


def _agreement(ours: Path, theirs: Path, case: str) -> dict[str, float]:
    found = difference(ours, theirs)
    if found["same_features"] < _SAME_FEATURES_AT_LEAST or found["effects"] > _DIFFERENCE_AT_MOST:
        raise RuntimeError(f"{case}: another graph than ours: {found}")
    return found


def _compare_documents(ours: dict[str, Any], theirs: dict[str, Any]) -> None:
    for name, found in ours.items():
        for what in ("nodes", "links"):
            if abs(found[what] - theirs[name][what]) > (1 - _SAME_FEATURES_AT_LEAST) * found[what]:
                raise RuntimeError(f"{name} nodes: we keep {found[what]} {what}, circuit-tracer {theirs[name][what]}")


def _write(output: Path, result: dict[str, Any]) -> None:
    output.write_text(json.dumps(result, indent=1) + "\n")


def main(
    quick: Annotated[bool, typer.Option(help="One short round without the largest size.")] = False,
    sizes: Annotated[list[str] | None, typer.Option(help="Sizes to measure; all if none is named.")] = None,
    rounds: Annotated[int | None, typer.Option(help="How often everything is repeated.")] = None,
    passes: Annotated[int | None, typer.Option(help="How many prompts of each setting a round has.")] = None,
    output: Annotated[Path, typer.Option(help="Where the results go.")] = RESULTS,
) -> None:
    """Measure attribution graphs."""
    # However the run ends, the engine under test ends with it.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    console = Console(stderr=True)
    plan = Plan(
        sizes=sizes or list(SIZES)[: 2 if quick else None],
        documents=list(SHAPES)[: 2 if quick else None],
        rounds=rounds or (1 if quick else 3),
        passes=passes or (2 if quick else 3),
        whole=True,
        at_once=[1, 4] if quick else [1, 4, 8],
        threads=os.cpu_count() or 1,
    )
    unknown = sorted(set(plan.sizes) - set(SIZES))
    if unknown:
        raise typer.BadParameter(f"unknown sizes {unknown}; there are {list(SIZES)}")
    output.parent.mkdir(parents=True, exist_ok=True)
    run(plan, console, lambda result: _write(output, result))
    console.print(tables(json.loads(output.read_text())), markup=False, highlight=False)
    console.print(f"Written to {output}. `python -m benchmarks.report` puts these tables into the README.")


if __name__ == "__main__":
    typer.run(main)
