"""What steering is asked for: plain data that both engines understand. Crosses process borders, imports no torch.

    Steering(pushes, method, ...)   as a request has it; a feature is still a name
      -> `directions.resolve`       feature -> decoder row
      -> Intervention(hook, Operator)   as an engine applies it, see `operators`

Several pushes on one hook point apply in the order of the request, each seeing what the one before left.

Hook points are written as TransformerLens does (`blocks.7.hook_resid_post`). `resid_post` of a block and `resid_pre`
of the next are the same place, a *residual site*: site `0` holds the embeddings, site `L + 1` what block `L` returns.
"""

import re
from dataclasses import dataclass
from enum import StrEnum
from typing import Final, Literal

import numpy as np
import numpy.typing as npt

from core.errors import InvalidRequest

Floats = npt.NDArray[np.float32]
Positions = Literal["all", "prompt", "generated"]
Point = Literal["resid_pre", "resid_post", "attn.hook_z", "hook_mlp_out", "hook_attn_out"]

_HOOK: Final = re.compile(
    r"(?:blocks\.(?P<layer>[0-9]{1,4})\.)(?:hook_(?P<resid>resid_pre|resid_post)|(?P<other>attn\.hook_z|hook_mlp_out|hook_attn_out))"
)
_SHORT_HOOK: Final = re.compile(r"(?P<resid>resid_pre|resid_post)\.(?P<layer>[0-9]{1,4})")


class Method(StrEnum):
    """How a direction `v` with coefficient `c` changes an activation `h`; `u = v / |v|`.

    The first three are Neuronpedia's. `c` is the strength times the request's multiplier.
    """

    SIMPLE_ADDITIVE = "SIMPLE_ADDITIVE"
    """`h + c v`"""
    ORTHOGONAL_DECOMP = "ORTHOGONAL_DECOMP"
    """`h + (c - 1) (h.u) u`: what lies along the direction is multiplied by `c`."""
    PROJECTION_CAP = "PROJECTION_CAP"
    """`h + (min(h.u, c) - h.u) u`: what lies along the direction is at most `c`; with a lower bound, at least that."""
    ABLATION = "ABLATION"
    """`h - (h.u) u`: nothing is left along the direction; `c` plays no part."""


@dataclass(frozen=True, slots=True)
class HookPlace:
    """A hook point that can be written."""

    layer: int
    point: Point

    @property
    def name(self) -> str:
        """TransformerLens name."""
        point = f"hook_{self.point}" if self.point.startswith("resid") else self.point
        return f"blocks.{self.layer}.{point}"

    @property
    def depth(self) -> float:
        """How far a forward pass has come when it gets here; only the order means anything."""
        inside = {"resid_pre": 0.0, "attn.hook_z": 0.2, "hook_attn_out": 0.4, "hook_mlp_out": 0.8, "resid_post": 1.0}
        return self.layer + inside[self.point]

    @property
    def site(self) -> int | None:
        """Residual site, or None where the hook point is not on the residual stream."""
        if self.point == "resid_pre":
            return self.layer
        return self.layer + 1 if self.point == "resid_post" else None


def parse_hook(hook: str) -> HookPlace:
    """Reads `blocks.7.hook_resid_post`, or `resid_post.7`.

    Raises:
        InvalidRequest: It is not the name of a hook point that steering can write.
    """
    found = _HOOK.fullmatch(hook) or _SHORT_HOOK.fullmatch(hook)
    if found is None:
        raise InvalidRequest(
            f"Unsupported hook name for steering: {hook[:100]}",
            "Steering writes blocks.N.hook_resid_pre, hook_resid_post, attn.hook_z, hook_mlp_out and hook_attn_out.",
        )
    groups = found.groupdict()
    point: Point = groups.get("resid") or groups["other"]  # pyright: ignore[reportAssignmentType]
    return HookPlace(int(groups["layer"]), point)


@dataclass(frozen=True, slots=True)
class FeatureDirection:
    """The decoder row of an SAE feature, written where the SAE writes: for a transcoder, its output."""

    source: str
    index: int


@dataclass(frozen=True, slots=True, eq=False)
class VectorDirection:
    """A caller's own direction `[d]`, finite, written at `hook`."""

    hook: HookPlace
    vector: Floats


@dataclass(frozen=True, slots=True)
class Push:
    """One direction and how hard to push.

    Attributes:
        direction: Where to.
        coefficient: Strength times the request's multiplier; for a cap the largest projection.
        at_least: Smallest projection of a cap; None leaves it open.
    """

    direction: FeatureDirection | VectorDirection
    coefficient: float
    at_least: float | None = None


@dataclass(frozen=True, slots=True)
class Condition:
    """Steer only positions where a feature is more active than `above`. Its hook point must come before the writing."""

    source: str
    index: int
    above: float = 0.0


@dataclass(frozen=True, slots=True)
class Steering:
    """Everything about how one sequence is steered.

    Attributes:
        pushes: At least one.
        method: How the directions act.
        normalize: Scale every direction to length 1 first; only `SIMPLE_ADDITIVE` looks at a direction's length.
        positions: Which positions are steered: the prompt's, those of generated tokens, or all.
        special_tokens: Whether special tokens of the prompt are steered. Generated ones always are.
        condition: None steers unconditionally.
    """

    pushes: tuple[Push, ...]
    method: Method = Method.SIMPLE_ADDITIVE
    normalize: bool = False
    positions: Positions = "all"
    special_tokens: bool = True
    condition: Condition | None = None
