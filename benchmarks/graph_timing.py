"""What a process of `make bench-graphs` is told, what it answers, and how answers of several are compared."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self

import torch
from safetensors.torch import load_file, save_file

from benchmarks.graph_cases import Size
from core.graph.effects import Effects

Found = Mapping[str, Any]

KEPT, WHOLE = "K features", "all features"
"""Settings: the features with the largest influence, ranked once, as in production; or every active one."""

WARM_UP = 1000
"""Number of a prompt that is not measured."""


@dataclass(frozen=True, slots=True)
class Order:
    """What one process does.

    Attributes:
        size: Name of the size.
        folder: Where effects of prompt 0 go, to be compared.
        passes: Prompts of each setting.
        whole: Whether graphs of all features are measured, too.
        at_once: Numbers of graphs that are made at once; our side only.
        threads: torch's threads.
    """

    size: str
    folder: str
    passes: int
    whole: bool
    at_once: tuple[int, ...]
    threads: int

    @classmethod
    def read(cls, words: Sequence[str]) -> Self:
        """Reads a command line."""
        (word,) = words
        values = json.loads(word)
        return cls(**values | {"at_once": tuple(values["at_once"])})

    @property
    def words(self) -> list[str]:
        """The command line."""
        return [json.dumps(asdict(self))]

    def settings(self, size: Size) -> dict[str, int | None]:
        """By name: the most features of a graph."""
        return {KEPT: size.kept} | ({WHOLE: None} if self.whole else {})


def report(found: Found) -> None:
    """Hands what was found to the process that ordered it."""
    print(json.dumps(found), flush=True)


def save(effects: Effects, path: Path) -> None:
    """Keeps effects for `difference`."""
    nodes = effects.features
    places = torch.stack([nodes.layer, nodes.position, nodes.index], 1)
    save_file({"places": places, "weights": effects.weights.contiguous()}, path)


def difference(ours: Path, theirs: Path) -> dict[str, float]:
    """How far two graphs of one prompt are apart.

    Returns:
        `same_features`, the share of all features of both that both have, and `effects`, the largest difference of
        effects between common nodes over the largest effect.
    """
    a, b = load_file(ours), load_file(theirs)
    places = [{tuple(place): number for number, place in enumerate(one["places"].tolist())} for one in (a, b)]
    common = [place for place in places[0] if place in places[1]]
    weights = [
        _common(one["weights"], len(numbers), torch.tensor([numbers[place] for place in common], dtype=torch.int64))
        for one, numbers in zip((a, b), places, strict=True)
    ]
    return {
        "same_features": len(common) / len(places[0].keys() | places[1].keys()),
        "effects": float((weights[0] - weights[1]).abs().max() / weights[1].abs().max()),
    }


def _common(weights: torch.Tensor, n_features: int, common: torch.Tensor) -> torch.Tensor:
    rows = torch.cat([common, torch.arange(n_features, weights.shape[0])])
    columns = torch.cat([common, torch.arange(n_features, weights.shape[1])])
    return weights[rows[:, None], columns]
