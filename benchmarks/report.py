"""The README's benchmark tables, made from `results/*.json` and from nothing else.

python -m benchmarks.report            rewrites README.md between its markers
python -m benchmarks.report --check    exits with 1 if the README says anything else
"""

import json
import sys
from pathlib import Path
from typing import Any

from benchmarks import autointerp_report, graph_report, steering_report
from benchmarks.markdown import table

ROOT = Path(__file__).parent.parent
README = ROOT / "README.md"
RESULTS = Path(__file__).parent / "results" / "activations.json"
BEGIN, END = "<!-- bench:activations -->", "<!-- /bench -->"

Figures = dict[str, Any]


def tables(result: Figures) -> str:
    """Everything between the markers, as Markdown."""
    parts = [_conditions(result), _latency(result), _throughput(result), _aims(result), _weights(result)]
    return "\n\n".join(parts)


def place(readme: str, text: str, marker: str = BEGIN) -> str:
    """A README whose part between `marker` and the next end is `text`.

    Raises:
        ValueError: The markers are missing or in the wrong order.
    """
    begin = readme.find(marker)
    end = readme.find(END, begin)
    if begin < 0 or end < 0:
        raise ValueError(f"README.md needs the markers {marker} and {END}, in that order")
    return f"{readme[: begin + len(marker)]}\n{text}\n{readme[end:]}"


def place_all(readme: str) -> str:
    """A README that says what was recorded, of every benchmark that was.

    Raises:
        ValueError: As `place`.
    """
    for results, marker, make in (
        (RESULTS, BEGIN, tables),
        (steering_report.RESULTS, steering_report.BEGIN, steering_report.tables),
        (graph_report.RESULTS, graph_report.BEGIN, graph_report.tables),
        (autointerp_report.RESULTS, autointerp_report.BEGIN, autointerp_report.tables),
    ):
        if results.exists():
            readme = place(readme, make(json.loads(results.read_text())), marker)
    return readme


def main(arguments: list[str]) -> int:
    """Rewrites or checks the README; returns the exit status."""
    readme = README.read_text()
    wanted = place_all(readme)
    if "--check" in arguments:
        return int(wanted != readme)
    README.write_text(wanted)
    return 0


def _conditions(result: Figures) -> str:
    machine, settings = result["machine"], result["settings"]
    versions = ", ".join(f"{name} {version}" for name, version in machine["versions"].items())
    extra = ", ".join(f"{name}={value}" for name, value in settings["environment"].items())
    return (
        f"Measured {machine['date']} on {machine['cores']} cores ({machine['cpu']}, {machine['memory_gib']} GiB), "
        f"{settings['threads']} torch threads, {machine['busy_percent']} % busy beforehand; prompts of 32 tokens, "
        f"medians of {settings['rounds']} rounds of {settings['seconds']:g} s. {versions}."
        + (f" Rayscope ran with {extra}." if extra else "")
    )


def _latency(result: Figures) -> str:
    """What one client waits for, against one prompt in process."""
    summary = result["summary"]
    rows = [
        [
            route,
            _ms(_at(summary["peer"]["routes"], route, "1")),
            f"**{_ms(_at(summary['rayscope']['routes'], route, '1'))}**",
            _ms(_at(summary["interp_engine"], route, "1")),
            _ms(_at(summary["limit"], route, "1")),
        ]
        for route in result["settings"]["routes"]
    ]
    header = [
        "p50 ms, one client",
        "(a) one process, one lock",
        "Rayscope",
        "(b) interp-engine, in process",
        "(c) limit, in process",
    ]
    return table(header, rows)


def _throughput(result: Figures) -> str:
    """Requests per second at each number of clients, against batches of that size in process."""
    summary = result["summary"]
    rows: list[list[str]] = []
    for route in result["settings"]["routes"]:
        for clients in map(str, result["settings"]["clients"]):
            theirs = _at(summary["peer"]["routes"], route, clients)
            ours = _at(summary["rayscope"]["routes"], route, clients)
            rows.append(
                [
                    route,
                    clients,
                    _per_s(theirs),
                    f"**{_per_s(ours)}** ({ours['per_s'] / theirs['per_s']:.1f}x)",
                    _per_s(_at(summary["interp_engine"], route, clients)),
                    _per_s(_at(summary["limit"], route, clients)),
                    f"{theirs['p95_ms']:.0f} / {ours['p95_ms']:.0f}",
                    f"{theirs['errors']} / {ours['errors']}",
                ]
            )
    header = ["requests/s", "clients", "(a)", "Rayscope", "(b) batched", "(c) batched", "p95 ms (a) / ours", "errors"]
    return table(header, rows)


def _aims(result: Figures) -> str:
    rows = [
        [aim["name"], aim["route"], f"{aim['measured']:.2f}", "met" if aim["met"] else "**not met**"]
        for aim in result["aims"]
    ]
    return table(["aim", "route", "measured", ""], rows)


def _weights(result: Figures) -> str:
    """Start and memory. PSS counts a page once however many processes share it."""
    rows = [
        [name, f"{server['start_s']:.1f}", f"{server['peak_pss_bytes'] / 2**30:.2f}", str(server["processes"])]
        for name, server in (
            ("(a) one process, one lock", result["summary"]["peer"]),
            ("Rayscope, GPT-2 small and 12 SAEs", result["summary"]["rayscope"]),
            ("Rayscope, `make serve` (demo)", result["demo"]),
        )
        if "error" not in server
    ]
    return table(["", "seconds to the first answer", "peak memory, GiB (PSS)", "processes"], rows)


def _at(figures: Figures | None, route: str, number: str) -> Figures | None:
    return None if figures is None else figures.get(route, {}).get(number)


def _ms(figures: Figures | None) -> str:
    return "-" if figures is None else f"{figures['p50_ms']:.1f}"


def _per_s(figures: Figures | None) -> str:
    return "-" if figures is None else f"{figures['per_s']:.1f}"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
