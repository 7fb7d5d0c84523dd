"""A linear model that is nothing but a table of effects, and what a graph of it is by the definition, in float64."""

from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from core.graph.effects import FeatureNodes, LogitNodes
from core.graph.linearised import TargetRows

Matrix = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Dense:
    """Rows are looked up: a target's direction is the number of its row in the table."""

    token_ids: tuple[int, ...]
    n_layers: int
    features: FeatureNodes
    table: Tensor
    numbers: Tensor

    def targets(self, chosen: Tensor) -> TargetRows:
        features = self.features
        return TargetRows(features.layer[chosen], features.position[chosen], self.numbers[chosen, None].float())

    def rows(self, targets: TargetRows) -> Tensor:
        return self.table[targets.direction[:, 0].long()]

    def keep(self, chosen: Tensor) -> Self:
        assert bool((chosen[1:] > chosen[:-1]).all()), "ascending numbers were promised"
        n = len(self.features)
        columns = torch.cat([chosen, torch.arange(n, self.table.shape[1])])
        return type(self)(
            self.token_ids, self.n_layers, nodes(self.features, chosen), self.table[:, columns], self.numbers[chosen]
        )


@dataclass(frozen=True, eq=False)
class World:
    """A prompt, what it is to be explained, and the table behind it, logit rows last."""

    linearised: Any
    logits: LogitNodes
    targets: TargetRows

    @property
    def n(self) -> int:
        return len(self.linearised.features)

    @property
    def m(self) -> int:
        return len(self.logits)


def nodes(features: FeatureNodes, chosen: Tensor) -> FeatureNodes:
    return FeatureNodes(
        features.layer[chosen], features.position[chosen], features.index[chosen], features.activation[chosen]
    )


def world(seed: int, n: int = 12, m: int = 3, n_layers: int = 3, n_tokens: int = 2) -> World:
    """Random effects; a feature is affected by lower layers only."""
    dice = torch.Generator().manual_seed(seed)
    places = torch.randint(0, n_layers * n_tokens, (n,), generator=dice).sort().values
    layer, position = places // n_tokens, places % n_tokens
    features = FeatureNodes(layer, position, torch.arange(n) * 7, torch.rand(n, generator=dice) + 0.1)
    table = torch.randn(n + m, n + (n_layers + 1) * n_tokens, generator=dice)
    source_layer = torch.cat([layer, torch.arange(n_layers).repeat_interleave(n_tokens), torch.full((n_tokens,), -1)])
    target_layer = torch.cat([layer, torch.full((m,), n_layers)])
    table *= source_layer[None, :] < target_layer[:, None]
    probabilities = torch.rand(m, generator=dice).sort(descending=True).values / m
    return of_table(table, features, tuple(range(n_tokens)), n_layers, probabilities)


def of_table(
    table: Tensor, features: FeatureNodes, token_ids: tuple[int, ...], n_layers: int, probabilities: Tensor
) -> World:
    n, m = len(features), len(probabilities)
    linearised = Dense(token_ids, n_layers, features, table, torch.arange(n))
    targets = TargetRows(
        torch.full((m,), n_layers), torch.full((m,), len(token_ids) - 1), torch.arange(n, n + m)[:, None].float()
    )
    logits = LogitNodes(tuple(range(m)), tuple(f"t{i}" for i in range(m)), probabilities)
    return World(linearised, logits, targets)


def influence(world: World, known: list[int]) -> Matrix:
    """Power iteration over the square matrix of all nodes, as the reference has it; features only."""
    n, m = world.n, world.m
    table = world.linearised.table.double().numpy()
    size = table.shape[1] + m
    square = np.zeros((size, size))
    for row, node in [*((n + j, size - m + j) for j in range(m)), *((i, i) for i in known)]:
        absolute = np.abs(table[row])
        square[node, : table.shape[1]] = absolute / max(absolute.sum(), 1e-8)
    flow = np.zeros(size)
    flow[size - m :] = world.logits.probabilities.double().numpy()
    total = np.zeros(size)
    while flow.any():
        flow = flow @ square
        total += flow
    return total[:n]


def chosen_features(world: World, count: int, ranked_every: int) -> tuple[list[int], float]:
    """The greedy search of the reference, and the smallest relative gap that decided a choice."""
    visited: list[int] = []
    gap = np.inf
    while len(visited) < count:
        scores = influence(world, visited)
        order = [int(i) for i in np.argsort(-scores, kind="stable") if int(i) not in visited]
        more = min(ranked_every, count - len(visited))
        if more < len(order):
            last, first_out = scores[order[more - 1]], scores[order[more]]
            gap = min(gap, float(last - first_out) / max(float(last), 1e-30)) if last > 0 else gap
        visited += order[:more]
    return sorted(visited), gap


def rectangle(world: World, chosen: list[int]) -> Matrix:
    """The rows and columns of a graph, taken from the table."""
    n, m = world.n, world.m
    table = world.linearised.table.double().numpy()
    return table[np.ix_([*chosen, *range(n, n + m)], [*chosen, *range(n, table.shape[1])])]
