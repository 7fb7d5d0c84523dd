"""Cutting an attribution graph down to the nodes and links that carry most of the influence on the logits.

    influence of all nodes -> nodes that hold `node_threshold` of it -> links between them, rescored ->
    links that hold `edge_threshold` of their score -> drop what hangs loose, until nothing does

The kept sets are those of circuit-tracer's definition (Hanna & Piotrowski 2025), which works on a square matrix and
sorts all of its entries. Here the rectangle is read in blocks, the kept part is compacted before links are scored, and
the place of the cut is found by bucketing scores and sorting one bucket; memory stays in proportion to the rectangle.
Everything that decides is float64, on whatever device the weights lie.

**The cut.** With scores in descending order, the score at which their running sum first reaches `threshold` times the
total is the smallest that is kept; equal ones are kept with it. So 0 keeps the largest score and what equals it, and
1 keeps every score that is not 0. A score of 0 is never kept.
"""

import math
from collections.abc import Callable, Iterable
from functools import partial, reduce
from typing import Final

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from core.errors import InvalidRequest, RayscopeError
from core.graph.effects import Effects
from core.graph.pruned import Floats, PrunedGraph
from core.graph.rectangle import Rectangle
from core.graph.scores import graph_scores

# Positive floats order as their bits do. Exponent and seven bits of the fraction make buckets less than 1 % wide.
_LOW_BITS: Final = 52 - 7
_N_BUCKETS: Final = 1 << (11 + 7)


