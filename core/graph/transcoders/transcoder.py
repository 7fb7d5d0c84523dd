"""What attribution, tracing and interventions need of a set of transcoders, whichever kind and wherever it lies.

A transcoder reads one place of a layer and writes sparse features where the MLP writes. Per-layer transcoders (PLT)
write to their own layer, cross-layer ones (CLT) to their own and every later one.
"""

from dataclasses import dataclass
from typing import Literal, Protocol

from torch import Tensor

ReadSite = Literal["mlp_in", "resid_mid", "mlp_normalized"]
"""`mlp_in`: the normalised MLP input, gains applied (`mlp.hook_in`). `resid_mid`: the residual before that norm
(`hook_resid_mid`). `mlp_normalized`: normalised, gains not applied (`ln2.hook_normalized`)."""

WriteSite = Literal["mlp_out", "mlp_contribution"]
"""`mlp_out`: what the MLP returns (`mlp.hook_out`). `mlp_contribution`: what is added to the residual, which differs
where a norm follows the MLP (`hook_mlp_out`)."""


@dataclass(frozen=True, slots=True, eq=False)
class ActiveFeatures:
    """The active features of one layer, ordered by position, then index.

    Attributes:
        position: `[n]` int64.
        index: `[n]` int64.
        value: `[n]`, greater than 0 unless the transcoder's activation allows otherwise.
    """

    position: Tensor
    index: Tensor
    value: Tensor

    def __len__(self) -> int:
        return len(self.position)

    def at(self, n_positions: int, indices: Tensor) -> Tensor:
        """Values `[pos, n]` of features `[n]` at all positions; 0 where one is not active."""
        values = self.value.new_zeros(n_positions, len(indices))
        found, column = (self.index[:, None] == indices).nonzero(as_tuple=True)
        values[self.position[found], column] = self.value[found]
        return values


@dataclass(frozen=True, slots=True)
class TranscoderShape:
    """Facts about a set.

    Attributes:
        name: What it is called on the wire (`scan`).
        n_layers: Layers of the model; every one has a transcoder.
        n_features: Features of each layer.
        d_model: Width of the residual stream.
        cross_layer: Whether features write to later layers, too.
        reads: Where it reads.
        writes: Where it writes.
    """

    name: str
    n_layers: int
    n_features: int
    d_model: int
    cross_layer: bool
    reads: ReadSite
    writes: WriteSite


class TranscoderSet(Protocol):
    """A set of transcoders whose rows can be had one by one. Rows come on the device and in the dtype of the set."""

    @property
    def shape(self) -> TranscoderShape:
        """Facts about it."""
        ...

    def encode(self, layer: int, x: Tensor) -> ActiveFeatures:
        """Features active at inputs `[pos, d]` of a layer."""
        ...

    def activations(self, layer: int, x: Tensor, indices: Tensor) -> Tensor:
        """Values `[pos, n]` of features `[n]` at inputs `[pos, d]` of a layer; 0 where one is not active.

        Reads the encoder rows of these features and no others, unless the activation compares all features.
        """
        ...

    def encoder_rows(self, layer: int, indices: Tensor) -> Tensor:
        """Encoder rows `[n, d]` of features `[n]`."""
        ...

    def decoder_rows(self, layer: int, indices: Tensor) -> Tensor:
        """Decoder rows `[n, w, d]` of features `[n]`: slot j writes to layer `layer + j`; w is 1 unless cross-layer."""
        ...

    def decoder_bias(self, layer: int) -> Tensor:
        """`[d]`."""
        ...

    def skip(self, layer: int) -> Tensor | None:
        """`[d, d]`; the output gains `x @ skip.T`. None if the transcoder has no skip matrix."""
        ...
