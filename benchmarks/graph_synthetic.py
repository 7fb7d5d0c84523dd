"""Effects of made-up graphs in the sizes that real ones have: what pruning and writing are measured on.

Every feature acts on later layers at its own and later positions, errors and tokens as well, and effects have the
heavy tails of real ones: a few large among many small.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch

from core.graph.effects import Effects, FeatureNodes, LogitNodes

NODE_THRESHOLD, EDGE_THRESHOLD = 0.8, 0.98
_N_LOGITS = 10
_N_FEATURES_OF_A_LAYER = 16384
_VOCABULARY = 3000
_TAIL = 3.0
_SEED = 0


@dataclass(frozen=True, slots=True)
class Shape:
    """How large a graph is.

    Attributes:
        n_features: K.
        n_layers: L.
        n_tokens: T.
    """

    n_features: int
    n_layers: int
    n_tokens: int

    @property
    def n_nodes(self) -> int:
        """N, before pruning."""
        return self.n_features + (self.n_layers + 1) * self.n_tokens + _N_LOGITS


SHAPES: Mapping[str, Shape] = {
    f"{shape.n_nodes:,}": shape for shape in (Shape(2000, 12, 16), Shape(5000, 26, 64), Shape(10_000, 26, 64))
}
"""By number of nodes."""


def synthetic(shape: Shape) -> Effects:
    """The graph of a shape; the same one every time."""
    generator = torch.Generator().manual_seed(_SEED)

    def below(limit: int, count: int) -> torch.Tensor:
        return torch.randint(limit, (count,), generator=generator)

    places = torch.stack(
        [
            below(shape.n_layers, shape.n_features),
            below(shape.n_tokens, shape.n_features),
            below(_N_FEATURES_OF_A_LAYER, shape.n_features),
        ]
    ).unique(dim=1)  # sorts by layer, position and index, too
    layer, position, index = (places[row].contiguous() for row in range(3))
    count = len(layer)
    error_layer = torch.arange(shape.n_layers).repeat_interleave(shape.n_tokens)
    tokens = torch.arange(shape.n_tokens)
    source_layer = torch.cat([layer, error_layer, torch.full_like(tokens, -1)])
    source_position = torch.cat([position, tokens.repeat(shape.n_layers), tokens])
    weights = torch.randn(count + _N_LOGITS, len(source_layer), generator=generator)
    weights = weights.sign() * weights.abs().pow_(_TAIL)
    acts = (source_layer < layer[:, None]) & (source_position <= position[:, None])
    weights[:count] *= acts
    return Effects(
        token_ids=tuple(below(_VOCABULARY, shape.n_tokens).tolist()),
        n_layers=shape.n_layers,
        features=FeatureNodes(layer, position, index, torch.rand(count, generator=generator) + 0.1),
        logits=LogitNodes(
            tuple(range(_N_LOGITS)), tuple(map(str, range(_N_LOGITS))), torch.full((_N_LOGITS,), 0.9 / _N_LOGITS)
        ),
        n_active=count,
        weights=weights,
    )
