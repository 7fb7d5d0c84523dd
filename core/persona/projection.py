"""Where a message lies on the axes of a persona asset: scale, centre, project.

The formula is Neuronpedia's persona monitor's. For `x`, the mean residual over one message:

    mean       s = x - m
    l2-mean    s = (x - m) / max(|x - m|, 1e-12)
    z = (s - c) C^T

with `m` the scaler's mean, `c` the mean that the principal components were fitted around and `C` the components. There
is no division by the components' variance. Computed in float64: it is a few dot products, and the difference of two
nearly equal means should keep its digits.

Where `x` comes from is not known here: an unsteered forward, or what a generating engine pooled while it wrote.
"""

from dataclasses import dataclass
from typing import Final, Literal

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]
Doubles = npt.NDArray[np.float64]
Scaler = Literal["mean", "l2-mean"]

_SMALLEST_NORM: Final = 1e-12


@dataclass(frozen=True, slots=True, eq=False)
class Axis:
    """Directions at one layer, ready to project on.

    Attributes:
        layer: Read after this block (`resid_post`).
        scaler: What is done to an activation before it is centred.
        scaler_mean: `m`, `[d]`.
        mean: `c`, `[d]`.
        components: `C`, `[n, d]`, one row per direction.
    """

    layer: int
    scaler: Scaler
    scaler_mean: Floats
    mean: Floats
    components: Floats

    @property
    def hook_name(self) -> str:
        """The hook point that is read."""
        return f"blocks.{self.layer}.hook_resid_post"


def scaled(x: npt.NDArray[np.floating], axis: Axis) -> Doubles:
    """`s` of each row of `x` `[messages, d]`."""
    shifted = x.astype(np.float64) - axis.scaler_mean
    if axis.scaler == "mean":
        return shifted
    return shifted / np.maximum(np.linalg.norm(shifted, axis=-1, keepdims=True), _SMALLEST_NORM)


def project(x: npt.NDArray[np.floating], axis: Axis) -> Doubles:
    """`z` of each row of `x` `[messages, d]`: `[messages, n]`."""
    return (scaled(x, axis) - axis.mean) @ axis.components.T.astype(np.float64)
