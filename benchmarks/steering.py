"""`make bench-steering`: vLLM without and with our extension, and the eager engine beside `generate` with hooks.

    per round and model:  vLLM plain -> vLLM + extension -> eager -> transformers       every other round backwards

Each engine is a process of its own, one at a time, nothing else running. What engines write on the same prompts is
compared, so that none is fast by doing less. A run takes about half an hour on two quiet cores (`--quick`: a few
minutes) and writes `results/steering.json` after each round; `python -m benchmarks.report` makes the README's tables
from it. An overhead of 1 % can only be seen on a machine that does nothing else.
"""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from importlib.metadata import packages_distributions
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from benchmarks.llama import LLAMA, build_llama
from benchmarks.machine import machine_facts
from benchmarks.progress import Show, steps
from benchmarks.steering_cases import agreement
from benchmarks.steering_report import RESULTS, tables
from benchmarks.steering_summary import EAGER, EXTENSION, PLAIN, TRANSFORMERS, judge, summarise
from benchmarks.steering_timing import Order
from benchmarks.steering_vllm import ENVIRONMENT
from core.catalogue.catalogue import weights_location

_DEMO = "rayscope-demo"
_MODELS: Mapping[str, Callable[[], Path]] = {_DEMO: lambda: Path(weights_location(_DEMO)), LLAMA: build_llama}
_ENGINES = (PLAIN, EXTENSION, EAGER, TRANSFORMERS)
_ON_VLLM = (PLAIN, EXTENSION)
_BUSY_PERCENT = 5.0
_TIMEOUT_S = 3600.0
# Rounding differs between engines, and a random model's likeliest tokens may lie close together.
_AGREEMENT_AT_LEAST = 0.75


@dataclass(frozen=True, slots=True)
class Plan:
    """What one run measures."""

    models: list[str]
    rounds: int
    passes: int
    seconds: float
    vllm_tokens: int
    eager_tokens: int

    def order(self, engine: str, folder: Path) -> Order:
        """What an engine's process is told."""
        return Order(folder, self.passes, self.seconds, self.vllm_tokens if engine in _ON_VLLM else self.eager_tokens)


def run(plan: Plan, console: Console, keep: Callable[[dict[str, Any]], None]) -> None:
    """Measures everything; hands what is known to `keep` after each round, so that a late failure costs one round.

    Raises:
        RuntimeError: An engine failed, or two wrote different texts.
    """
    console.print("Making the model, unless it is there ...")
    folders = {model: _MODELS[model]() for model in plan.models}
    facts = machine_facts(("torch", "transformers", packages_distributions()["vllm"][0]))
    if facts["busy_percent"] > _BUSY_PERCENT:
        console.print(f"[yellow]The machine is {facts['busy_percent']} % busy: figures will be noisy.[/yellow]")
    rounds: list[dict[str, Any]] = []
    with steps(console, plan.rounds * len(folders) * len(_ENGINES)) as show:
        for number in range(plan.rounds):
            engines = _ENGINES if number % 2 == 0 else _ENGINES[::-1]
            found = {
                model: {engine: _measure(engine, plan.order(engine, folder), model, show) for engine in engines}
                for model, folder in folders.items()
            }
            for model, of_engines in found.items():
                _compare(model, of_engines)
            rounds.append(found)
            summary = summarise(rounds, plan.vllm_tokens)
            keep(
                {
                    "machine": facts,
                    "settings": asdict(plan) | {"rounds": len(rounds)},
                    "summary": summary,
                    "aims": judge(summary),
                    "rounds": rounds,
                }
            )


def _measure(engine: str, order: Order, model: str, show: Show) -> dict[str, Any]:
    name = f"benchmarks.steering_{engine}"
    with show(f"{model}: {engine}"):
        # A group of its own, so that the processes that vLLM starts end with it.
        process = subprocess.Popen(
            [sys.executable, "-m", name, *order.words],
            env=os.environ | ENVIRONMENT,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        try:
            output, errors = process.communicate(timeout=_TIMEOUT_S)
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
        if process.returncode:
            raise RuntimeError(f"{name} failed:\n{errors[-4000:]}")
        # What vLLM prints may come after it.
        return json.loads(next(line for line in reversed(output.splitlines()) if line.startswith('{"ms"')))


def _compare(model: str, found: dict[str, Any]) -> None:
    """Replaces what engines wrote by how far they agree with transformers."""
    written = {engine: one.pop("written") for engine, one in found.items()}
    for engine in (EXTENSION, EAGER):
        share = agreement(written[engine], written[TRANSFORMERS])
        if share < _AGREEMENT_AT_LEAST:
            raise RuntimeError(
                f"{model}: {engine} writes what transformers writes in {share:.0%} of the sequences only"
            )
        found[engine]["agreement"] = share


def _write(output: Path, result: dict[str, Any]) -> None:
    output.write_text(json.dumps(result, indent=1) + "\n")


def main(
    quick: Annotated[bool, typer.Option(help="One short round.")] = False,
    models: Annotated[list[str] | None, typer.Option(help="Models to measure; both if none is named.")] = None,
    rounds: Annotated[int | None, typer.Option(help="How often everything is repeated.")] = None,
    passes: Annotated[int | None, typer.Option(help="How often each kind of work is timed in a round.")] = None,
    output: Annotated[Path, typer.Option(help="Where the results go.")] = RESULTS,
) -> None:
    """Measure steering."""
    # However the run ends, the engine under test ends with it.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    console = Console(stderr=True)
    plan = Plan(
        models=models or list(_MODELS),
        rounds=rounds or (1 if quick else 3),
        passes=passes or (2 if quick else 7),
        seconds=0.5 if quick else 1.0,
        vllm_tokens=32 if quick else 64,
        eager_tokens=16,
    )
    unknown = sorted(set(plan.models) - set(_MODELS))
    if unknown:
        raise typer.BadParameter(f"unknown models {unknown}; there are {list(_MODELS)}")
    output.parent.mkdir(parents=True, exist_ok=True)
    run(plan, console, lambda result: _write(output, result))
    console.print(tables(json.loads(output.read_text())), markup=False, highlight=False)
    console.print(f"Written to {output}. `python -m benchmarks.report` puts these tables into the README.")


if __name__ == "__main__":
    typer.run(main)
