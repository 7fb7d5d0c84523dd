"""The README's tables on steering, made from `results/steering.json` and from nothing else; see `report`."""

from pathlib import Path
from typing import Any

from benchmarks.markdown import table
from benchmarks.steering_cases import PROMPT_TOKENS, SEQUENCES

RESULTS = Path(__file__).parent / "results" / "steering.json"
BEGIN = "<!-- bench:steering -->"

ORIENTATION = (
    "For orientation, measured elsewhere and not in this run: Neuronpedia's own inference server on a model of "
    "GPT-2-small size, 2 cores, takes 1,868 ms for 16 tokens of both types and answers 0.55 requests per second at 1, "
    "8 and 16 clients alike; there, Hugging Face's cached generation alone takes 720 ms for one sequence, 1,149 ms for "
    "two in a batch, and 2,565 ms for sixteen."
)

Figures = dict[str, Any]


def tables(result: Figures) -> str:
    """Everything between the markers, as Markdown."""
    parts = [_conditions(result), _vllm(result), _eager(result), _together(result), _aims(result), ORIENTATION]
    return "\n\n".join(parts)


def _conditions(result: Figures) -> str:
    machine, settings = result["machine"], result["settings"]
    versions = ", ".join(f"{name} {version}" for name, version in machine["versions"].items())
    return (
        f"Measured {machine['date']} on {machine['cores']} cores ({machine['cpu']}, {machine['memory_gib']} GiB), "
        f"{machine['busy_percent']} % busy beforehand; float32, prompts of {PROMPT_TOKENS} tokens, greedy, "
        f"{SEQUENCES} ways of steering (3 methods, all layers), medians of {settings['rounds']} rounds of "
        f"{settings['passes']} passes. {versions}."
    )


def _vllm(result: Figures) -> str:
    """Tokens per second of 16 requests together, against vLLM alone in the same round."""
    rows: list[list[str]] = []
    for model, found in result["summary"].items():
        speeds, overheads = found["tokens_per_s"], found["overhead_percent"]
        cells = [f"{speeds[name]:,.0f} ({overheads[name]:+.1f} %)" for name in overheads]
        spread = found["spread_percent"]
        rows.append([model, f"{speeds['plain']:,.0f}", *cells, "-" if spread is None else f"{spread:.1f} %"])
    header = [
        f"vLLM, tokens/s, {SEQUENCES} requests x {result['settings']['vllm_tokens']} tokens (overhead)",
        "without extension",
        "extension idle",
        "8 of 16 steered",
        "16 of 16 steered",
        "vLLM itself between rounds",
    ]
    return table(header, rows)


def _eager(result: Figures) -> str:
    rows: list[list[str]] = []
    for model, found in result["summary"].items():
        theirs, ours = found["transformers_ms"], found["eager_ms"]
        for number, kind in (("1", "one"), ("16", "sixteen")):
            in_turn = _ms(theirs["sixteen in turn"]) if kind == "sixteen" else "-"
            rows.append(
                [model, number, in_turn, _ms(theirs[kind]), f"**{_ms(ours[kind])}** ({theirs[kind] / ours[kind]:.1f}x)"]
            )
    header = [
        f"ms, {result['settings']['eager_tokens']} tokens each, all steered",
        "sequences",
        "`generate` with hooks, in turn",
        "`generate` with hooks, one batch",
        "eager engine",
    ]
    return table(header, rows)


def _together(result: Figures) -> str:
    rows: list[list[str]] = []
    for model, found in result["summary"].items():
        ours = found["eager_ms"]
        per_s = [SEQUENCES * 1000 / ours[kind] for kind in ("sixteen in turn", "sixteen")]
        rows += [
            [
                model,
                "STEERED and DEFAULT, ms",
                _ms(ours["pair in turn"]),
                f"**{_ms(ours['pair'])}** ({found['pair_gain']:.2f}x)",
            ],
            [
                model,
                "16 clients, sequences/s",
                f"{per_s[0]:.2f}",
                f"**{per_s[1]:.2f}** ({found['clients_gain']:.2f}x)",
            ],
        ]
    header = [
        f"eager engine, {result['settings']['eager_tokens']} tokens each",
        "",
        "one after the other",
        "together",
    ]
    return table(header, rows)


def _aims(result: Figures) -> str:
    rows = [
        [aim["name"], aim["model"], f"{aim['measured']:.2f} {aim['unit']}", "met" if aim["met"] else "**not met**"]
        for aim in result["aims"]
    ]
    return table(["aim", "model", "measured", ""], rows)


def _ms(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}"
