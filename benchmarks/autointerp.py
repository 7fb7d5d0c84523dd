"""`make bench-autointerp`: explaining and scoring latents, and caching activations, ours beside delphi 0.1.3's own.

    per round:  the same latents through delphi's pipeline in three settings and through a job of ours in two, and in
                one on a cluster, or backwards; the provider is started anew for each
                the same corpus through delphi's LatentCache and through ours, at two sizes

Each engine is a process of its own, one at a time, nothing else running but the provider. Scores of the same latent are
compared, and so are the numbers of calls and of activations kept, so that none is fast by doing less. A run takes about
an hour on two quiet cores (`--quick`: two minutes, which judge nothing at 1 M tokens) and writes
`results/autointerp.json` after each round; `python -m benchmarks.report` makes the README's tables from it. Nothing
outside the machine is asked.
"""

import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from benchmarks.autointerp_provider import Latency, Provider
from benchmarks.autointerp_report import RESULTS, tables
from benchmarks.autointerp_summary import ENGINES, OURS, PEERS, SETTINGS, Setting, judge, summarise
from benchmarks.autointerp_timing import AskingOrder, CachingOrder
from benchmarks.machine import machine_facts
from benchmarks.progress import Show, steps

_BUSY_PERCENT = 5.0
_TIMEOUT_S = 3600.0
_SAME_CALLS = 0.02
_SAME_RECORDS = 1e-4
_SAME_SCORE = 1e-9
_TOKENS = (2**17, 2**20)  # whole batches of 32 windows
_MODULES = {
    "ours": "benchmarks.autointerp_ours",
    "cluster": "benchmarks.autointerp_cluster",
    "delphi": "benchmarks.autointerp_delphi",
}
_QUIET = {"HF_HUB_OFFLINE": "1", "NO_PROXY": "127.0.0.1", "no_proxy": "127.0.0.1", "TQDM_DISABLE": "1"}


@dataclass(frozen=True, slots=True)
class Plan:
    """What one run measures.

    Attributes:
        latents: Latents that are explained and scored.
        tokens: Sizes of the corpus that is cached.
        rounds: How often everything is repeated.
        cluster: Whether a job on a cluster is measured, too.
        latency: How long the provider's calls take.
        threads: torch's threads, on both sides.
    """

    latents: int
    tokens: list[int]
    rounds: int
    cluster: bool
    latency: Latency
    threads: int

    @property
    def settings(self) -> list[Setting]:
        """How latents are explained and scored."""
        return [setting for setting in SETTINGS if self.cluster or setting.side != "cluster"]

    def latents_of(self, setting: Setting) -> int:
        """How many a setting does."""
        return max(1, round(self.latents * setting.share))


def run(plan: Plan, console: Console, keep: Callable[[dict[str, Any]], None]) -> None:
    """Measures everything; hands what is known to `keep` after each round, so that a late failure costs one round.

    Raises:
        RuntimeError: An engine failed, or did something else than the others.
    """
    facts = machine_facts(("torch", "transformers", "eai-delphi", "httpx"))
    if facts["busy_percent"] > _BUSY_PERCENT:
        console.print(f"[yellow]The machine is {facts['busy_percent']} % busy: figures will be noisy.[/yellow]")
    rounds: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory(prefix="autointerp-") as folder:
        console.print("Making a corpus and choosing latents ...")
        _engine("benchmarks.autointerp_cases", [folder, str(max(plan.tokens)), str(plan.latents)])
        with steps(console, plan.rounds * (len(plan.settings) + len(plan.tokens) * len(ENGINES))) as show:
            for number in range(plan.rounds):
                forth = 1 if number % 2 == 0 else -1
                asking = _ask(plan, folder, plan.settings[::forth], show)
                caching = {str(size): _cache(plan, folder, size, [*ENGINES][::forth], show) for size in plan.tokens}
                rounds.append({"asking": asking, "caching": caching})
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


def _ask(plan: Plan, folder: str, settings: Sequence[Setting], show: Show) -> dict[str, Any]:
    """What each setting came to, by name, in the order of the tables."""
    found: dict[str, Any] = {}
    for setting in settings:
        with show(setting.name), Provider(plan.latency) as provider:
            order = AskingOrder(folder, provider.url, plan.latents_of(setting), setting.at_once)
            found[setting.name] = _engine(_MODULES[setting.side], order.words) | {"provider": provider.figures()}
    check_same_work(found)
    for one in found.values():
        del one["scores"]
    return {setting.name: found[setting.name] for setting in plan.settings}


