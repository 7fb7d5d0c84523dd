"""Replacement and completeness score are those of the definition on the square."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings

from core.graph.effects import Effects
from core.graph.pruning import prune
from core.graph.rectangle import Rectangle
from core.graph.scores import GraphScores, graph_scores
from tests.unit.graph import square


def scores_of(effects: Effects) -> GraphScores:
    return graph_scores(effects, Rectangle.of(effects).influence())


def by_definition(effects: Effects) -> tuple[float | None, float | None]:
    matrix, outputs = square.square(effects), square.output_weights(effects)
    first, last = len(effects.features), len(effects.features) + effects.n_layers * effects.n_positions
    flows = square.influence(matrix, outputs)
    errors, tokens = flows[first:last].sum(), flows[last : last + effects.n_positions].sum()
    not_errors = 1 - square.normalised(matrix)[:, first:last].sum(1)
    ends = errors + tokens
    return (
        tokens / ends if ends else None,
        (not_errors * (flows + outputs)).sum() / (flows + outputs).sum(),
    )


@settings(deadline=None)
@given(effects=square.graphs())
def test_scores_are_those_of_the_definition(effects: Effects) -> None:
    scores, (replacement, completeness) = scores_of(effects), by_definition(effects)
    assert scores.replacement == (None if replacement is None else pytest.approx(replacement, rel=1e-9, abs=1e-12))
    assert scores.completeness == pytest.approx(completeness, rel=1e-9, abs=1e-12)


def test_a_graph_without_errors_explains_all() -> None:
    effects = square.graph(20, seed=4)
    weights = effects.weights.clone()
    weights[:, 20 : 20 + 12] = 0
    assert scores_of(replace(effects, weights=weights)) == GraphScores(replacement=1.0, completeness=1.0)


def test_a_graph_of_errors_alone_explains_nothing() -> None:
    effects = square.graph(0, n_positions=2, zeros=0.0)
    weights = effects.weights.clone()
    weights[:, -2:] = 0
    outputs = effects.logits.probabilities.double().sum().item()
    # Half of the flow is at the logits, whose input is errors, and half at the errors, which count as complete.
    assert scores_of(replace(effects, weights=weights)) == GraphScores(replacement=0.0, completeness=pytest.approx(0.5))
    assert outputs > 0


def test_where_nothing_flows_there_is_no_score() -> None:
    effects = square.graph(5)
    silent = replace(effects, weights=torch.zeros_like(effects.weights))
    assert scores_of(silent) == GraphScores(replacement=None, completeness=1.0)
    nobody = replace(silent, logits=replace(silent.logits, probabilities=torch.zeros(2)))
    assert scores_of(nobody) == GraphScores(replacement=None, completeness=None)


def test_pruning_reports_the_scores_of_the_whole_graph() -> None:
    effects = square.graph(40, seed=9)
    whole = scores_of(effects)
    for thresholds in ((0.2, 0.3), (1.0, 1.0)):
        graph = prune(effects, *thresholds)
        assert (graph.replacement_score, graph.completeness_score) == (whole.replacement, whole.completeness)
    assert np.isfinite([whole.replacement, whole.completeness]).all()
