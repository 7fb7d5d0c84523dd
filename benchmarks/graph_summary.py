"""From the rounds of `make bench-graphs` to the figures that are compared, and whether the aims are met.

Times are compared with the faster of circuit-tracer's backends, memory with the smaller, within a round first; then the
median over rounds is taken. Memory is what a process grows by, from model and transcoders being loaded to the largest
moment of a graph, pages of weight files left out: neither those nor what each side's libraries take has to do with
graphs. The peak of all that is resident is beside it.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from statistics import median
from typing import Any

from benchmarks.graph_timing import KEPT, WHOLE

Figures = dict[str, Any]

OURS = "ours"
PEERS = ("nnsight", "transformerlens")
PEER = "circuit_tracer"
ENGINES = (OURS, *PEERS)
LARGEST_DOCUMENT = "11,738"

_FASTER_AT_LEAST = 8.0
_MEMORY_AT_MOST = 0.25
_PRUNE_AT_MOST_S = 1.0
_AT_ONCE = "4"


@dataclass(frozen=True, slots=True)
class Aim:
    """One sentence of what was promised, for one case.

    Attributes:
        name: What is compared, and the bound.
        case: For which size and setting.
        unit: `x` or `s`.
        measured: In that unit.
        met: Whether it is within the bound.
    """

    name: str
    case: str
    unit: str
    measured: float
    met: bool


def summarise(rounds: Sequence[Figures]) -> Figures:
    """Medians over rounds.

    Args:
        rounds: `sizes`, by size, by engine: what `graph_ours` and `graph_peer` found; `documents`, by engine, by number
            of nodes.
    """
    return {
        "sizes": {size: _of_size([one["sizes"][size] for one in rounds]) for size in rounds[0]["sizes"]},
        "documents": {
            name: _of_document([one["documents"] for one in rounds], name) for name in rounds[0]["documents"][OURS]
        },
    }


def judge(summary: Figures) -> list[Figures]:
    """The aims, one by one."""
    return [asdict(aim) for aim in _aims(summary)]


def costs(passes: Sequence[Figures], loaded_bytes: float) -> Figures:
    """Medians of the times of one round's passes, and the most memory of any, own over what was loaded and resident."""
    return {
        "wall_s": median(one["wall_s"] for one in passes),
        "cpu_s": median(one["cpu_s"] for one in passes),
        "grown_bytes": max(0, max(one["peak_own_bytes"] for one in passes) - loaded_bytes),
        "peak_bytes": max(one["peak_bytes"] for one in passes),
    }


def _of_size(rounds: Sequence[Figures]) -> Figures:
    settings = [name for name in (KEPT, WHOLE) if name in rounds[0][OURS]["graphs"]]
    return {
        "graphs": {setting: _of_setting(rounds, setting) for setting in settings},
        "together": {
            count: _of_together(int(count), [one[OURS]["together"][count] for one in rounds])
            for count in rounds[0][OURS]["together"]
        },
    }


def _of_together(count: int, rounds: Sequence[Figures]) -> Figures:
    return {
        "per_s": _median(rounds, lambda one: count / one["at_once_s"]),
        "gain": _median(rounds, lambda one: one["in_turn_s"] / one["at_once_s"]),
    }


def _of_setting(rounds: Sequence[Figures], setting: str) -> Figures:
    by_round = [
        {
            engine: costs(one[engine]["graphs"][setting], one[engine]["warm_up"]["before_own_bytes"])
            for engine in ENGINES
        }
        for one in rounds
    ]
    return {
        "engines": _medians(by_round),
        "faster": _median(by_round, lambda one: _least(one, "wall_s") / one[OURS]["wall_s"]),
        "faster_cpu": _median(by_round, lambda one: _least(one, "cpu_s") / one[OURS]["cpu_s"]),
        "memory": _median(by_round, lambda one: one[OURS]["grown_bytes"] / max(1.0, _least(one, "grown_bytes"))),
    }


def _of_document(rounds: Sequence[Figures], name: str) -> Figures:
    found: Figures = {}
    for kind in ("prune", "document"):
        passes = [{engine: one[engine][name][kind] for engine in (OURS, PEER)} for one in rounds]
        found[kind] = _medians(
            [{engine: costs(of, of[0]["before_own_bytes"]) for engine, of in one.items()} for one in passes]
        )
    return found | {size: rounds[0][OURS][name][size] for size in ("nodes", "links", "document_bytes")}


def _medians(rounds: Sequence[Figures]) -> Figures:
    """By engine, by measure."""
    return {
        engine: {name: round(median(one[engine][name] for one in rounds), 4) for name in measured}
        for engine, measured in rounds[0].items()
    }


def _aims(summary: Figures) -> Iterable[Aim]:
    for size, found in summary["sizes"].items():
        for setting, figures in found["graphs"].items():
            case = f"{size}, {setting}"
            faster, memory = figures["faster"], figures["memory"]
            yield Aim(f"at least {_FASTER_AT_LEAST:g}x faster", case, "x", faster, faster >= _FASTER_AT_LEAST)
            yield Aim(f"at most {_MEMORY_AT_MOST:g}x the memory", case, "x", memory, memory <= _MEMORY_AT_MOST)
        if _AT_ONCE in found["together"]:
            gain = found["together"][_AT_ONCE]["gain"]
            yield Aim(f"{_AT_ONCE} graphs at once / one after the other: above 1x", size, "x", gain, gain > 1)
    if LARGEST_DOCUMENT in summary["documents"]:
        took_s = summary["documents"][LARGEST_DOCUMENT]["prune"][OURS]["wall_s"]
        case = f"{LARGEST_DOCUMENT} nodes"
        yield Aim(f"pruned in under {_PRUNE_AT_MOST_S:g} s", case, "s", took_s, took_s < _PRUNE_AT_MOST_S)


def _least(engines: Figures, name: str) -> float:
    return min(engines[engine][name] for engine in PEERS)


def _median(rounds: Sequence[Figures], of: Callable[[Figures], float]) -> float:
    return round(median(of(one) for one in rounds), 4)
