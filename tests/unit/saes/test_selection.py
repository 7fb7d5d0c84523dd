"""Streaming selection equals one global stable sort."""

from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from core.saes.selection import Ranked, rank, stable_top_k

unhurried = settings(deadline=None)

# Few distinct values, so ties are everywhere.
few = st.sampled_from([-1.0, 0.0, 0.0, 0.5, 2.0])
keys = st.lists(few, max_size=40).map(torch.tensor)
sizes = st.integers(0, 45)


def stable_order(values: list[float]) -> list[int]:
    """Descending; Python's sort is stable, so equal values keep their order."""
    return sorted(range(len(values)), key=lambda place: -values[place])


@unhurried
@given(values=keys, k=sizes)
def test_top_k_equals_a_stable_sort_cut_at_k(values: torch.Tensor, k: int) -> None:
    assert stable_top_k(values, k).tolist() == stable_order(values.tolist())[:k]


@unhurried
@given(values=st.lists(st.floats(-3, 3, width=16), max_size=60), k=sizes)
def test_top_k_equals_a_stable_sort_in_half_precision(values: list[float], k: int) -> None:
    half = torch.tensor(values, dtype=torch.bfloat16)
    assert stable_top_k(half, k).tolist() == stable_order(half.tolist())[:k]


@st.composite
def encodings(draw: st.DrawFn) -> tuple[list[torch.Tensor], list[int], int]:
    """Several sources' activations over one prompt, positions to sort by, and how many features to keep."""
    n_positions = draw(st.integers(1, 4))
    widths = draw(st.lists(st.integers(0, 12), min_size=1, max_size=5))
    sources = [
        torch.tensor(draw(st.lists(few, min_size=n_positions * width, max_size=n_positions * width))).view(
            n_positions, width
        )
        for width in widths
    ]
    sort_positions = draw(st.lists(st.integers(0, n_positions - 1), max_size=3))
    return sources, sort_positions, draw(st.integers(1, 30))


def globally_sorted(sources: list[torch.Tensor], positions: list[int], k: int) -> list[tuple[int, int, float, Any]]:
    """One list over all sources and features, sorted once: `(source, index, key, values)`."""
    rows = []
    for number, features in enumerate(sources):
        for index in range(features.shape[1]):
            column = features[:, index].tolist()
            key = sum(column[place] for place in positions) if positions else max(column)
            rows.append((number, index, key, column))
    return sorted(rows, key=lambda row: -row[2])[:k]


def listed(ranked: Ranked) -> list[tuple[int, int, float, Any]]:
    return list(
        zip(
            ranked.sources.tolist(),
            ranked.indexes.tolist(),
            ranked.keys.tolist(),
            ranked.values.tolist(),
            strict=True,
        )
    )


@unhurried
@given(case=encodings(), data=st.data())
def test_sources_merged_in_any_order_equal_one_global_stable_sort(
    case: tuple[list[torch.Tensor], list[int], int], data: st.DataObject
) -> None:
    sources, positions, k = case
    parts = [rank(features, number, k, positions) for number, features in enumerate(sources)]
    while len(parts) > 1:  # a random binary tree of merges
        first = parts.pop(data.draw(st.integers(0, len(parts) - 1)))
        second = parts.pop(data.draw(st.integers(0, len(parts) - 1)))
        parts.append(first.merge(second, k))
    assert listed(parts[0]) == globally_sorted(sources, positions, k)


@unhurried
@given(case=encodings())
def test_merging_is_symmetric(case: tuple[list[torch.Tensor], list[int], int]) -> None:
    sources, positions, k = case
    parts = [rank(features, number, k, positions) for number, features in enumerate(sources)]
    for first, second in pairwise(parts):
        assert listed(first.merge(second, k)) == listed(second.merge(first, k))


@unhurried
@given(case=encodings(), data=st.data())
def test_a_ranking_of_some_columns_reports_their_own_indexes(
    case: tuple[list[torch.Tensor], list[int], int], data: st.DataObject
) -> None:
    (features, *_), positions, k = case
    chosen = sorted(data.draw(st.sets(st.integers(0, max(0, features.shape[1] - 1)), max_size=features.shape[1])))
    found = rank(features[:, chosen], 3, k, positions, torch.tensor(chosen, dtype=torch.long))
    expected = [row for row in globally_sorted([features], positions, 10**6) if row[1] in chosen][:k]
    assert [(index, key, values) for _, index, key, values in listed(found)] == [row[1:] for row in expected]
    assert found.indexes.dtype == torch.long
    assert set(found.sources.tolist()) <= {3}


@pytest.mark.parametrize("k", [1, 2, 3, 10])
def test_activations_that_are_not_numbers_rank_last_and_hide_nothing(k: int) -> None:
    features = torch.tensor([[1.0, torch.nan, 3.0, torch.nan, 2.0]])
    other = torch.tensor([[torch.nan, 2.5]])
    found = rank(features, 0, k, []).merge(rank(other, 1, k, []), k)
    expected = [(0, 2), (1, 1), (0, 4), (0, 0), (0, 1), (0, 3), (1, 0)]
    assert list(zip(found.sources.tolist(), found.indexes.tolist(), strict=True)) == expected[:k]


def test_the_order_is_exact_for_many_random_ties() -> None:
    generator = np.random.default_rng(0)
    values = torch.tensor(generator.integers(0, 5, 20_000), dtype=torch.float32)
    for k in (1, 7, 4_000, 19_999, 20_000):
        expected = np.argsort(-values.numpy(), kind="stable")[:k]
        assert stable_top_k(values, k).tolist() == expected.tolist()
