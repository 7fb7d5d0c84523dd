"""The projection against the formula, number by number in Python's own floats."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.persona.projection import Axis, Scaler, project


def axis(scaler: Scaler, seed: int, width: int = 5, rows: int = 3) -> Axis:
    rng = np.random.default_rng(seed)
    vectors = rng.normal(size=(rows + 2, width)).astype(np.float32)
    return Axis(3, scaler, vectors[0], vectors[1], vectors[2:])


def by_hand(x: np.ndarray, axis: Axis) -> list[list[float]]:
    found: list[list[float]] = []
    for row in x.tolist():
        shifted = [a - b for a, b in zip(row, axis.scaler_mean.tolist(), strict=True)]
        if axis.scaler == "l2-mean":
            length = max(math.sqrt(math.fsum(number**2 for number in shifted)), 1e-12)
            shifted = [number / length for number in shifted]
        centred = [a - b for a, b in zip(shifted, axis.mean.tolist(), strict=True)]
        found.append([math.fsum(a * b for a, b in zip(centred, c, strict=True)) for c in axis.components.tolist()])
    return found


@given(
    scaler=st.sampled_from(["mean", "l2-mean"]),
    seed=st.integers(0, 999),
    rows=st.integers(0, 4),
    size=st.sampled_from([1e-3, 1.0, 1e4]),
)
def test_a_projection_is_the_formula(scaler: Scaler, seed: int, rows: int, size: float) -> None:
    x = (np.random.default_rng(seed + 1).normal(size=(rows, 5)) * size).astype(np.float32)
    found = project(x, axis(scaler, seed))
    assert found.shape == (rows, 3)
    assert found.dtype == np.float64
    np.testing.assert_allclose(found, np.array(by_hand(x, axis(scaler, seed))).reshape(rows, 3), rtol=1e-12, atol=1e-12)


def test_a_mean_that_equals_the_scalers_is_not_divided_by_nothing() -> None:
    known = axis("l2-mean", 4)
    found = project(known.scaler_mean[None], known)
    np.testing.assert_allclose(found[0], -known.components.astype(float) @ known.mean.astype(float), rtol=1e-12)


def test_scaling_to_length_1_forgets_how_far_an_activation_is() -> None:
    near, far = axis("l2-mean", 5), axis("mean", 5)
    step = np.random.default_rng(9).normal(size=5)
    x = np.stack([near.scaler_mean + step, near.scaler_mean + 50 * step])
    scaled, plain = project(x, near), project(x, far)
    np.testing.assert_allclose(scaled[0], scaled[1], rtol=1e-9)
    assert not np.allclose(plain[0], plain[1])


@pytest.mark.parametrize("scaler", ["mean", "l2-mean"])
def test_nearly_equal_means_keep_their_digits(scaler: Scaler) -> None:
    """In float32 the difference of two numbers near 1000 has four digits left."""
    known = axis(scaler, 6)
    known = Axis(3, scaler, known.scaler_mean + 1000, known.mean, known.components)
    x = known.scaler_mean.astype(np.float64) + 1e-5 * np.arange(5)
    np.testing.assert_allclose(project(x[None], known), by_hand(x[None], known), rtol=1e-9)
