"""Which of a prompt's active features matter: their influence on the targets, as far as rows are known.

The influence of a source is the share of the targets' weight that flows back to it when every node passes on to its
sources what it got, in proportion to the absolute effects (Ameisen et al. 2025, "Circuit Tracing"):

    influence = p A + p A A + p A A A + ...        A: known rows of |effects|, each divided by its sum

The sum ends, because a feature is affected by features of lower layers only. For the same reason no power iteration is
needed: taken from the top layer down, every row is passed on once, when its own influence is complete.

Deliberately not here: the influence of a finished graph's nodes (`core.graph.pruning`), which includes errors and
tokens.
"""

from typing import Final

import torch
from torch import Tensor

from core.errors import RayscopeError

_SMALLEST_SUM: Final = 1e-8
_CHUNK_ROWS: Final = 1024


def direct_influence(effects: Tensor, probabilities: Tensor, n_features: int) -> Tensor:
    """Influence of every feature on the targets without any feature in between.

    Args:
        effects: The targets' rows, `[m, n + (L + 1) * T]`.
        probabilities: Their weights, `[m]`.
        n_features: Features that are sources, n.

    Returns:
        `[n]` float32.
    """
    weights = probabilities.to(effects) / _sums(effects)
    return weights @ effects[:, :n_features].abs()


def partial_influence(effects: Tensor, known: Tensor, layers: Tensor, probabilities: Tensor) -> Tensor:
    """Influence of every feature on the targets, directly and through the features whose rows are known.

    Args:
        effects: `[m + k, n + (L + 1) * T]`: the targets' rows, then those of k features.
        known: The k features' numbers, `[k]` int64.
        layers: Layer of each feature, `[n]` int64, ascending.
        probabilities: The targets' weights, `[m]`.

    Returns:
        `[n]` float32.
    """
    n_targets = len(probabilities)
    influence = direct_influence(effects[:n_targets], probabilities, len(layers))
    of_known = layers[known]
    for layer in of_known.unique().flip(0):
        below = int(torch.searchsorted(layers, layer))
        for chunk in (of_known == layer).nonzero().squeeze(1).split(_CHUNK_ROWS):
            rows = effects[n_targets + chunk]
            weights = influence[known[chunk]] / _sums(rows)
            influence[:below] += weights @ rows[:, :below].abs()
    return influence


def most_influential(influence: Tensor, count: int) -> Tensor:
    """The features with the largest influence, in node order, `[count]` int64; equals are taken in node order.

    Raises:
        RayscopeError: An influence is not a number.
    """
    if not bool(influence.isfinite().all()):
        raise RayscopeError(
            "effects on the targets are not finite, so features can not be ranked", "load the model in a wider dtype"
        )
    order = torch.sort(influence, descending=True, stable=True).indices
    return order[:count].sort().values


def _sums(effects: Tensor) -> Tensor:
    return torch.linalg.vector_norm(effects, ord=1, dim=1).clamp(min=_SMALLEST_SUM)
