"""`make bench-activations`: Rayscope over HTTP beside a plain server, an engine in process, and the limit.

    per round:  limit (c) -> peer (a) -> Rayscope -> interp-engine (b)       one at a time, nothing else running

Rounds interleave what is compared, so that a machine that grows slower during the run does not favour one side; medians
over rounds are compared. Before Rayscope is measured, its answers are compared with the peer's. A run takes about 40
minutes on two quiet cores (`--quick`: about 5) and writes `results/activations.json`; `python -m benchmarks.report`
makes the README's tables from it. On a machine that is busy with anything else the figures mean nothing: torch's
threads wait for each other by spinning, so a process that loses a core slows down tenfold.
"""

import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from benchmarks import interp_engine
from benchmarks.agreement import difference
from benchmarks.cluster import peer, rayscope, rayscope_demo
from benchmarks.load import measure
from benchmarks.machine import machine_facts
from benchmarks.progress import Show, steps
from benchmarks.report import tables
from benchmarks.server import Server
from benchmarks.summary import judge, summarise
from benchmarks.workload import ROUTES, Route
from benchmarks.world import build_world, hub_variables, read_prompts

RESULTS = Path(__file__).parent / "results" / "activations.json"
_COMPARED = 16
_BUSY_PERCENT = 15.0
_EVERY_SAE = ROUTES["all, 12 sources"]


@dataclass(frozen=True, slots=True)
class Plan:
    """What one run measures."""

    routes: list[str]
    clients: list[int]
    seconds: float
    rounds: int
    environment: dict[str, str]

    @property
    def steps(self) -> int:
        """Number of things that a run waits for."""
        return 1 + self.rounds * (2 * len(self.routes) * len(self.clients) + 4)


@dataclass(slots=True)
class Run:
    """One run: the rounds and what is compared between them."""

    plan: Plan
    show: Show
    folder: Path
    missing_engine: str | None
    prompts: list[str] = field(default_factory=read_prompts)
    _answers: dict[str, list[Any]] = field(default_factory=dict)

    def round(self) -> dict[str, Any]:
        """Everything once."""
        hub = hub_variables()
        engine_path = os.pathsep.join(filter(None, [str(interp_engine.FOLDER), os.environ.get("PYTHONPATH")]))
        found: dict[str, Any] = {"limit": self._in_process("limit", hub)}
        found["peer"] = self._over_http("peer", peer, self._remember)
        found["rayscope"] = self._over_http(
            "rayscope", lambda: rayscope(self.folder, self.plan.environment), self._compare
        )
        found["interp_engine"] = (
            None if self.missing_engine else self._in_process("interp_engine", hub | {"PYTHONPATH": engine_path})
        )
        return found

    def demo(self) -> dict[str, Any]:
        """How long `make serve` takes to its first answer, and what it weighs."""
        with self.show("rayscope: the demo of `make serve`"):
            try:
                with rayscope_demo(self.folder) as server:
                    return _weight(server)
            except RuntimeError as error:
                return {"error": str(error).splitlines()[0]}

    def _in_process(self, name: str, environment: dict[str, str]) -> dict[str, Any]:
        with self.show(f"{name}: in process"):
            command = [sys.executable, "-m", f"benchmarks.{name}", str(self.plan.seconds / 2), *self.plan.routes]
            done = subprocess.run(command, env=os.environ | environment, capture_output=True, text=True, check=False)
            if done.returncode:
                raise RuntimeError(f"benchmarks.{name} failed:\n{done.stderr[-2000:]}")
            return json.loads(done.stdout.splitlines()[-1])

    def _over_http(
        self, name: str, start: Callable[[], Server], check: Callable[[Server, Route], None]
    ) -> dict[str, Any]:
        routes: dict[str, Any] = {}
        with start() as server:
            with self.show(f"{name}: started"):
                # Loading SAEs goes on behind the first answer; this one needs all of them.
                server.answer(_EVERY_SAE.path, _EVERY_SAE.body(0, self.prompts[0]))
                for route in map(ROUTES.__getitem__, self.plan.routes):
                    check(server, route)
            for route in map(ROUTES.__getitem__, self.plan.routes):
                routes[route.name] = {}
                for clients in self.plan.clients:
                    with self.show(f"{name}: {route.name}, {clients} clients"):
                        seen = measure(server.url + route.path, route.bodies(self.prompts), clients, self.plan.seconds)
                    routes[route.name][str(clients)] = asdict(seen)
                    server.weigh()
            return _weight(server) | {"routes": routes}

    def _remember(self, server: Server, route: Route) -> None:
        if route.name not in self._answers:
            bodies = route.bodies(self.prompts)[:_COMPARED]
            self._answers[route.name] = [server.answer(route.path, body) for body in bodies]

    def _compare(self, server: Server, route: Route) -> None:
        bodies = route.bodies(self.prompts)[:_COMPARED]
        for body, expected in zip(bodies, self._answers[route.name], strict=True):
            differs = difference(expected, server.answer(route.path, body))
            if differs is not None:
                raise RuntimeError(f"{route.name}: peer and Rayscope do not agree: {differs}")


