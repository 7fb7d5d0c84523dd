"""The weights of an attribution graph as shares of each target's input, and what flows through each node by them.

A target's input is split among its sources in proportion to the size of their effects, signs aside. What the logits
weigh then flows down along these shares; the amount that passes a node is its *influence*:

    influence = w A + w A^2 + w A^3 + ...        A: shares, target by source;  w: weights of the logits

(Ameisen et al. 2025, "Circuit Tracing", appendix on graph pruning.) The series is not summed term by term: a feature
acts on later layers only, so the targets are taken from the logits down, and when a layer's turn comes all that flows
into it is known. One pass over the weights gives the exact sum. Effects that break this order, or that are not finite,
are refused rather than summed.

Shares are float64 and exist for a few rows at a time; the weights are never copied whole, squared or sorted.
"""

from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import Final, Self

import torch
from torch import Tensor

from core.errors import RayscopeError
from core.graph.effects import Effects

# Shares held at a time: 8 MB, near the processor.
_BLOCK_ENTRIES: Final = 1 << 20

# What a target's input is at least taken for, so that one without input has shares of 0.
_LEAST_INPUT: Final = 1e-10


@dataclass(frozen=True, slots=True, eq=False)
class Rectangle:
    """Effects of sources on targets: f features, then other sources; the same f features, then m logits.

    Attributes:
        weights: `[f + m, c]`, the first f columns being the features, ordered by layer.
        source_layer: `[c]` int64: the layer that a source belongs to; -1 for tokens.
        logit_weights: `[m]` float64, 0 or greater.
    """

    weights: Tensor
    source_layer: Tensor
    logit_weights: Tensor

    @classmethod
    def of(cls, effects: Effects) -> Self:
        """All nodes of a prompt, on the device of the weights."""
        device, n_positions = effects.weights.device, effects.n_positions
        errors = torch.arange(effects.n_layers, device=device).repeat_interleave(n_positions)
        tokens = torch.full((n_positions,), -1, device=device)
        return cls(
            effects.weights,
            torch.cat([effects.features.layer.to(device), errors, tokens]),
            effects.logits.probabilities.to(device, torch.float64),
        )

    @property
    def n_features(self) -> int:
        """Features, f."""
        return len(self.weights) - len(self.logit_weights)

    def blocks(self) -> list[slice]:
        """Rows in few enough at a time, ascending; no block holds rows of two layers, or features and logits."""
        layers = self.source_layer[: self.n_features]
        sizes = torch.unique_consecutive(layers, return_counts=True)[1].tolist()
        edges = accumulate([*sizes, len(self.logit_weights)], initial=0)
        rows = max(1, _BLOCK_ENTRIES // max(1, self.weights.shape[1]))
        return [
            slice(start, min(start + rows, last))
            for first, last in pairwise(edges)
            for start in range(first, last, rows)
        ]

    def shares(self, rows: slice) -> Tensor:
        """Shares of the sources in the input of some targets, `[rows, c]` float64; each row adds up to 1, or is 0."""
        sizes = self.weights[rows].double().abs_()
        return sizes.div_(sizes.sum(1, keepdim=True).clamp_(min=_LEAST_INPUT))

    def influence(self) -> Tensor:
        """What flows through each source, `[c]` float64.

        Raises:
            RayscopeError: An effect is not finite, a logit's weight is negative, or a feature acts on its own or an
                earlier layer.
        """
        if not bool((self.logit_weights >= 0).all()):
            raise RayscopeError("A logit's weight is negative or not a number.", "Weigh targets by probabilities.")
        passed = self.weights.new_zeros(self.weights.shape[1], dtype=torch.float64)
        astray = torch.zeros((), dtype=torch.bool, device=passed.device)
        for rows in reversed(self.blocks()):
            if rows.start >= self.n_features:
                logits = slice(rows.start - self.n_features, rows.stop - self.n_features)
                passed += self.logit_weights[logits] @ self.shares(rows)
            else:
                added = passed[rows] @ self.shares(rows)
                astray |= (added.ne(0) & (self.source_layer >= self.source_layer[rows.start])).any()
                passed += added
        if not bool(passed.isfinite().all()):
            raise RayscopeError(
                "An effect between two nodes of the graph is not finite.",
                "The model's numbers overflow in its precision: serve it in bfloat16 or float32.",
            )
        if bool(astray):
            raise RayscopeError("A node of the graph acts on its own or an earlier layer.")
        return passed

    def flows(self, influence: Tensor) -> Tensor:
        """What flows through each target, `[f + m]`, given what flows through each source."""
        return torch.cat([influence[: self.n_features], self.logit_weights])

    def keep(self, sources: Tensor) -> Self:
        """The same with some sources only, ascending numbers; all logits stay."""
        if len(sources) == self.weights.shape[1]:
            return self
        features = sources[sources < self.n_features]
        logits = torch.arange(self.n_features, len(self.weights), device=sources.device)
        rows = torch.cat([features, logits])
        return type(self)(self.weights[rows[:, None], sources], self.source_layer[sources], self.logit_weights)
