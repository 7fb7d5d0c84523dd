"""Transcoders whose weights stay in their files until rows of them are asked for; per-layer and cross-layer alike.

    encoder   resident: the whole matrix on the device, read once.   lazy: read block by block, or row by row
    decoder   always by rows
    biases, thresholds, skip matrices: resident

Rows are read each once, in ascending order, however often and in whichever order they are asked for. What the files
hold in memory stays under a byte budget (`budget`). Nothing changes after loading, so threads may share a set.
"""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from core.errors import InvalidRequest
from core.graph.transcoders.activations import Activation, JumpRelu, Relu
from core.graph.transcoders.budget import ByteBudget
from core.graph.transcoders.layer import LayerWeights, Stored
from core.graph.transcoders.transcoder import ActiveFeatures, TranscoderShape

_BLOCK_BYTES = 64 * 2**20


class StoredTranscoders:
    """A `transcoder.TranscoderSet` over weight files.

    Args:
        shape: Facts about it.
        layers: Where the weights of each layer are.
        activation: What all layers do to their pre-activations; by default ReLU, or JumpReLU where thresholds are.
        device: Where encoders and rows go.
        dtype: In which precision.
        lazy_encoder: Whether encoders stay in their files.
        budget: Limits what the files hold in memory.
    """

    def __init__(
        self,
        shape: TranscoderShape,
        layers: Sequence[LayerWeights],
        *,
        activation: Activation | None,
        device: torch.device,
        dtype: torch.dtype,
        lazy_encoder: bool,
        budget: ByteBudget,
    ) -> None:
        self._shape = shape
        self._layers = tuple(layers)
        self._device, self._dtype, self._budget = device, dtype, budget
        self._encoder_bias: list[Tensor] = []
        self._decoder_bias: list[Tensor] = []
        self._skip: list[Tensor | None] = []
        self._activation: list[Activation] = []
        self._encoder: list[Tensor] = []
        for layer in self._layers:
            self._encoder_bias.append(self._copied(layer.encoder_bias))
            self._decoder_bias.append(self._copied(layer.decoder_bias))
            self._skip.append(None if layer.skip is None else self._copied(layer.skip))
            self._activation.append(activation or self._activation_of(layer))
            if not lazy_encoder:
                self._encoder.append(self._copied(layer.encoder))
            for file in layer.files:
                file.release()

    @property
    def shape(self) -> TranscoderShape:
        """See `TranscoderSet`."""
        return self._shape

    @property
    def held_bytes(self) -> int:
        """Bytes that the files may hold in memory at present, resident weights apart."""
        return self._budget.held_bytes

    @torch.no_grad()
    def encode(self, layer: int, x: Tensor) -> ActiveFeatures:
        """See `TranscoderSet`."""
        return self._activation[layer].active(self._pre_activations(layer, x.to(self._device, self._dtype)))

    @torch.no_grad()
    def activations(self, layer: int, x: Tensor, indices: Tensor) -> Tensor:
        """See `TranscoderSet`.

        Raises:
            InvalidRequest: There is no such feature.
        """
        rows, features = self.encoder_rows(layer, indices), indices.to(self._device)
        before = torch.nn.functional.linear(x.to(rows), rows, self._encoder_bias[layer][features])
        kept = self._activation[layer].keeps(before, features)
        if kept is None:
            return self.encode(layer, x).at(len(x), features)
        return before.where(kept, 0)

    @torch.no_grad()
    def encoder_rows(self, layer: int, indices: Tensor) -> Tensor:
        """See `TranscoderSet`.

        Raises:
            InvalidRequest: There is no such feature.
        """
        if not self._encoder:
            return self._rows(self._layers[layer].encoder, indices)
        self._check(indices)
        return self._encoder[layer].index_select(0, indices.to(self._device))

    @torch.no_grad()
    def decoder_rows(self, layer: int, indices: Tensor) -> Tensor:
        """See `TranscoderSet`.

        Raises:
            InvalidRequest: There is no such feature.
        """
        rows = self._rows(self._layers[layer].decoder, indices, self._layers[layer].first_slot)
        return rows if self._shape.cross_layer else rows.unsqueeze(1)

    def decoder_bias(self, layer: int) -> Tensor:
        """See `TranscoderSet`."""
        return self._decoder_bias[layer]

    def skip(self, layer: int) -> Tensor | None:
        """See `TranscoderSet`."""
        return self._skip[layer]

    def _pre_activations(self, layer: int, x: Tensor) -> Iterator[tuple[int, Tensor]]:
        bias = self._encoder_bias[layer]
        if self._encoder:
            yield 0, torch.nn.functional.linear(x, self._encoder[layer], bias)
            return
        stored = self._layers[layer].encoder
        whole = stored.read()
        block = max(1, _BLOCK_BYTES // (self._shape.d_model * self._dtype.itemsize))
        for first in range(0, len(whole), block):
            rows = whole[first : first + block]
            yield first, torch.nn.functional.linear(x, rows.to(self._device, self._dtype), bias[first : first + block])
            self._budget.used(stored.file)

    def _rows(self, stored: Stored, indices: Tensor, first_slot: int = 0) -> Tensor:
        wanted, places = indices.to("cpu").unique(return_inverse=True)  # ascending: neighbours lie in one page
        self._check(wanted)
        whole = stored.read()
        rows = (whole[:, first_slot:] if first_slot else whole).index_select(0, wanted)
        self._budget.used(stored.file)
        return rows.to(self._device, self._dtype).index_select(0, places.to(self._device))

    def _check(self, indices: Tensor) -> None:
        """Refuses features that do not exist: on a GPU they would cost the process, not only the request."""
        if not len(indices):
            return
        least, most = (int(bound) for bound in indices.aminmax())
        if least < 0 or most >= self._shape.n_features:
            raise InvalidRequest(
                f"Feature index {least if least < 0 else most} is out of range for {self._shape.name}.",
                f"Use an index from 0 to {self._shape.n_features - 1}.",
            )

    def _activation_of(self, layer: LayerWeights) -> Activation:
        if layer.threshold is None:
            return Relu()
        threshold = self._copied(layer.threshold)
        return JumpRelu(threshold.clamp(min=0) if layer.rectified else threshold)

    def _copied(self, stored: Stored) -> Tensor:
        return stored.read().to(self._device, self._dtype, copy=True, memory_format=torch.contiguous_format)
