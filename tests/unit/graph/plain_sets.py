"""Transcoder sets in memory, of any dtype, whose weights are at hand for an account that owes nothing to `core`."""

from dataclasses import dataclass

import torch
from torch import Tensor

from core.graph.transcoders.transcoder import ActiveFeatures, ReadSite, TranscoderShape, WriteSite

KINDS = ("relu", "jumprelu", "topk", "skip", "clt")
N_FEATURES = 40


@dataclass(frozen=True)
class PlainSet:
    """A set of transcoders; lists are by layer.

    Attributes:
        shape: Facts about it.
        encoder: `[F, d]`.
        encoder_bias: `[F]`.
        decoder: `[F, w, d]`.
        bias: `[d]`.
        skips: `[d, d]` or None.
        thresholds: `[F]` of a JumpReLU.
        k: Active features of a TopK.
    """

    shape: TranscoderShape
    encoder: list[Tensor]
    encoder_bias: list[Tensor]
    decoder: list[Tensor]
    bias: list[Tensor]
    skips: list[Tensor | None]
    thresholds: list[Tensor] | None = None
    k: int | None = None

    def dense(self, layer: int, x: Tensor) -> Tensor:
        """Activations `[pos, F]` at inputs `[pos, d]`."""
        before = x @ self.encoder[layer].T + self.encoder_bias[layer]
        if self.thresholds is not None:
            return before * (before > self.thresholds[layer])
        if self.k is not None:
            return before.relu() * (before >= before.topk(self.k, -1).values[..., -1:])
        return before.relu()

    def encode(self, layer: int, x: Tensor) -> ActiveFeatures:
        dense = self.dense(layer, x)
        position, index = dense.nonzero(as_tuple=True)
        return ActiveFeatures(position, index, dense[position, index])

    def activations(self, layer: int, x: Tensor, indices: Tensor) -> Tensor:
        return self.dense(layer, x)[:, indices]

    def encoder_rows(self, layer: int, indices: Tensor) -> Tensor:
        return self.encoder[layer][indices]

    def decoder_rows(self, layer: int, indices: Tensor) -> Tensor:
        return self.decoder[layer][indices]

    def decoder_bias(self, layer: int) -> Tensor:
        return self.bias[layer]

    def skip(self, layer: int) -> Tensor | None:
        return self.skips[layer]


def random_set(
    kind: str,
    *,
    n_layers: int,
    d_model: int,
    reads: ReadSite = "mlp_in",
    writes: WriteSite = "mlp_out",
    dtype: torch.dtype = torch.float64,
    seed: int = 0,
) -> PlainSet:
    """A set in which about one feature in five is active at inputs of unit scale."""
    generator = torch.Generator().manual_seed(seed)

    def noise(*shape: int, scale: float = 1.0) -> Tensor:
        return (scale * torch.randn(shape, generator=generator, dtype=torch.float64)).to(dtype)

    spread = d_model**-0.5
    layers = range(n_layers)
    widths = [n_layers - layer if kind == "clt" else 1 for layer in layers]
    return PlainSet(
        shape=TranscoderShape("random", n_layers, N_FEATURES, d_model, kind == "clt", reads, writes),
        encoder=[noise(N_FEATURES, d_model, scale=spread) for _ in layers],
        encoder_bias=[noise(N_FEATURES, scale=0.1) - (0.0 if kind == "topk" else 0.8) for _ in layers],
        decoder=[noise(N_FEATURES, width, d_model, scale=spread) for width in widths],
        bias=[noise(d_model, scale=0.1) for _ in layers],
        skips=[noise(d_model, d_model, scale=0.5 * spread) if kind == "skip" else None for _ in layers],
        thresholds=[noise(N_FEATURES, scale=0.3).abs() for _ in layers] if kind == "jumprelu" else None,
        k=5 if kind == "topk" else None,
    )
