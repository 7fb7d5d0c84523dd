"""The mathematics of steering against the published formulas, written out in float64."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from core.errors import InvalidRequest
from core.steering.operators import Operator, change
from core.steering.specification import Method

_D = 6
numbers = st.floats(-100, 100, width=32)
arrays = st.lists(numbers, min_size=_D, max_size=_D).map(lambda xs: np.array(xs, dtype=np.float32))
directions = arrays.filter(lambda v: float(np.linalg.norm(v)) > 1e-3)


def published(method: Method, h: np.ndarray, v: np.ndarray, c: float, low: float | None) -> np.ndarray:
    """Reference: Neuronpedia's server, per position."""
    h, v = h.astype(np.float64), v.astype(np.float64)
    u = v / np.linalg.norm(v)
    match method:
        case Method.SIMPLE_ADDITIVE:
            return h + c * v
        case Method.ORTHOGONAL_DECOMP:
            return h + (c - 1) * (h @ u) * u
        case Method.ABLATION:
            return h - (h @ u) * u
        case Method.PROJECTION_CAP:
            wanted = min(h @ u, c) if low is None else max(min(h @ u, c), low)
            return h + (wanted - h @ u) * u


def ours(operator: Operator, h: np.ndarray) -> np.ndarray:
    x = torch.from_numpy(h)[None]
    parts = (torch.from_numpy(part) for part in (operator.read, operator.write, operator.coefficients))
    return (x + change(x, *parts))[0].numpy()


@given(h=arrays, v=directions, c=numbers, method=st.sampled_from(Method), gap=st.none() | st.floats(0, 50, width=32))
def test_every_method_is_the_published_formula(
    h: np.ndarray, v: np.ndarray, c: float, method: Method, gap: float | None
) -> None:
    low = None if gap is None or method is not Method.PROJECTION_CAP else c - gap
    size = 1 + np.abs(h).max() + abs(c) * (1 + np.abs(v).max()) + np.abs(h).max() * abs(c)
    np.testing.assert_allclose(
        ours(Operator.of(method, v, c, at_least=low), h), published(method, h, v, c, low), atol=2e-6 * size
    )


@given(h=arrays, v=directions, c=numbers)
def test_a_capped_projection_never_exceeds_its_cap(h: np.ndarray, v: np.ndarray, c: float) -> None:
    capped = ours(Operator.of(Method.PROJECTION_CAP, v, c), h)
    along = float(capped.astype(np.float64) @ (v.astype(np.float64) / np.linalg.norm(v.astype(np.float64))))
    assert along <= c + 1e-4 * (1 + np.abs(h).max() + abs(c))


@given(h=arrays, v=directions)
def test_scaling_by_one_changes_nothing(h: np.ndarray, v: np.ndarray) -> None:
    np.testing.assert_array_equal(ours(Operator.of(Method.ORTHOGONAL_DECOMP, v, 1.0), h), h)


def test_normalising_divides_by_the_length() -> None:
    v = np.array([3.0, 4.0, 0.0], dtype=np.float32)
    operator = Operator.of(Method.SIMPLE_ADDITIVE, v, 10.0, normalize=True)
    np.testing.assert_allclose(operator.write, [0.6, 0.8, 0.0], rtol=1e-6)
    assert operator.coefficients[0] == 10.0


def test_lengths_of_huge_and_tiny_vectors_are_exact() -> None:
    for size in (1e30, 1e-30):
        unit = Operator.of(Method.ABLATION, np.full(4, size, dtype=np.float32), 0.0).write
        np.testing.assert_allclose(unit, np.full(4, 0.5), rtol=1e-6)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_a_vector_that_is_not_finite_is_refused(bad: float) -> None:
    with pytest.raises(InvalidRequest, match="inf or nan"):
        Operator.of(Method.SIMPLE_ADDITIVE, np.array([1.0, bad], dtype=np.float32), 1.0)


@pytest.mark.parametrize("method", [m for m in Method if m is not Method.SIMPLE_ADDITIVE])
def test_a_zero_vector_has_no_direction(method: Method) -> None:
    zero = np.zeros(4, dtype=np.float32)
    with pytest.raises(InvalidRequest, match="zero"):
        Operator.of(method, zero, 1.0)
    with pytest.raises(InvalidRequest, match="zero"):
        Operator.of(Method.SIMPLE_ADDITIVE, zero, 1.0, normalize=True)
    Operator.of(Method.SIMPLE_ADDITIVE, zero, 1.0)


def test_a_strength_that_float32_can_not_hold_is_refused() -> None:
    for c in (math.nan, math.inf, 1e39):
        with pytest.raises(InvalidRequest, match="strength"):
            Operator.of(Method.SIMPLE_ADDITIVE, np.ones(3, dtype=np.float32), c)


def test_bounds_that_exclude_each_other_are_refused() -> None:
    with pytest.raises(InvalidRequest, match="above its upper bound"):
        Operator.of(Method.PROJECTION_CAP, np.ones(3, dtype=np.float32), 1.0, at_least=2.0)
