"""One prompt, frozen: what tracing found, and all that attribution needs to know of it besides the model's weights.

Tensors and small numbers only, so it pickles, moves between processes and devices, and gives the same rows everywhere.
Everything a prompt's norms do to single positions is multiplied in where it acts:

    mixing[l][h, q, k] = scale behind attention[q] * pattern[h, q, k] * scale before attention[k]
    decoders, errors   = what arrives in the residual stream, behind the norm after the MLP where there is one

What a prompt costs, in numbers of `dtype`: `L * (n_heads * T^2 + T * d) + T * d` for its T positions, and per feature
`d` for its encoder row, `d` for a per-layer decoder row, `(L - layer) * d` for a cross-layer one.

Deliberately not here: how it is made (`tracing`) and what is computed from it (`replay`).
"""

from dataclasses import dataclass, fields, replace
from typing import Any, Self

import torch
from torch import Tensor

from core.graph.effects import FeatureNodes
from core.graph.transcoders.transcoder import ReadSite, TranscoderSet


@dataclass(frozen=True, slots=True, eq=False)
class FrozenPrompt:
    """A prompt of T positions with n active features, in a model of L layers.

    Attributes:
        token_ids: The prompt, `[T]`, BOS included.
        transcoders: Name of the set that encoded it.
        reads: Where the set reads.
        cross_layer: Whether its features write to later layers, too.
        mixing: `[L, n_heads, T, T]`, query position before key position.
        read_scales: `[L + 1, T]` float32: scales of the norms that transcoders read behind (ones if they read the
            residual stream), then those of the final norm.
        skip_scales: `[L, T]` float32: scales of the norms before and behind the MLPs, multiplied; None if the set has
            no skip matrices.
        tokens: `[T, d]`: the residual stream entering layer 0.
        errors: `[L, T, d]`: what the transcoders missed.
        features: The n features.
        decoders: Per layer, what features wrote to it, `[w, d]`, in node order: those of this layer, or of this and
            all earlier ones if the set is cross-layer.
        encoders: `[n, d]`, rows of the encoders; None while they have not been fetched.
        logits: `[vocabulary]` float32: of the last position, as the model returned them.
    """

    token_ids: tuple[int, ...]
    transcoders: str
    reads: ReadSite
    cross_layer: bool
    mixing: Tensor
    read_scales: Tensor
    skip_scales: Tensor | None
    tokens: Tensor
    errors: Tensor
    features: FeatureNodes
    decoders: tuple[Tensor, ...]
    encoders: Tensor | None
    logits: Tensor

    @property
    def n_layers(self) -> int:
        """L."""
        return len(self.decoders)

    @property
    def n_positions(self) -> int:
        """T."""
        return len(self.token_ids)

    @property
    def n_columns(self) -> int:
        """Sources: features, errors and tokens."""
        return len(self.features) + (self.n_layers + 1) * self.n_positions

    @property
    def dtype(self) -> torch.dtype:
        """Of everything that is not float32 by nature."""
        return self.mixing.dtype

    @property
    def device(self) -> torch.device:
        """Where it lies."""
        return self.mixing.device

    @property
    def nbytes(self) -> int:
        """Bytes of all tensors."""
        return sum(tensor.nbytes for tensor in _tensors(self))

    def writers(self, layer: int) -> tuple[int, int]:
        """The numbers of the features that write to a layer: the first and one past the last."""
        bounds = torch.tensor([layer, layer + 1], device=self.device)
        first, last = torch.searchsorted(self.features.layer, bounds).tolist()
        return (0 if self.cross_layer else first), last

    def keep(self, chosen: Tensor) -> Self:
        """The same prompt with these features only, ascending numbers `[K]`."""
        chosen = chosen.to(self.device)
        decoders: list[Tensor] = []
        for layer, rows in enumerate(self.decoders):
            first, last = self.writers(layer)
            decoders.append(rows.index_select(0, chosen[(chosen >= first) & (chosen < last)] - first))
        features = FeatureNodes(*(getattr(self.features, field.name)[chosen] for field in fields(FeatureNodes)))
        encoders = None if self.encoders is None else self.encoders.index_select(0, chosen)
        return replace(self, features=features, decoders=tuple(decoders), encoders=encoders)

    def with_encoders(self, transcoders: TranscoderSet) -> Self:
        """The same with the encoder rows of its features, each read once however often the feature is active.

        Raises:
            ValueError: Another set encoded this prompt.
        """
        if transcoders.shape.name != self.transcoders:
            raise ValueError(f"{self.transcoders} encoded this prompt, not {transcoders.shape.name}")
        rows: list[Tensor] = [self.tokens[:0]]
        for layer in range(self.n_layers):
            indices = self.features.index[self.features.layer == layer]
            if len(indices):
                once, places = torch.unique(indices, return_inverse=True)
                rows.append(transcoders.encoder_rows(layer, once).detach().to(self.tokens).index_select(0, places))
        return replace(self, encoders=torch.cat(rows))

    def to(self, device: str | torch.device, dtype: torch.dtype | None = None) -> Self:
        """The same on another device, in another dtype; what is float32 by nature stays so."""
        dtype = dtype or self.dtype
        by_nature = (self.read_scales, self.skip_scales, self.logits)

        def moved(value: Any) -> Any:
            if isinstance(value, FeatureNodes):
                return FeatureNodes(*(getattr(value, field.name).to(device) for field in fields(value)))
            if isinstance(value, tuple) and value and isinstance(value[0], Tensor):
                return tuple(moved(tensor) for tensor in value)
            if not isinstance(value, Tensor):
                return value
            return value.to(device) if any(value is kept for kept in by_nature) else value.to(device, dtype)

        return type(self)(*(moved(getattr(self, field.name)) for field in fields(self)))


def _tensors(prompt: FrozenPrompt) -> list[Tensor]:
    nodes = [getattr(prompt.features, field.name) for field in fields(FeatureNodes)]
    single = [getattr(prompt, field.name) for field in fields(prompt)]
    return [value for value in (*single, *prompt.decoders, *nodes) if isinstance(value, Tensor)]
