"""Promises of `core.graph.targets`."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from core.errors import InvalidRequest, RayscopeError
from core.graph.targets import Direction, Place, Targets, Unembedding, custom_targets, salient_targets, salient_tokens

PLACE = Place(n_layers=4, position=6)


def logits_of(probabilities: list[float]) -> torch.Tensor:
    return torch.tensor(probabilities).log()


def unembedding(vocabulary: int = 8, width: int = 5, dtype: torch.dtype = torch.float32) -> Unembedding:
    rows = torch.randn(vocabulary, width, generator=torch.Generator().manual_seed(1))
    return Unembedding.of(rows.to(dtype))


def salient(logits: torch.Tensor, count: int = 10, probability: float = 0.95) -> Targets:
    return salient_targets(
        logits, unembedding(len(logits)), PLACE, "<{}>".format, max_n_logits=count, desired_logit_prob=probability
    )


def custom(wanted: list[int | Direction], logits: torch.Tensor | None = None) -> Targets:
    logits = logits_of([0.4, 0.1, 0.2, 0.05, 0.05, 0.1, 0.05, 0.05]) if logits is None else logits
    return custom_targets(wanted, logits, unembedding(len(logits)), PLACE, "<{}>".format)


@given(st.lists(st.floats(-8, 8, width=32), min_size=1, max_size=30), st.integers(1, 40), st.floats(0, 1.2))
@settings(deadline=None)
def test_the_list_is_the_shortest_with_the_wanted_probability(
    logits: list[float], count: int, probability: float
) -> None:
    exact = np.exp(np.array(logits)) / np.exp(np.array(logits)).sum()
    ids, found = salient_tokens(torch.tensor(logits), count, probability)
    m = len(ids)
    assert 1 <= m <= min(count, len(logits))
    np.testing.assert_allclose(found.numpy(), exact[ids.numpy()], rtol=1e-4)
    largest = np.sort(exact)[::-1]
    np.testing.assert_allclose(found.numpy(), largest[:m], rtol=1e-4)
    assert m == 1 or largest[: m - 1].sum() < probability + 1e-5
    assert m == min(count, len(logits)) or largest[:m].sum() > probability - 1e-5


def test_the_token_that_reaches_the_probability_is_the_last() -> None:
    logits = logits_of([0.125, 0.5, 0.25, 0.125])
    assert salient(logits, probability=0.75).nodes.token_ids == (1, 2)
    assert salient(logits, probability=0.7500001).nodes.token_ids == (1, 2, 0)
    assert salient(logits, probability=0.0).nodes.token_ids == (1,)
    assert salient(logits, probability=2.0).nodes.token_ids == (1, 2, 0, 3)
    assert salient(logits, count=3, probability=2.0).nodes.token_ids == (1, 2, 0)


def test_equal_probabilities_are_settled_by_token_id() -> None:
    ids, _ = salient_tokens(torch.tensor([0.0, 1.0] * 50), 60, 2.0)
    assert ids.tolist() == [*range(1, 100, 2), *range(0, 20, 2)]


def test_logits_may_be_minus_infinity_and_no_more_tokens_are_found_than_there_are() -> None:
    targets = salient(torch.tensor([-torch.inf, 0.0]), count=10, probability=2.0)
    assert targets.nodes.token_ids == (1, 0)
    assert targets.nodes.probabilities.tolist() == [1.0, 0.0]


def test_a_target_begins_behind_the_last_layer_at_the_last_position() -> None:
    targets = salient(logits_of([0.1, 0.6, 0.3]), probability=0.85)
    assert targets.nodes.labels == ("<1>", "<2>")
    np.testing.assert_allclose(targets.nodes.probabilities.numpy(), [0.6, 0.3], rtol=1e-6)
    assert targets.rows.layer.tolist() == [4, 4]
    assert targets.rows.position.tolist() == [6, 6]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_direction_is_the_unembedding_less_its_mean(dtype: torch.dtype) -> None:
    """So that it reads a logit less the mean of all logits."""
    matrix = unembedding(dtype=dtype)
    residual = torch.randn(5, generator=torch.Generator().manual_seed(2)).double()
    logits = matrix.rows.double() @ residual
    directions = matrix.directions([3, 0])
    assert directions.dtype == torch.float32
    np.testing.assert_allclose(
        (directions.double() @ residual).numpy(), (logits[[3, 0]] - logits.mean()).numpy(), rtol=1e-5, atol=1e-6
    )


def test_named_tokens_keep_the_probability_that_the_model_gives_them() -> None:
    targets = custom([3, 0, 2])
    assert targets.nodes.token_ids == (0, 2, 3)
    assert targets.nodes.labels == ("<0>", "<2>", "<3>")
    np.testing.assert_allclose(targets.nodes.probabilities.numpy(), [0.4, 0.2, 0.05], rtol=1e-6)
    assert torch.equal(targets.rows.direction, unembedding().directions([0, 2, 3]))


def test_a_direction_is_used_as_it_is_and_gets_an_id_that_no_token_has() -> None:
    vector = torch.arange(5).double()
    targets = custom([2, Direction("north", 0.3, vector), 0, Direction("south", 0.1, -vector)])
    assert targets.nodes.token_ids == (0, 8 + 1, 2, 8 + 3)
    assert targets.nodes.labels == ("<0>", "north", "<2>", "south")
    np.testing.assert_allclose(targets.nodes.probabilities.numpy(), [0.4, 0.3, 0.2, 0.1], rtol=1e-6)
    assert torch.equal(targets.rows.direction[1], vector.float())
    assert torch.equal(targets.rows.direction[3], -vector.float())
    assert torch.equal(targets.rows.direction[[0, 2]], unembedding().directions([0, 2]))
    assert targets.rows.layer.tolist() == [4] * 4


def test_directions_alone_need_no_token() -> None:
    assert custom([Direction("north", 2.0, torch.ones(5))]).nodes.token_ids == (8,)


@pytest.mark.parametrize(
    ("wanted", "message"),
    [
        ([], "empty"),
        ([8], "no token 8"),
        ([-1], "no token -1"),
        ([1, 2, 1], "Token 1 is a target twice"),
        ([Direction("x", 1.0, torch.ones(4))], "residual has 5"),
        ([Direction("x", 1.0, torch.ones(1, 5))], "residual has 5"),
        ([Direction("x", 1.0, torch.zeros(5))], "zero or not finite"),
        ([Direction("x", 1.0, torch.full((5,), torch.nan))], "zero or not finite"),
        ([Direction("x", 0.0, torch.ones(5))], "above 0"),
        ([Direction("x", float("nan"), torch.ones(5))], "above 0"),
        ([Direction("x", float("inf"), torch.ones(5))], "above 0"),
    ],
)
def test_a_target_that_can_not_be_is_refused(wanted: list[int | Direction], message: str) -> None:
    with pytest.raises(InvalidRequest, match=message):
        custom(wanted)


def test_a_list_without_tokens_is_refused() -> None:
    with pytest.raises(InvalidRequest, match="at least one token"):
        salient_tokens(torch.zeros(3), 0, 0.9)
    with pytest.raises(InvalidRequest, match="not a number"):
        salient_tokens(torch.zeros(3), 1, float("nan"))


def test_logits_that_are_no_numbers_are_the_models_fault() -> None:
    broken = torch.tensor([0.0, torch.nan])
    with pytest.raises(RayscopeError, match="not numbers") as caught:
        salient(broken)
    assert caught.value.status == 500
    with pytest.raises(RayscopeError, match="not numbers"):
        custom([0], broken)
