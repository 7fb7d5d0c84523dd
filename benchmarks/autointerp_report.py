"""The README's tables on automatic interpretability, made from `results/autointerp.json` alone; see `report`."""

from pathlib import Path
from typing import Any

from benchmarks.autointerp_summary import ENGINES, OURS
from benchmarks.markdown import table

RESULTS = Path(__file__).parent / "results" / "autointerp.json"
BEGIN = "<!-- bench:autointerp -->"

Figures = dict[str, Any]


def tables(result: Figures) -> str:
    """Everything between the markers, as Markdown."""
    return "\n\n".join([_conditions(result), _asking(result), _caching(result), _aims(result)])


def _conditions(result: Figures) -> str:
    machine, settings = result["machine"], result["settings"]
    versions = ", ".join(f"{name} {version}" for name, version in machine["versions"].items())
    latency = settings["latency"]
    return (
        f"Measured {machine['date']} on {machine['cores']} cores ({machine['cpu']}, {machine['memory_gib']} GiB), "
        f"{machine['busy_percent']} % busy beforehand; medians of {settings['rounds']} rounds. {settings['latents']} "
        f"latents of the demo, explained, and scored by detection and fuzz on 100 texts each, 5 to a question. The "
        f"provider is made up and on the same machine; its calls take {latency['median_s']:g} s in the median "
        f"(log-normal, sigma {latency['sigma']:g}). Detection scores of both sides were equal. {versions}."
    )


def _asking(result: Figures) -> str:
    summary = result["summary"]
    rows = [
        [
            f"**{name}**" if name in summary["faster"] else name,
            f"{figures['latents']:.0f}",
            f"{figures['latents_per_min']:.1f}",
            f"{figures['calls_per_s']:.1f}",
            f"{figures['p50_s']:.1f} / {figures['p95_s']:.1f}" if figures["p50_s"] else "-",
            f"{figures['peak_in_flight']:.0f}",
            f"{figures['calls_per_latent']:.1f}",
            f"{figures['cpu_ms_per_call']:.1f}",
        ]
        for name, figures in summary["asking"].items()
    ]
    header = [
        "explain and score",
        "latents",
        "latents per minute",
        "calls per second",
        "seconds for a latent, p50 / p95",
        "calls in flight, peak",
        "calls per latent",
        "CPU ms per call",
    ]
    return table(header, rows)


def _caching(result: Figures) -> str:
    rows = [
        [
            f"{int(n_tokens):,}",
            f"**Rayscope** ({found['faster']:.2f}x; {found['memory']:.2f}x the memory)" if engine == OURS else engine,
            f"{figures['tokens_per_s']:,.0f}",
            f"{figures['whole_tokens_per_s']:,.0f}" if engine == OURS else "-",
            f"{_mb(figures['grown_bytes'])} ({_mb(figures['grown_own_bytes'])})",
            _mb(figures["size_bytes"]),
            f"{figures['records']:,.0f}",
        ]
        for n_tokens, found in result["summary"]["caching"].items()
        for engine in ENGINES
        for figures in (found["engines"][engine],)
    ]
    header = [
        "tokens cached",
        "by",
        "tokens/s, records on disk",
        "tokens/s, reservoirs too",
        "MB taken (without files' pages)",
        "MB on disk",
        "activations kept",
    ]
    return table(header, rows)


def _aims(result: Figures) -> str:
    rows = [
        [aim["name"], aim["case"], f"{aim['measured']:.2f}x", "met" if aim["met"] else "**not met**"]
        for aim in result["aims"]
    ]
    return table(["aim", "case", "measured", ""], rows)


def _mb(n_bytes: float) -> str:
    return f"{n_bytes / 1e6:,.0f}"
