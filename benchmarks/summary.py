"""From the rounds of a run to the figures that are compared: medians over rounds, and whether the aims are met.

`single` has two limits. The aims are judged by the harder one, which encodes a single column; the easier one, which
encodes every feature as the seed does, is kept beside it.
"""

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from statistics import median
from typing import Any

Figures = dict[str, Any]

_ONE, _MANY = "1", "16"
WHOLE = "single, whole encoding"


@dataclass(frozen=True, slots=True)
class Aim:
    """One sentence of what was promised, for one route.

    Attributes:
        name: What is compared.
        route: For which route.
        bound: `at most` or `at least` this ratio.
        measured: The ratio.
        met: Whether it is.
    """

    name: str
    route: str
    bound: float
    measured: float
    met: bool


def summarise(rounds: list[Figures]) -> Figures:
    """Medians over rounds, by who was measured, then route, then number of clients or size of the batch."""
    summary: Figures = {
        server: {
            "start_s": round(median(one[server]["start_s"] for one in rounds), 1),
            "peak_pss_bytes": max(one[server]["peak_pss_bytes"] for one in rounds),
            "processes": max(one[server]["processes"] for one in rounds),
            "routes": _medians([one[server]["routes"] for one in rounds]),
        }
        for server in ("peer", "rayscope")
    }
    summary["limit"] = _medians([_limits(one["limit"]) for one in rounds])
    engines = [one["interp_engine"]["column"] for one in rounds if one["interp_engine"] is not None]
    summary["interp_engine"] = _medians(engines) if engines else None
    return summary


def judge(summary: Figures) -> list[Figures]:
    """The aims, one by one, as far as this run measured what they need."""
    return [asdict(aim) for aim in _aims(summary)]


def _aims(summary: Figures) -> Iterable[Aim]:
    ours, theirs, limit = summary["rayscope"]["routes"], summary["peer"]["routes"], summary["limit"]
    for route, by_clients in ours.items():
        if _ONE in by_clients:
            p50_ms = by_clients[_ONE]["p50_ms"]
            yield _at_most("p50 at 1 client / (a)", route, 1.1, p50_ms / theirs[route][_ONE]["p50_ms"])
            yield _at_most("p50 at 1 client / (c) unbatched", route, 1.5, p50_ms / limit[route][_ONE]["p50_ms"])
            if route == "single":
                yield _at_most(
                    "p50 at 1 client / (c) unbatched, whole encoding", route, 1.5, p50_ms / limit[WHOLE][_ONE]["p50_ms"]
                )
    for route, by_clients in ours.items():
        if _MANY in by_clients:
            per_s = by_clients[_MANY]["per_s"]
            if route == "single":
                yield _at_least("req/s at 16 clients / (a)", route, 4.0, per_s / theirs[route][_MANY]["per_s"])
            yield _at_least("req/s at 16 clients / (c) batched", route, 0.7, per_s / limit[route][_MANY]["per_s"])


def _limits(limit: Figures) -> Figures:
    return limit["column"] | ({WHOLE: limit["whole"]["single"]} if "single" in limit["whole"] else {})


def _at_most(name: str, route: str, bound: float, measured: float) -> Aim:
    return Aim(f"{name}: at most {bound}", route, bound, round(measured, 3), measured <= bound)


def _at_least(name: str, route: str, bound: float, measured: float) -> Aim:
    return Aim(f"{name}: at least {bound}", route, bound, round(measured, 3), measured >= bound)


def _medians(rounds: list[Figures]) -> Figures:
    """Medians of the numbers at the leaves of equal trees; errors are added up."""
    return {
        key: _medians([one[key] for one in rounds])
        if isinstance(value, dict)
        else sum(one[key] for one in rounds)
        if key == "errors"
        else round(median(one[key] for one in rounds), 3)
        for key, value in rounds[0].items()
    }
