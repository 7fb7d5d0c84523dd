"""The mathematics of steering, once, for both engines.

Every method is one form, after interp-engine's write operations, in float32 whatever the model's precision:

    x <- x + (add + scale (x.u) + clamp (min(max(x.u, low), high) - x.u)) w

    SIMPLE_ADDITIVE     w = v      add = c
    ORTHOGONAL_DECOMP   u = w = v/|v|    scale = c - 1
    PROJECTION_CAP      u = w = v/|v|    clamp = 1, high = c, low = the lower bound
    ABLATION            u = w = v/|v|    scale = -1

An `Operator` is that form's numbers; an `Intervention` says where it is applied.
"""

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Self

import numpy as np

from core.errors import InvalidRequest
from core.steering.specification import Floats, HookPlace, Method

if TYPE_CHECKING:
    import torch

_LARGEST: Final = float(np.finfo(np.float32).max)
COEFFICIENTS: Final = 5
"""Numbers of an operator besides its two directions: add, scale, clamp, low, high."""


@dataclass(frozen=True, slots=True, eq=False)
class Operator:
    """The numbers of one intervention.

    Attributes:
        read: `u`, `[d]` float32: the direction that is measured.
        write: `w`, `[d]` float32: the direction that is written.
        coefficients: `[5]` float32: add, scale, clamp, low, high.
    """

    read: Floats
    write: Floats
    coefficients: Floats

    @classmethod
    def of(
        cls,
        method: Method,
        vector: Floats,
        coefficient: float,
        *,
        normalize: bool = False,
        at_least: float | None = None,
    ) -> Self:
        """Builds the operator of a method.

        Args:
            method: The method.
            vector: The direction `[d]`.
            coefficient: `c`.
            normalize: Scale the direction to length 1 first.
            at_least: Lower bound of a cap.

        Raises:
            InvalidRequest: The direction holds infinity or NaN, or has no length where a length is needed; the
                coefficient is not finite; or the bounds of a cap exclude each other.
        """
        if not np.isfinite(vector).all():
            raise InvalidRequest("Steering vector contains inf or nan values", "Send finite numbers.")
        if not math.isfinite(coefficient) or abs(coefficient) > _LARGEST:
            raise InvalidRequest("The steering strength is too large", "Send a smaller strength or multiplier.")
        additive = method is Method.SIMPLE_ADDITIVE
        if not additive or normalize:
            vector = _unit(vector)
        bounds = (-math.inf, math.inf)
        if method is Method.PROJECTION_CAP:
            bounds = (-math.inf if at_least is None else at_least, coefficient)
            if bounds[0] > bounds[1]:
                raise InvalidRequest(f"The cap's lower bound {bounds[0]:g} is above its upper bound {bounds[1]:g}")
        scale = {Method.ORTHOGONAL_DECOMP: coefficient - 1.0, Method.ABLATION: -1.0}.get(method, 0.0)
        clamp = float(method is Method.PROJECTION_CAP)
        numbers = np.array([coefficient if additive else 0.0, scale, clamp, *bounds], dtype=np.float32)
        return cls(vector, vector, numbers)


@dataclass(frozen=True, slots=True, eq=False)
class Intervention:
    """An operator and the hook point where it acts."""

    place: HookPlace
    operator: Operator


def _unit(vector: Floats) -> Floats:
    """`v / |v|`; the length is summed in float64, so that it neither overflows nor vanishes."""
    norm = float(np.linalg.norm(vector.astype(np.float64)))
    if norm == 0.0:
        raise InvalidRequest("The steering vector is zero, so it has no direction", "Send a vector that is not zero.")
    return (vector.astype(np.float64) / norm).astype(np.float32)


def change(
    x: "torch.Tensor", read: "torch.Tensor", write: "torch.Tensor", coefficients: "torch.Tensor"
) -> "torch.Tensor":
    """What one operator per row adds to `x`.

    Args:
        x: Activations `[rows, d]`, float32.
        read: `u` of each row, `[rows, d]` or `[d]`.
        write: `w` of each row, `[rows, d]` or `[d]`.
        coefficients: `[rows, 5]` or `[5]`. All zeros with infinite bounds change nothing.

    Returns:
        `[rows, d]`, float32.
    """
    add, scale, clamp, low, high = coefficients.unbind(-1)
    along = (x * read).sum(-1)
    factor = add + scale * along + clamp * (along.clamp(min=low, max=high) - along)
    return factor.unsqueeze(-1) * write
