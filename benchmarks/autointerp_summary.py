"""From the rounds of `make bench-autointerp` to the figures that are compared, and whether the aims are met.

Ratios are taken within a round, then their median. Two sides of one round had the same examples, the same questions
but for their order, and latencies from the same stream.

Memory is what a process grows by, from before the run to its largest moment, model and SAEs included: all that is
resident, and beside it what has no file behind it.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from statistics import median
from typing import Any, Literal

from benchmarks.load import percentile

Figures = dict[str, Any]

MILLION = 1_000_000
OURS = "ours"

_FASTER_AT_LEAST = 8.0
_CACHING_AT_LEAST = 1.0
_MEMORY_AT_MOST = 0.25
_PER_MINUTE = 60.0


@dataclass(frozen=True, slots=True)
class Setting:
    """How explaining and scoring is run.

    Attributes:
        name: In tables.
        side: Whose, and for ours, in one process or on a cluster.
        at_once: Latents at once in delphi's pipeline, calls at once, and units of the job, in ours.
        share: Which part of the latents is done; what one does at a time takes 20 s for each.
        against: For ours: names of delphi's settings that it is compared with.
    """

    name: str
    side: Literal["delphi", "ours", "cluster"]
    at_once: int
    share: float = 1.0
    against: tuple[str, ...] = ()


COMMAND = Setting("delphi, its command with OpenRouter", "delphi", 1, share=0.05)
"""`python -m delphi --explainer_provider openrouter` sets `pipeline_num_proc` to 1."""
PIPELINE = Setting("delphi, default of its pipeline", "delphi", 10)
"""`Pipeline.run()`."""
BEST = Setting("delphi, at its best", "delphi", 64)
"""Both scorers of a latent run at once, and its client has httpx's 100 connections: more latents gain nothing."""
_DELPHI = (COMMAND.name, PIPELINE.name, BEST.name)
SETTINGS = (
    COMMAND,
    PIPELINE,
    BEST,
    Setting("Rayscope, in one process", "ours", 256, against=_DELPHI),
    Setting("Rayscope, on a cluster", "cluster", 256, against=_DELPHI),
)

ENGINES: Mapping[str, int | None] = {OURS: None, "delphi, batches of 32": 32, "delphi, batches of 8": 8}
"""Engines of the caching part, with delphi's batches of windows; 32 is its default."""
PEERS = tuple(name for name in ENGINES if name != OURS)


@dataclass(frozen=True, slots=True)
class Aim:
    """One sentence of what was promised, for one case.

    Attributes:
        name: What is compared, and the bound.
        case: Between whom.
        measured: The ratio.
        met: Whether it is within the bound.
    """

    name: str
    case: str
    measured: float
    met: bool


def summarise(rounds: Sequence[Figures]) -> Figures:
    """Medians over rounds.

    Args:
        rounds: `asking`, by setting: what an engine and the provider found; `caching`, by number of tokens, by engine.
    """
    asking = [{name: asked(found) for name, found in one["asking"].items()} for one in rounds]
    return {
        "asking": _medians(asking),
        "faster": {
            setting.name: {
                other: _median(asking, lambda one, a=setting.name, b=other: _ratio(one, a, b, "latents_per_min"))
                for other in setting.against
            }
            for setting in SETTINGS
            if setting.against and setting.name in asking[0]
        },
        "caching": {
            n_tokens: _of_caching([one["caching"][n_tokens] for one in rounds]) for n_tokens in rounds[0]["caching"]
        },
    }


def judge(summary: Figures) -> list[Figures]:
    """The aims, one by one."""
    return [asdict(aim) for aim in _aims(summary)]


def asked(found: Figures) -> Figures:
    """The figures of one run of explaining and scoring."""
    latents, wall_s, provider = found["latents"], found["wall_s"], found["provider"]
    return {
        "latents": latents,
        "latents_per_min": _PER_MINUTE * latents / wall_s,
        "calls_per_s": provider["calls"] / wall_s,
        "p50_s": percentile(found["latent_s"], 50),
        "p95_s": percentile(found["latent_s"], 95),
        "peak_in_flight": provider["peak_in_flight"],
        "calls_per_latent": provider["calls"] / latents,
        "cpu_ms_per_call": 1000 * found["cpu_s"] / provider["calls"],
        "provider_cpu_share": provider["cpu_s"] / wall_s,
    }


def cached(found: Figures) -> Figures:
    """The figures of one run of caching."""
    return {
        "tokens_per_s": found["tokens"] / found["recorded_s"],
        "whole_tokens_per_s": found["tokens"] / found["wall_s"],
        "cpu_s": found["cpu_s"],
        "grown_bytes": max(0.0, found["peak_bytes"] - found["before_bytes"]),
        "grown_own_bytes": max(0.0, found["peak_own_bytes"] - found["before_own_bytes"]),
        "size_bytes": found["size_bytes"],
        "records": found["records"],
    }


def _of_caching(rounds: Sequence[Figures]) -> Figures:
    by_round = [{name: cached(found) for name, found in one.items()} for one in rounds]
    return {
        "engines": _medians(by_round),
        "faster": _median(by_round, lambda one: one[OURS]["tokens_per_s"] / _best(one, "tokens_per_s")),
        "faster_whole": _median(by_round, lambda one: one[OURS]["whole_tokens_per_s"] / _best(one, "tokens_per_s")),
        "memory": _median(by_round, lambda one: one[OURS]["grown_bytes"] / max(1.0, _least(one, "grown_bytes"))),
    }


def _aims(summary: Figures) -> Iterable[Aim]:
    for name, against in summary["faster"].items():
        for other, ratio in against.items():
            aim = f"at least {_FASTER_AT_LEAST:g}x the latents per minute"
            yield Aim(aim, f"{name} / {other}", ratio, ratio >= _FASTER_AT_LEAST)
    for n_tokens, found in summary["caching"].items():
        if int(n_tokens) >= MILLION:
            case = f"{int(n_tokens):,} tokens"
            for what, ratio in (
                ("records", found["faster"]),
                ("records and reservoirs / records", found["faster_whole"]),
            ):
                name = f"at least {_CACHING_AT_LEAST:g}x the tokens per second, {what}"
                yield Aim(name, case, ratio, ratio >= _CACHING_AT_LEAST)
            memory = found["memory"]
            yield Aim(f"at most {_MEMORY_AT_MOST:g}x the memory", case, memory, memory <= _MEMORY_AT_MOST)


def _ratio(one: Figures, name: str, other: str, what: str) -> float:
    return one[name][what] / one[other][what]


def _best(engines: Figures, what: str) -> float:
    return max(engines[peer][what] for peer in PEERS)


def _least(engines: Figures, what: str) -> float:
    return min(engines[peer][what] for peer in PEERS)


def _medians(rounds: Sequence[Figures]) -> Figures:
    """By engine or setting, by measure."""
    return {
        name: {what: round(median(one[name][what] for one in rounds), 4) for what in measured}
        for name, measured in rounds[0].items()
    }


def _median(rounds: Sequence[Figures], of: Callable[[Figures], float]) -> float:
    return round(median(of(one) for one in rounds), 4)
