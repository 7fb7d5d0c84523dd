"""The README's tables on attribution graphs, made from `results/graphs.json` and from nothing else; see `report`."""

from pathlib import Path
from typing import Any

from benchmarks.graph_cases import BATCH_SIZE, SIZES
from benchmarks.graph_summary import OURS, PEER, PEERS
from benchmarks.graph_timing import KEPT
from benchmarks.markdown import table

RESULTS = Path(__file__).parent / "results" / "graphs.json"
BEGIN = "<!-- bench:graphs -->"

Figures = dict[str, Any]


def tables(result: Figures) -> str:
    """Everything between the markers, as Markdown."""
    return "\n\n".join(
        [_conditions(result), _times(result), _memory(result), _together(result), _documents(result), _aims(result)]
    )


def _conditions(result: Figures) -> str:
    machine, settings = result["machine"], result["settings"]
    versions = ", ".join(f"{name} {version}" for name, version in machine["versions"].items())
    kept = "; ".join(f"{name}: K = {SIZES[name].kept}, {SIZES[name].n_tokens} tokens" for name in settings["sizes"])
    return (
        f"Measured {machine['date']} on {machine['cores']} cores ({machine['cpu']}, {machine['memory_gib']} GiB), "
        f"{machine['busy_percent']} % busy beforehand; float32, batches of {BATCH_SIZE} rows, medians of "
        f"{settings['rounds']} rounds of {settings['passes']} prompts. {kept}. K features are ranked once, as in "
        f"production. {versions}; circuit-tracer 0.5.0 in its own environment."
    )


def _times(result: Figures) -> str:
    rows = [
        [
            size,
            setting,
            *(f"{_s(figures['engines'][peer]['wall_s'])} ({_s(figures['engines'][peer]['cpu_s'])})" for peer in PEERS),
            f"**{_s(figures['engines'][OURS]['wall_s'])}** ({_s(figures['engines'][OURS]['cpu_s'])})",
            f"**{figures['faster']:.1f}x** ({figures['faster_cpu']:.1f}x)",
        ]
        for size, setting, figures in _settings(result)
    ]
    header = [
        "seconds for one graph (CPU seconds)",
        "graph of",
        *(f"circuit-tracer, {peer}" for peer in PEERS),
        "Rayscope",
    ]
    return table([*header, "faster than the faster"], rows)


def _memory(result: Figures) -> str:
    rows = [
        [
            size,
            setting,
            *(
                f"{_mb(figures['engines'][engine]['grown_bytes'])} ({_mb(figures['engines'][engine]['peak_bytes'])})"
                for engine in (*PEERS, OURS)
            ),
        ]
        for size, setting, figures in _settings(result)
    ]
    peers = [f"circuit-tracer, {peer}" for peer in PEERS]
    return table(["MB that graphs take (peak of the whole process)", "graph of", *peers, "Rayscope"], rows)


def _together(result: Figures) -> str:
    rows = [
        [
            size,
            count,
            f"{1 / min(found['graphs'][KEPT]['engines'][peer]['wall_s'] for peer in PEERS):.2f}",
            f"**{figures['per_s']:.2f}** ({figures['gain']:.2f}x)",
        ]
        for size, found in result["summary"]["sizes"].items()
        for count, figures in found["together"].items()
    ]
    header = ["graphs per second", "graphs at once", "circuit-tracer, one after the other", "Rayscope (over in turn)"]
    return table(header, rows)


def _documents(result: Figures) -> str:
    rows = [
        [
            name,
            f"{found['nodes']:,} / {found['links']:,}",
            _s(found["prune"][PEER]["wall_s"]),
            f"**{_s(found['prune'][OURS]['wall_s'])}**",
            _s(found["document"][PEER]["wall_s"]),
            f"**{_s(found['document'][OURS]['wall_s'])}**",
            " / ".join(_mb(found["document"][engine]["grown_bytes"]) for engine in (PEER, OURS)),
        ]
        for name, found in result["summary"]["documents"].items()
    ]
    header = [
        "nodes",
        "nodes / links kept",
        "prune, circuit-tracer, s",
        "Rayscope, s",
        "prune and write JSON, circuit-tracer, s",
        "Rayscope, s",
        "MB taken, theirs / ours",
    ]
    return table(header, rows)


def _aims(result: Figures) -> str:
    rows = [
        [aim["name"], aim["case"], f"{aim['measured']:.2f} {aim['unit']}", "met" if aim["met"] else "**not met**"]
        for aim in result["aims"]
    ]
    return table(["aim", "case", "measured", ""], rows)


def _settings(result: Figures) -> list[tuple[str, str, Figures]]:
    return [
        (size, setting, figures)
        for size, found in result["summary"]["sizes"].items()
        for setting, figures in found["graphs"].items()
    ]


def _s(seconds: float) -> str:
    return f"{seconds:.1f}" if seconds >= 10 else f"{seconds:.2f}"


def _mb(n_bytes: float) -> str:
    return f"{n_bytes / 1e6:,.0f}"
