"""Activation functions: which features are active, given their pre-activations.

Pre-activations come in blocks of features, because an encoder that is read from its file block by block never has
them all in memory at once. What a function answers does not depend on how they are cut, ties of TopK apart.

Deliberately not here: gradients. Attribution holds the choice of active features fixed.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from core.graph.transcoders.transcoder import ActiveFeatures


class Activation(Protocol):
    """What a transcoder does to its pre-activations."""

    def active(self, blocks: Iterable[tuple[int, Tensor]]) -> ActiveFeatures:
        """The features that are left.

        Args:
            blocks: At least one, in ascending order: number of the first feature, and pre-activations `[pos, n]`.
        """
        ...

    def keeps(self, before: Tensor, features: Tensor | slice) -> Tensor | None:
        """Which pre-activations `[pos, n]` of some features are left; None if that depends on other features, too."""
        ...


@dataclass(frozen=True, slots=True)
class Relu:
    """Keeps what is greater than 0."""

    def active(self, blocks: Iterable[tuple[int, Tensor]]) -> ActiveFeatures:
        """See `Activation`."""
        return _chosen((first, before, before > 0) for first, before in blocks)

    def keeps(self, before: Tensor, features: Tensor | slice) -> Tensor:
        """See `Activation`."""
        return before > 0


@dataclass(frozen=True, slots=True, eq=False)
class JumpRelu:
    """Keeps, unchanged, what is greater than the feature's threshold (Rajamanoharan et al. 2024).

    Attributes:
        threshold: `[n_features]`.
    """

    threshold: Tensor

    def active(self, blocks: Iterable[tuple[int, Tensor]]) -> ActiveFeatures:
        """See `Activation`."""
        return _chosen(
            (first, before, self.keeps(before, slice(first, first + before.shape[1]))) for first, before in blocks
        )

    def keeps(self, before: Tensor, features: Tensor | slice) -> Tensor:
        """See `Activation`."""
        return (before > self.threshold[features]) & (before != 0)


@dataclass(frozen=True, slots=True)
class TopK:
    """Keeps, unchanged, the k largest of each position, negative ones included: as circuit-tracer does.

    Attributes:
        k: How many.
    """

    k: int

    def active(self, blocks: Iterable[tuple[int, Tensor]]) -> ActiveFeatures:
        """See `Activation`."""
        values, indices = _largest(blocks, self.k)
        indices, order = indices.sort(dim=1)
        values = values.gather(1, order)
        position, column = (values != 0).nonzero(as_tuple=True)
        return ActiveFeatures(position, indices[position, column], values[position, column])

    def keeps(self, before: Tensor, features: Tensor | slice) -> None:
        """See `Activation`."""


def _largest(blocks: Iterable[tuple[int, Tensor]], k: int) -> tuple[Tensor, Tensor]:
    """Values and features of the k largest at each position, both `[pos, k]`."""
    values: list[Tensor] = []
    indices: list[Tensor] = []
    for first, before in blocks:
        best = before.topk(min(k, before.shape[1]), dim=1)
        values, indices = [*values, best.values], [*indices, best.indices + first]
        so_far = torch.cat(values, dim=1)
        kept = so_far.topk(min(k, so_far.shape[1]), dim=1)
        values, indices = [kept.values], [torch.cat(indices, dim=1).gather(1, kept.indices)]
    return values[0], indices[0]


def _chosen(blocks: Iterable[tuple[int, Tensor, Tensor]]) -> ActiveFeatures:
    """What the masks choose, in order, out of blocks: first feature, values `[pos, n]`, mask `[pos, n]`."""
    found: list[tuple[Tensor, Tensor, Tensor]] = []
    for first, values, mask in blocks:
        position, column = mask.nonzero(as_tuple=True)
        found.append((position, column + first, values[position, column]))
    if len(found) == 1:
        return ActiveFeatures(*found[0])
    position, index, value = (torch.cat(parts) for parts in zip(*found, strict=True))
    order = position.argsort(stable=True)  # blocks ascend, so within a position the indices already do
    return ActiveFeatures(position[order], index[order], value[order])
