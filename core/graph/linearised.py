"""A prompt's frozen linear model: what every attribution engine offers, and all that ranking and scheduling know of it.

Attention patterns, the scales of norms and the choice of active features are held fixed, so the residual stream is
linear in its sources (Ameisen et al. 2025, "Circuit Tracing"). One row is one backward pass through that linear model
from a target's reading direction to every source.
"""

from dataclasses import dataclass
from typing import Protocol, Self

from torch import Tensor

from core.graph.effects import FeatureNodes


@dataclass(frozen=True, slots=True, eq=False)
class TargetRows:
    """Where backward passes begin.

    Attributes:
        layer: `[B]` int64: the layer whose transcoder reads, or the number of layers for the unembedding.
        position: `[B]` int64.
        direction: `[B, d]`: an encoder row, or a direction of the normalised final residual (before the final norm's
            gain and scale are applied to it, as an unembedding row is).
    """

    layer: Tensor
    position: Tensor
    direction: Tensor

    def __len__(self) -> int:
        return len(self.layer)

    def __getitem__(self, chosen: Tensor | slice) -> "TargetRows":
        return TargetRows(self.layer[chosen], self.position[chosen], self.direction[chosen])


class Linearised(Protocol):
    """One prompt's linear model. No call changes it, so rows may be asked for in any order and process."""

    @property
    def token_ids(self) -> tuple[int, ...]:
        """The prompt, BOS included."""
        ...

    @property
    def n_layers(self) -> int:
        """Layers of the model, L."""
        ...

    @property
    def features(self) -> FeatureNodes:
        """The features that are sources, n of them, in node order."""
        ...

    def targets(self, chosen: Tensor) -> TargetRows:
        """The rows of features, by their numbers in `features`."""
        ...

    def rows(self, targets: TargetRows) -> Tensor:
        """Effects of every source on the targets, `[B, n + (L + 1) * T]` float32; columns as in `effects.Effects`."""
        ...

    def keep(self, chosen: Tensor) -> Self:
        """The same prompt with these features only, ascending numbers `[K]`; what the others did is left out."""
        ...