def run(plan: Plan, console: Console, keep: Callable[[dict[str, Any]], None]) -> None:
    """Measures everything; hands what is known to `keep` after each round, so that a late failure costs one round.

    Raises:
        RuntimeError: A server did not start, or two disagreed.
    """
    console.print("Making the model and the SAEs, unless they are there ...")
    build_world()
    missing = interp_engine.install()
    facts = machine_facts()
    if facts["busy_percent"] > _BUSY_PERCENT:
        console.print(f"[yellow]The machine is {facts['busy_percent']} % busy: figures will be noisy.[/yellow]")
    with steps(console, plan.steps) as show, tempfile.TemporaryDirectory(prefix="rs-") as folder:
        one = Run(plan, show, Path(folder), missing)
        demo = one.demo()
        rounds: list[dict[str, Any]] = []
        for _ in range(plan.rounds):
            rounds.append(one.round())
            summary = summarise(rounds)
            keep(
                {
                    "machine": facts,
                    "settings": asdict(plan) | {"rounds": len(rounds), "threads": rounds[0]["limit"]["threads"]},
                    "interp_engine": {"version": interp_engine.VERSION, "missing": missing},
                    "demo": demo,
                    "summary": summary,
                    "aims": judge(summary),
                    "rounds": rounds,
                }
            )


def _write(output: Path, result: dict[str, Any]) -> None:
    output.write_text(json.dumps(result, indent=1) + "\n")


def _weight(server: Server) -> dict[str, Any]:
    return {
        "start_s": round(server.start_s, 2),
        "peak_pss_bytes": server.peak_pss_bytes,
        "processes": server.processes,
    }


def main(
    quick: Annotated[bool, typer.Option(help="One short round at 1 and 16 clients.")] = False,
    routes: Annotated[list[str] | None, typer.Option(help="Routes to measure; all if none is named.")] = None,
    clients: Annotated[list[int] | None, typer.Option(help="Numbers of clients.")] = None,
    seconds: Annotated[float | None, typer.Option(help="Seconds per measurement.")] = None,
    rounds: Annotated[int | None, typer.Option(help="How often everything is repeated.")] = None,
    env: Annotated[list[str] | None, typer.Option(help="NAME=VALUE for Rayscope's processes; repeat.")] = None,
    output: Annotated[Path, typer.Option(help="Where the results go.")] = RESULTS,
) -> None:
    """Measure the activation routes."""
    # However the run ends, the server under test ends with it.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    console = Console(stderr=True)
    plan = Plan(
        routes=routes or list(ROUTES),
        clients=clients or ([1, 16] if quick else [1, 8, 16, 32]),
        seconds=seconds or (3.0 if quick else 8.0),
        rounds=rounds or (1 if quick else 3),
        environment=dict(pair.split("=", 1) for pair in env or []),
    )
    unknown = sorted(set(plan.routes) - set(ROUTES))
    if unknown:
        raise typer.BadParameter(f"unknown routes {unknown}; there are {list(ROUTES)}")
    output.parent.mkdir(parents=True, exist_ok=True)
    run(plan, console, lambda result: _write(output, result))
    console.print(tables(json.loads(output.read_text())), markup=False, highlight=False)
    console.print(f"Written to {output}. `python -m benchmarks.report` puts these tables into the README.")


if __name__ == "__main__":
    typer.run(main)