def prune(effects: Effects, node_threshold: float, edge_threshold: float) -> PrunedGraph:
    """The part of a graph that carries given shares of the influence.

    Features stay that are above the cut and keep a link in and a link out; errors, those with a link out; tokens and
    logits, always. To prune the same graph at other thresholds, call again with the same effects.

    Args:
        effects: The graph. It is not changed.
        node_threshold: Share of influence over nodes, from 0 to 1.
        edge_threshold: Share of influence over links between kept nodes, from 0 to 1.

    Raises:
        InvalidRequest: A threshold is outside [0, 1].
        RayscopeError: An effect or activation is not finite.
    """
    for name, threshold in (("node_threshold", node_threshold), ("edge_threshold", edge_threshold)):
        if not 0 <= threshold <= 1:
            raise InvalidRequest(f"{name} is {threshold}.", "It is a share of the influence: a number from 0 to 1.")
    if not bool(effects.features.activation.isfinite().all()):
        raise RayscopeError(
            "An activation of a feature is not finite.",
            "The model's numbers overflow in its precision: serve it in bfloat16 or float32.",
        )
    everything = Rectangle.of(effects)
    influence = everything.influence()
    is_token = everything.source_layer < 0
    above_cut = influence >= smallest_kept(lambda: [influence], node_threshold)
    columns = (above_cut | is_token).nonzero().squeeze(1)
    kept = everything.keep(columns)
    targets, sources, weights = _links(kept, edge_threshold)

    numbers = columns.cpu().numpy()
    n_features, n_tokens = kept.n_features, effects.n_positions
    n_errors = len(numbers) - n_features - n_tokens
    # Rows hold features and logits; among the nodes, errors and tokens stand between them.
    targets = np.where(targets < n_features, targets, targets + np.int32(n_errors + n_tokens))
    stays, links = _connected(targets, sources, n_features, n_errors, len(numbers) + len(effects.logits))
    targets, sources, weights = targets[links], sources[links], weights[links]
    number = np.cumsum(stays, dtype=np.int32) - np.int32(1)

    features = numbers[:n_features][stays[:n_features]]
    errors = numbers[n_features : n_features + n_errors][stays[n_features : n_features + n_errors]]
    errors = errors - len(effects.features)
    own = torch.from_numpy(features).to(effects.features.layer.device)
    nodes = effects.features
    scores = graph_scores(effects, influence)
    return PrunedGraph(
        token_ids=effects.token_ids,
        n_layers=effects.n_layers,
        n_active=effects.n_active,
        n_selected=len(effects.features),
        node_threshold=float(node_threshold),
        edge_threshold=float(edge_threshold),
        replacement_score=scores.replacement,
        completeness_score=scores.completeness,
        layer=np.concatenate([nodes.layer[own].cpu().numpy(), errors // n_tokens]),
        position=np.concatenate([nodes.position[own].cpu().numpy(), errors % n_tokens]),
        index=nodes.index[own].cpu().numpy(),
        activation=nodes.activation[own].float().cpu().numpy(),
        influence=_cumulative(influence).float().cpu().numpy()[numbers[stays[: len(numbers)]]],
        logit_ids=effects.logits.token_ids,
        logit_labels=effects.logits.labels,
        logit_probabilities=effects.logits.probabilities.float().cpu().numpy(),
        starts=np.concatenate([[0], np.cumsum(np.bincount(number[targets], minlength=int(stays.sum())))]),
        sources=number[sources],
        weights=weights,
    )


def smallest_kept(blocks: Callable[[], Iterable[Tensor]], threshold: float) -> float:
    """The smallest score above the cut: keep scores that are not smaller. Infinite if all are 0.

    Args:
        blocks: Gives all scores in parts, `[n]` float64 each, 0 or greater; called up to twice.
        threshold: From 0 to 1.
    """
    if threshold >= 1:
        return math.ulp(0.0)
    by_bucket = (torch.bincount(_bucket(scores), weights=scores, minlength=_N_BUCKETS) for scores in blocks())
    sums = reduce(Tensor.add_, by_bucket).flip(0)
    running = sums.cumsum(0)
    total = running[-1]
    if not bool(total > 0):
        return math.inf
    reached = (running / total >= threshold) & (sums > 0)
    place = int(reached.int().argmax())
    above = running[place - 1] if place else 0.0
    bucket = _N_BUCKETS - 1 - place
    scores = torch.cat([scores[_bucket(scores) == bucket] for scores in blocks()]).sort(descending=True).values
    short = ((above + scores.cumsum(0)) / total < threshold).sum()
    return scores[min(int(short), len(scores) - 1)].item()


def _bucket(scores: Tensor) -> Tensor:
    """The bucket of each score; a larger one is never in a lower bucket."""
    return scores.view(torch.int64).bitwise_right_shift(_LOW_BITS)


def _cumulative(influence: Tensor) -> Tensor:
    """The share of all influence that a node and those above it have, `[c]`; equal nodes in their order."""
    order = influence.sort(descending=True, stable=True).indices
    running = influence[order].cumsum(0)
    shares = torch.ones_like(influence)
    if bool(running[-1] > 0):
        shares[order] = running / running[-1]
    return shares


def _link_scores(kept: Rectangle, flows: Tensor, rows: slice) -> Tensor:
    """What flows over each link into some targets, `[rows, c]`."""
    return kept.shares(rows).mul_(flows[rows, None])


def _links(kept: Rectangle, threshold: float) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.int32], Floats]:
    """Rows, columns and weights of the links above the cut, ordered by row, then column."""
    flows = kept.flows(kept.influence())
    scored = partial(_link_scores, kept, flows)
    smallest = smallest_kept(lambda: (scored(rows).flatten() for rows in kept.blocks()), threshold)
    parts: list[tuple[Tensor, Tensor, Tensor]] = []
    for rows in kept.blocks():
        target, source = (scored(rows) >= smallest).nonzero(as_tuple=True)
        parts.append(((target + rows.start).int(), source.int(), kept.weights[rows][target, source].float()))
    targets, sources, weights = (torch.cat(part).cpu().numpy() for part in zip(*parts, strict=True))
    return targets, sources, weights


def _connected(
    targets: npt.NDArray[np.int32], sources: npt.NDArray[np.int32], n_features: int, n_errors: int, n_nodes: int
) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.int64]]:
    """Which nodes `[n_nodes]` and which links (ascending numbers) are left once nothing hangs loose."""
    links = np.arange(len(targets))
    while True:
        fed = np.bincount(targets[links], minlength=n_nodes) > 0
        feeds = np.bincount(sources[links], minlength=n_nodes) > 0
        stays = np.ones(n_nodes, dtype=np.bool_)
        stays[: n_features + n_errors] = feeds[: n_features + n_errors]
        stays[:n_features] &= fed[:n_features]
        left = links[stays[targets[links]] & stays[sources[links]]]
        if len(left) == len(links):
            return stays, links
        links = left