def check_same_work(found: Mapping[str, Any]) -> None:
    """Refuses figures of runs that did not do the same.

    Raises:
        RuntimeError: They lack rows, asked more or less often, or found other scores.
    """
    fullest = max(found.values(), key=lambda one: one["latents"])
    for name, one in found.items():
        if one["failed_rows"]:
            raise RuntimeError(f"{name}: {one['failed_rows']} of {one['rows']} rows failed")
        calls, usual = (of["provider"]["calls"] / of["latents"] for of in (one, fullest))
        if abs(calls - usual) > _SAME_CALLS * usual:
            raise RuntimeError(f"{name}: {calls:.2f} calls for a latent, others made {usual:.2f}")
        if len(one["scores"]["detection"]) != one["latents"]:
            raise RuntimeError(f"{name}: {len(one['scores']['detection'])} of {one['latents']} latents were scored")
        for latent, score in one["scores"]["detection"].items():
            other = fullest["scores"]["detection"].get(latent, score)
            if score is None or other is None or abs(score - other) > _SAME_SCORE:
                raise RuntimeError(f"{name}: latent {latent} has detection score {score}, elsewhere {other}")


def _cache(plan: Plan, folder: str, n_tokens: int, engines: Sequence[str], show: Show) -> dict[str, Any]:
    """What caching came to, by engine."""
    found: dict[str, Any] = {}
    for engine in engines:
        with show(f"caching {n_tokens:,} tokens: {engine}"):
            side = "ours" if engine == OURS else "delphi"
            order = CachingOrder(folder, side, n_tokens, ENGINES[engine], plan.threads)
            found[engine] = _engine("benchmarks.autointerp_caching", order.words)
    check_same_records(found)
    return {engine: found[engine] for engine in ENGINES}


def check_same_records(found: Mapping[str, Any]) -> None:
    """Refuses figures of engines that did not keep the same share of activations per token.

    Raises:
        RuntimeError: They did not.
    """
    ours = found[OURS]["records"] / found[OURS]["tokens"]
    for peer in PEERS:
        theirs = found[peer]["records"] / found[peer]["tokens"]
        if abs(ours - theirs) > _SAME_RECORDS * theirs:
            raise RuntimeError(f"we keep {ours:.3f} activations per token, {peer} {theirs:.3f}")


def _engine(name: str, words: Sequence[str]) -> Any:
    """Runs a module to its end; what it printed last, None if nothing."""
    ran = subprocess.run(
        [sys.executable, "-m", name, *words],
        capture_output=True,
        text=True,
        timeout=_TIMEOUT_S,
        check=False,
        env=os.environ | _QUIET,
    )
    if ran.returncode:
        raise RuntimeError(f"{name} failed:\n{ran.stderr[-4000:]}")
    lines = ran.stdout.splitlines()
    return json.loads(lines[-1]) if lines else None


def _write(output: Path, result: dict[str, Any]) -> None:
    output.write_text(json.dumps(result, indent=1) + "\n")


def main(
    quick: Annotated[bool, typer.Option(help="One short round: few latents, a small corpus.")] = False,
    latents: Annotated[int | None, typer.Option(help="How many latents are explained and scored.")] = None,
    tokens: Annotated[list[int] | None, typer.Option(help="Sizes of the corpus that is cached.")] = None,
    rounds: Annotated[int | None, typer.Option(help="How often everything is repeated.")] = None,
    cluster: Annotated[bool, typer.Option(help="Measure a job on a cluster, too; not with --quick.")] = True,
    median_s: Annotated[float, typer.Option(help="Median latency of the provider's calls, seconds.")] = 0.8,
    output: Annotated[Path, typer.Option(help="Where the results go.")] = RESULTS,
) -> None:
    """Measure automatic interpretability."""
    # However the run ends, the engine under test ends with it.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    console = Console(stderr=True)
    plan = Plan(
        latents=latents or (12 if quick else 200),
        tokens=tokens or ([2**15] if quick else [*_TOKENS]),
        rounds=rounds or (1 if quick else 3),
        cluster=cluster and not quick,
        latency=Latency(median_s),
        threads=os.cpu_count() or 1,
    )
    output.parent.mkdir(parents=True, exist_ok=True)
    run(plan, console, lambda result: _write(output, result))
    console.print(tables(json.loads(output.read_text())), markup=False, highlight=False, soft_wrap=True)
    console.print(f"Written to {output}. `python -m benchmarks.report` puts these tables into the README.")


if __name__ == "__main__":
    typer.run(main)
