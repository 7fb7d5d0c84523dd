"""Random transcoder sets in memory, of every kind: what their numbers are is known without any loading code."""

from dataclasses import dataclass, field

import torch
from torch import Tensor

from core.graph.transcoders.transcoder import ActiveFeatures, ReadSite, TranscoderShape, WriteSite
from tests.unit.engine.families import D_MODEL, N_LAYERS

N_FEATURES = 24


@dataclass
class RandomSet:
    """A ReLU set; `calls` counts the rows that were asked for."""

    name: str = "random"
    reads: ReadSite = "mlp_in"
    writes: WriteSite = "mlp_out"
    cross_layer: bool = False
    skipping: bool = False
    bias: float = -1.0
    n_layers: int = N_LAYERS
    seed: int = 0
    calls: dict[str, int] = field(default_factory=lambda: {"encoder_rows": 0, "decoder_rows": 0})

    def __post_init__(self) -> None:
        generator = torch.Generator().manual_seed(self.seed)

        def noise(*shape: int, scale: float) -> Tensor:
            return scale * torch.randn(shape, generator=generator)

        layers = range(self.n_layers)
        slots = [self.n_layers - layer if self.cross_layer else 1 for layer in layers]
        self.W_enc = [noise(N_FEATURES, D_MODEL, scale=0.3) for _ in layers]
        self.b_enc = [self.bias + noise(N_FEATURES, scale=0.1) for _ in layers]
        self.W_dec = [noise(N_FEATURES, slots[layer], D_MODEL, scale=0.2) for layer in layers]
        self.b_dec = [noise(D_MODEL, scale=0.2) for _ in layers]
        self.W_skip = [noise(D_MODEL, D_MODEL, scale=0.05) for _ in layers]
        self.shape = TranscoderShape(
            self.name, self.n_layers, N_FEATURES, D_MODEL, self.cross_layer, self.reads, self.writes
        )

    def encode(self, layer: int, x: Tensor) -> ActiveFeatures:
        activations = torch.relu(x.float() @ self.W_enc[layer].T + self.b_enc[layer])
        position, index = activations.nonzero(as_tuple=True)
        return ActiveFeatures(position, index, activations[position, index])

    def activations(self, layer: int, x: Tensor, indices: Tensor) -> Tensor:
        return torch.relu(x.float() @ self.W_enc[layer][indices].T + self.b_enc[layer][indices])

    def encoder_rows(self, layer: int, indices: Tensor) -> Tensor:
        self.calls["encoder_rows"] += len(indices)
        return self.W_enc[layer][indices]

    def decoder_rows(self, layer: int, indices: Tensor) -> Tensor:
        self.calls["decoder_rows"] += len(indices)
        return self.W_dec[layer][indices]

    def decoder_bias(self, layer: int) -> Tensor:
        return self.b_dec[layer]

    def skip(self, layer: int) -> Tensor | None:
        return self.W_skip[layer] if self.skipping else None


SETS: dict[str, dict[str, object]] = {
    "plt": {},
    "plt_skip": {"skipping": True},
    "plt_residual": {"reads": "resid_mid", "writes": "mlp_contribution", "skipping": True},
    "plt_normalized": {"reads": "mlp_normalized", "writes": "mlp_contribution", "skipping": True},
    "clt": {"reads": "resid_mid", "writes": "mlp_contribution", "cross_layer": True, "bias": -2.0},
    "clt_inside": {"cross_layer": True},
}


def random_set(kind: str, **changes: object) -> RandomSet:
    return RandomSet(**(SETS[kind] | changes))  # type: ignore[arg-type]
