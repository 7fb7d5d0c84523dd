"""From the rounds of `make bench-steering` to the figures that are compared, and whether the aims are met.

What is compared is compared within a round first, where the machine was the same, and then the median over rounds is
taken. How far vLLM's own speed differs between rounds is kept beside that: an overhead below it is noise.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from statistics import median
from typing import Any

from benchmarks.steering_cases import SEQUENCES

Figures = dict[str, Any]

PLAIN, EXTENSION, EAGER, TRANSFORMERS = "vllm_plain", "vllm", "eager", "transformers"
MIXTURES = ("idle", "mixed", "steered")


@dataclass(frozen=True, slots=True)
class Aim:
    """One sentence of what was promised, for one model.

    Attributes:
        name: What is compared, and the bound.
        model: For which model.
        unit: `%` or `x`.
        measured: In that unit.
        met: Whether it is within the bound.
    """

    name: str
    model: str
    unit: str
    measured: float
    met: bool


def summarise(rounds: Sequence[Figures], n_tokens: int) -> Figures:
    """Medians over rounds, by model.

    Args:
        rounds: By model, by engine: what `steering_timing.time_by_turns` returned.
        n_tokens: Tokens that a sequence gained on vLLM.
    """
    return {model: _summary([one[model] for one in rounds], n_tokens) for model in rounds[0]}


def judge(summary: Figures) -> list[Figures]:
    """The aims, one by one."""
    return [asdict(aim) for model, found in summary.items() for aim in _aims(model, found)]


def _summary(rounds: Sequence[Figures], n_tokens: int) -> Figures:
    plain_ms = [one[PLAIN]["ms"]["plain"] for one in rounds]
    tokens = SEQUENCES * n_tokens

    def overhead_percent(mixture: str) -> float:
        return _median(rounds, lambda one: (one[EXTENSION]["ms"][mixture] / one[PLAIN]["ms"]["plain"] - 1) * 100)

    def gain(kind: str) -> float:
        return _median(rounds, lambda one: one[EAGER]["ms"][f"{kind} in turn"] / one[EAGER]["ms"][kind])

    return {
        "tokens_per_s": {"plain": round(tokens * 1000 / median(plain_ms), 1)}
        | {name: round(tokens * 1000 / _median(rounds, _ms(EXTENSION, name)), 1) for name in MIXTURES},
        "overhead_percent": {name: overhead_percent(name) for name in MIXTURES},
        "spread_percent": round((max(plain_ms) / min(plain_ms) - 1) * 100, 3) if len(rounds) > 1 else None,
        "eager_ms": {name: _median(rounds, _ms(EAGER, name)) for name in rounds[0][EAGER]["ms"]},
        "transformers_ms": {name: _median(rounds, _ms(TRANSFORMERS, name)) for name in rounds[0][TRANSFORMERS]["ms"]},
        "pair_gain": gain("pair"),
        "clients_gain": gain("sixteen"),
        "agreement": {name: min(one[name]["agreement"] for one in rounds) for name in (EXTENSION, EAGER)},
    }


def _aims(model: str, found: Figures) -> Iterable[Aim]:
    for name, mixture, most in (("idle", "idle", 1.0), ("16 of 16 requests steered", "steered", 5.0)):
        measured = found["overhead_percent"][mixture]
        yield Aim(f"vLLM, {name}: overhead at most {most:g} %", model, "%", measured, measured <= most)
    for name, key, least in (
        ("STEERED and DEFAULT together / one after the other", "pair_gain", 1.5),
        ("16 clients together / one after the other", "clients_gain", 4.0),
    ):
        yield Aim(f"eager, {name}: at least {least:g}x", model, "x", found[key], found[key] >= least)


def _ms(engine: str, kind: str) -> Callable[[Figures], float]:
    return lambda one: one[engine]["ms"][kind]


def _median(rounds: Sequence[Figures], of: Callable[[Figures], float]) -> float:
    return round(median(of(one) for one in rounds), 3)
