"""Pruning keeps exactly what the definition on the square keeps, and says so in a small value."""

import pickle
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from core.errors import InvalidRequest, RayscopeError
from core.graph.effects import Effects
from core.graph.pruned import PrunedGraph
from core.graph.pruning import prune, smallest_kept
from core.graph.rectangle import Rectangle
from tests.unit.graph import square

unhurried = settings(deadline=None)
shares = st.floats(0, 1) | st.sampled_from([0.0, 0.5, 0.8, 0.98, 1.0])


def assert_equals_the_definition(effects: Effects, graph: PrunedGraph, truth: square.Truth) -> None:
    names = square.node_names(effects)
    assert square.names_of(graph) == [name for name, stays in zip(names, truth.nodes, strict=True) if stays]
    numbers = truth.nodes.nonzero()[0]
    links = np.stack([numbers[graph.targets], numbers[graph.sources]], axis=1)
    assert links.tolist() == np.argwhere(truth.links).tolist()  # ordered by target, then source
    assert graph.weights.tolist() == square.square(effects)[links[:, 0], links[:, 1]].tolist()
    inner = numbers[: len(graph.influence)]
    np.testing.assert_allclose(graph.influence, truth.cumulative[inner], rtol=1e-6)


@unhurried
@given(effects=square.graphs(), node_threshold=shares, edge_threshold=shares)
def test_kept_sets_are_those_of_the_definition(effects: Effects, node_threshold: float, edge_threshold: float) -> None:
    graph = prune(effects, node_threshold, edge_threshold)
    assert_equals_the_definition(effects, graph, square.pruned(effects, node_threshold, edge_threshold))


