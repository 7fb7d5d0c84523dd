"""Random graphs, and what pruning means: the definition on the square matrix, with every entry sorted, in float64."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from hypothesis import strategies as st

from core.graph.effects import Effects, FeatureNodes, LogitNodes
from core.graph.pruned import PrunedGraph

Matrix = npt.NDArray[np.float64]
Mask = npt.NDArray[np.bool_]


def graph(
    n_features: int,
    n_layers: int = 3,
    n_positions: int = 4,
    n_logits: int = 2,
    seed: int = 0,
    zeros: float = 0.3,
    exact: bool = False,
) -> Effects:
    """A graph with effects wherever a source may act on a target: from lower layers, not from later positions.

    Args:
        zeros: Share of effects that are 0 nevertheless.
        exact: Few small powers of two, so that scores are full of ties; else lognormal sizes.
    """
    rng = np.random.default_rng(seed)
    places = rng.permutation(n_layers * n_positions * 50)[:n_features]
    layer, position, index = (
        part.astype(np.int64) for part in np.unravel_index(np.sort(places), (n_layers, n_positions, 50))
    )
    index = index * 300 + 7
    source_layer = np.concatenate([layer, np.repeat(np.arange(n_layers), n_positions), np.full(n_positions, -1)])
    source_position = np.concatenate([position, np.tile(np.arange(n_positions), n_layers), np.arange(n_positions)])
    target_layer = np.concatenate([layer, np.full(n_logits, n_layers)])
    target_position = np.concatenate([position, np.full(n_logits, n_positions - 1)])
    shape = (n_features + n_logits, len(source_layer))
    sizes = 2.0 ** rng.integers(-2, 2, shape) if exact else rng.lognormal(0, 1.5, shape)
    weights = sizes * rng.choice([-1, 1], shape) * (rng.random(shape) >= zeros)
    acts = (source_layer < target_layer[:, None]) & (source_position <= target_position[:, None])
    probabilities = np.sort(rng.dirichlet(np.ones(n_logits)))[::-1] * 0.9
    if exact:
        probabilities = 0.5 ** np.arange(1, n_logits + 1)
    return Effects(
        token_ids=tuple(rng.integers(0, 99, n_positions).tolist()),
        n_layers=n_layers,
        features=FeatureNodes(
            torch.from_numpy(layer),
            torch.from_numpy(position),
            torch.from_numpy(index),
            torch.from_numpy(rng.lognormal(size=n_features).astype(np.float32)),
        ),
        logits=LogitNodes(
            tuple(range(40, 40 + n_logits)),
            tuple(f" out{number}" for number in range(n_logits)),
            torch.tensor(probabilities.copy(), dtype=torch.float32),
        ),
        n_active=n_features + 5,
        weights=torch.from_numpy((weights * acts).astype(np.float32)),
    )


def graphs(exact: bool = False) -> st.SearchStrategy[Effects]:
    return st.builds(
        graph,
        n_features=st.integers(0, 30),
        n_layers=st.integers(1, 4),
        n_positions=st.integers(1, 5),
        n_logits=st.integers(1, 3),
        seed=st.integers(0, 2**32 - 1),
        zeros=st.sampled_from([0.0, 0.3, 0.8]),
        exact=st.just(exact),
    )


def square(effects: Effects) -> Matrix:
    """Row: target, column: source; features, errors, tokens, logits."""
    n_features, n_logits = len(effects.features), len(effects.logits)
    size = effects.weights.shape[1] + n_logits
    matrix = np.zeros((size, size))
    weights = effects.weights.numpy().astype(np.float64)
    matrix[:n_features, : size - n_logits] = weights[:n_features]
    matrix[size - n_logits :, : size - n_logits] = weights[n_features:]
    return matrix


def output_weights(effects: Effects) -> Matrix:
    weights = np.zeros(effects.weights.shape[1] + len(effects.logits))
    weights[-len(effects.logits) :] = effects.logits.probabilities.numpy()
    return weights


def normalised(matrix: Matrix) -> Matrix:
    sizes = np.abs(matrix)
    return sizes / np.maximum(sizes.sum(1, keepdims=True), 1e-10)


def influence(matrix: Matrix, weights: Matrix) -> Matrix:
    """The series, term by term, until a term is 0."""
    shares, term = normalised(matrix), weights
    total = np.zeros_like(weights)
    for _ in range(1000):
        term = term @ shares
        if not term.any():
            return total
        total += term
    raise AssertionError("effects in a circle")


def above_cut(scores: Matrix, threshold: float) -> Mask:
    """Scores not smaller than the one at which the sorted sum first reaches a share; 1 means all that are not 0."""
    if threshold == 1:
        return scores > 0
    ordered = np.sort(scores, axis=None)[::-1]
    running = np.cumsum(ordered)
    if running[-1] == 0:
        return np.zeros(scores.shape, dtype=np.bool_)
    return (scores >= ordered[np.argmax(running / running[-1] >= threshold)]) & (scores > 0)


@dataclass(frozen=True)
class Truth:
    nodes: Mask
    links: Mask
    cumulative: Matrix


def pruned(effects: Effects, node_threshold: float, edge_threshold: float) -> Truth:
    matrix, weights = square(effects), output_weights(effects)
    n_features, n_ends = len(effects.features), effects.n_positions + len(effects.logits)
    scores = influence(matrix, weights)
    nodes = above_cut(scores, node_threshold)
    nodes[-n_ends:] = True
    left = matrix * np.outer(nodes, nodes)
    flows = influence(left, weights) + weights
    links = above_cut(normalised(left) * flows[:, None], edge_threshold)
    while True:
        before = nodes.copy()
        nodes[:-n_ends] &= links.any(0)[:-n_ends]
        nodes[:n_features] &= links.any(1)[:n_features]
        links &= np.outer(nodes, nodes)
        if (nodes == before).all():
            break
    order = np.argsort(-scores, kind="stable")
    cumulative = np.ones_like(scores)
    if scores.any():
        cumulative[order] = np.cumsum(scores[order]) / scores.sum()
    return Truth(nodes, links, cumulative)


def node_names(effects: Effects) -> list[tuple[object, ...]]:
    """What each row and column of the square is."""
    features = effects.features
    return [
        *zip(features.layer.tolist(), features.position.tolist(), features.index.tolist(), strict=True),
        *((layer, position, "error") for layer in range(effects.n_layers) for position in range(effects.n_positions)),
        *(("token", position) for position in range(effects.n_positions)),
        *(("logit", rank) for rank in range(len(effects.logits))),
    ]


def names_of(graph: PrunedGraph) -> list[tuple[object, ...]]:
    """The same for a pruned graph's nodes."""
    inner = list(zip(graph.layer.tolist(), graph.position.tolist(), strict=True))
    n_features = len(graph.index)
    return [
        *((*place, index) for place, index in zip(inner[:n_features], graph.index.tolist(), strict=True)),
        *((*place, "error") for place in inner[n_features:]),
        *(("token", position) for position in range(len(graph.token_ids))),
        *(("logit", rank) for rank in range(len(graph.logit_ids))),
    ]