@unhurried
@given(
    effects=square.graphs(),
    node_threshold=st.sampled_from([0.3, 0.7, 1.0]),
    edge_threshold=st.sampled_from([0.5, 0.9, 1.0]),
    entries=st.integers(1, 60),
)
def test_the_size_of_blocks_changes_nothing(
    effects: Effects, node_threshold: float, edge_threshold: float, entries: int
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("core.graph.rectangle._BLOCK_ENTRIES", entries)
        graph = prune(effects, node_threshold, edge_threshold)
    assert_equals_the_definition(effects, graph, square.pruned(effects, node_threshold, edge_threshold))


@unhurried
@given(effects=square.graphs())
def test_influence_is_the_whole_series(effects: Effects) -> None:
    expected = square.influence(square.square(effects), square.output_weights(effects))
    n_sources = effects.weights.shape[1]
    np.testing.assert_allclose(Rectangle.of(effects).influence().numpy(), expected[:n_sources], rtol=1e-12)


def chain(weights: list[list[float]], n_layers: int = 3) -> Effects:
    """One position; one feature in each layer; rows as given: features, then one logit of weight 1."""
    effects = square.graph(n_layers, n_layers, n_positions=1, n_logits=1)
    features = replace(effects.features, layer=torch.arange(n_layers), position=torch.zeros(n_layers, dtype=torch.long))
    return replace(
        effects,
        features=features,
        logits=replace(effects.logits, probabilities=torch.ones(1)),
        weights=torch.tensor(weights),
    )


# Sources: three features, three errors, the token. The logit reads four of them equally.
FOUR_EQUAL = chain(
    [
        [0, 0, 0, 0, 0, 0, 2.0],
        [0, 0, 0, 0, 0, 0, 2.0],
        [0, 0, 0, 0, 0, 0, 2.0],
        [1.0, -1.0, 1.0, 0, 1.0, 0, 0],
    ]
)


def test_equal_scores_are_kept_or_dropped_together() -> None:
    """Influence: token 3/4, features 0, 1, 2 and the error of layer 1 1/4 each; 7/4 in all."""
    first_of_all = prune(FOUR_EQUAL, 3 / 7, 1.0)
    assert square.names_of(first_of_all) == [("token", 0), ("logit", 0)]
    the_next_brings_its_equals = prune(FOUR_EQUAL, 3 / 7 + 1e-9, 1.0)
    assert len(the_next_brings_its_equals.index) == 3
    assert the_next_brings_its_equals.layer.tolist() == [0, 1, 2, 1]


@unhurried
@given(effects=square.graphs(exact=True), node_threshold=shares, edge_threshold=shares)
def test_a_link_as_strong_as_a_kept_one_into_the_same_node_is_kept(
    effects: Effects, node_threshold: float, edge_threshold: float
) -> None:
    """Unless what it comes from was cut off; here every node that kept a link into the logits stays."""
    graph = prune(effects, node_threshold, edge_threshold)
    matrix = np.abs(square.square(effects))
    place = {name: number for number, name in enumerate(square.node_names(effects))}
    numbers = [place[name] for name in square.names_of(graph)]
    kept = {(numbers[target], numbers[source]) for target, source in zip(graph.targets, graph.sources, strict=True)}
    for target, source in kept:
        equals = [other for other in numbers if matrix[target, other] == matrix[target, source]]
        assert all((target, other) in kept for other in equals)


def test_zero_keeps_the_strongest_and_its_equals() -> None:
    graph = prune(FOUR_EQUAL, 0.0, 0.0)
    assert square.names_of(graph) == [("token", 0), ("logit", 0)]
    assert graph.n_links == 0


def test_one_keeps_whatever_carries_anything() -> None:
    """All nodes reach the logits, however weakly, but two whose effects are set to 0."""
    effects = square.graph(40, n_layers=4, n_positions=5, seed=3, zeros=0.0)
    weights = effects.weights.clone()
    weights[:, :20] *= 1e-12
    weights[:, [3, 45]] = 0
    graph = prune(replace(effects, weights=weights), 1.0, 1.0)
    names = square.node_names(effects)
    assert square.names_of(graph) == [name for number, name in enumerate(names) if number not in {3, 45}]
    assert graph.n_links == torch.cat([weights[:3], weights[4:]]).count_nonzero()


def test_nothing_is_kept_of_a_graph_without_effects_but_tokens_and_logits() -> None:
    effects = square.graph(6, seed=1)
    silent = replace(effects, weights=torch.zeros_like(effects.weights))
    for threshold in (0.0, 0.5, 1.0):
        graph = prune(silent, threshold, threshold)
        assert (graph.n_nodes, graph.n_links) == (4 + 2, 0)
        assert graph.influence.tolist() == [1.0] * 4


def test_a_prompt_of_one_token_without_features_is_pruned() -> None:
    effects = square.graph(0, n_layers=2, n_positions=1, n_logits=1, zeros=0.0)
    graph = prune(effects, 1.0, 1.0)
    assert square.names_of(graph) == [(0, 0, "error"), (1, 0, "error"), ("token", 0), ("logit", 0)]
    assert graph.sources.tolist() == [0, 1, 2]
    assert graph.starts.tolist() == [0, 0, 0, 0, 3]


def test_what_hangs_loose_is_dropped_in_chains() -> None:
    """Feature 2 reads feature 1 alone, which reads feature 0 alone, which reads nothing: all three go."""
    effects = chain([[0.0] * 7, [4.0, 0, 0, 0, 0, 0, 0], [0, 4.0, 0, 0, 0, 0, 0], [0, 0, 5.0, 0, 0, 0, 5.0]])
    graph = prune(effects, 1.0, 1.0)
    assert square.names_of(graph) == [("token", 0), ("logit", 0)]
    assert graph.weights.tolist() == [5.0]


@pytest.mark.parametrize("threshold", [-0.01, 1.01, float("nan"), float("inf")])
@pytest.mark.parametrize("which", ["node_threshold", "edge_threshold"])
def test_thresholds_outside_of_zero_to_one_are_refused(which: str, threshold: float) -> None:
    thresholds = {"node_threshold": 0.8, "edge_threshold": 0.98} | {which: threshold}
    with pytest.raises(InvalidRequest, match=which):
        prune(FOUR_EQUAL, **thresholds)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_numbers_that_json_cannot_say_are_refused(value: float) -> None:
    effects = square.graph(8, seed=2)
    for spoilt in (
        replace(effects, weights=effects.weights.index_put((torch.tensor(3), torch.tensor(0)), torch.tensor(value))),
        replace(effects, features=replace(effects.features, activation=torch.full((8,), value))),
        replace(effects, logits=replace(effects.logits, probabilities=torch.full((2,), value))),
    ):
        with pytest.raises(RayscopeError):
            prune(spoilt, 0.8, 0.98)


def test_effects_that_run_downwards_are_refused() -> None:
    effects = chain([[0, 0, 1.0, 0, 0, 0, 1.0], [0.0] * 7, [0, 0, 0, 0, 0, 0, 1.0], [1.0, 1.0, 1.0, 0, 0, 0, 0]])
    with pytest.raises(RayscopeError, match="earlier layer"):
        prune(effects, 0.8, 0.98)


def test_pruning_changes_nothing_and_gives_the_same_again() -> None:
    effects = square.graph(30, seed=5)
    before = effects.weights.clone()
    first, second = prune(effects, 0.8, 0.98), prune(effects, 0.8, 0.98)
    assert torch.equal(effects.weights, before)
    assert pickle.dumps(first) == pickle.dumps(second)


def test_a_pruned_graph_travels_small() -> None:
    graph = prune(square.graph(400, n_layers=6, n_positions=8, seed=7, zeros=0.0), 1.0, 1.0)
    sent = pickle.dumps(graph, protocol=5)
    assert graph.n_links > 20_000
    assert len(sent) < 8 * graph.n_links + 60 * graph.n_nodes + 2000
    assert np.array_equal(pickle.loads(sent).weights, graph.weights)


@unhurried
@given(
    scores=st.lists(st.sampled_from([0.0, 0.25, 0.5, 0.5, 1.0, 3.0]) | st.floats(0, 1e6), min_size=1, max_size=60),
    threshold=shares,
)
@example(scores=[5e-324], threshold=1.0)
def test_the_cut_is_where_a_sorted_sum_reaches_the_threshold(scores: list[float], threshold: float) -> None:
    values = np.array(scores)
    smallest = smallest_kept(lambda: torch.tensor(scores, dtype=torch.float64).split(7), threshold)
    running = np.cumsum(np.sort(values)[::-1])
    if threshold < 1 and running[-1] > 0 and np.isclose(running / running[-1], threshold, rtol=1e-12, atol=0).any():
        return  # where a sum meets the threshold, its rounding decides
    assert (values >= smallest).tolist() == square.above_cut(values, threshold).tolist()
