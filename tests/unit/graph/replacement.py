"""The frozen replacement model written out forwards, in float64: what attribution has to agree with.

It owes nothing to `core.graph`: patterns, norm inputs and MLP outputs come from a plain forward pass with the tests'
own hooks (`watch`), weights from the Hugging Face modules, and a source is given another strength to see what changes.
The map is linear in its sources, so any change will do.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from tests.unit.engine.families import Watched, watch

from .sets import RandomSet


@dataclass
class Replacement:
    """One prompt of one tiny model with one set.

    `sources` are scaled by what `strengths` says: `[S, columns]`, columns as in `effects.Effects`.
    """

    family: str
    transcoders: RandomSet
    ids: tuple[int, ...]
    zeroed: int = 1

    def __post_init__(self) -> None:
        self.watched: Watched = watch(self.family, self.ids)
        self.n_layers, self.n_positions = self.transcoders.n_layers, len(self.ids)
        self._encode()
        self._errors()

    def block(self, layer: int, part: str) -> str:
        return f"{self.watched.family.blocks}.{layer}.{part}"

    def mlp_norm(self, layer: int) -> str:
        return self.block(layer, self.watched.family.mlp_norm)

    def attention_norm(self, layer: int) -> str:
        return self.block(layer, "ln_1" if self.family == "gpt2" else "input_layernorm")

    def read(self, layer: int, x: Tensor, *, constants: bool) -> Tensor:
        """What the transcoder of a layer reads of the residual between attention and MLP."""
        if self.transcoders.reads == "resid_mid":
            return x
        return self.norm(self.mlp_norm(layer), x, constants=constants, gain=self.transcoders.reads == "mlp_in")

    def norm(self, path: str, x: Tensor, *, constants: bool, gain: bool = True) -> Tensor:
        """A norm whose scale is that of the watched pass."""
        module: Any = self.watched.model.get_submodule(path)
        seen = self.watched.inputs[path].double()
        if not self.watched.family.rms:
            seen, x = seen - seen.mean(-1, keepdim=True), x - x.mean(-1, keepdim=True)
        eps = getattr(module, "eps", None) or module.variance_epsilon
        x = x / (seen.pow(2).mean(-1, keepdim=True) + eps).sqrt()
        if not gain:
            return x
        x = x * (module.weight.double() + (1 if self.family.startswith("gemma") else 0))
        return x + module.bias.double() if constants and hasattr(module, "bias") else x

    def attention(self, layer: int, x: Tensor, *, constants: bool) -> Tensor:
        """What attention adds, its pattern being that of the watched pass."""
        module: Any = self.watched.model.get_submodule(self.block(layer, self.watched.family.attention))
        x = self.norm(self.attention_norm(layer), x, constants=constants)
        if self.family == "gpt2":
            width = x.shape[-1]
            value, out = module.c_attn.weight[:, 2 * width :].T, module.c_proj.weight.T
            value_bias, out_bias = module.c_attn.bias[2 * width :], module.c_proj.bias
        else:
            value, out = module.v_proj.weight, module.o_proj.weight
            value_bias, out_bias = module.v_proj.bias, module.o_proj.bias
        values = x @ value.double().T
        if constants and value_bias is not None:
            values = values + value_bias.double()
        pattern = self.watched.attentions[layer].double()
        width = out.shape[1] // len(pattern)
        shared = len(pattern) * width // values.shape[-1]
        heads = []
        for head, mixed in enumerate(pattern):
            own = head // shared
            heads.append(mixed @ values[..., own * width : (own + 1) * width])
        added = torch.cat(heads, -1) @ out.double().T
        if constants and out_bias is not None:
            added = added + out_bias.double()
        if self.family.startswith("gemma"):
            added = self.norm(self.block(layer, "post_attention_layernorm"), added, constants=constants)
        return added

    def contribution(self, layer: int, written: Tensor, *, constants: bool) -> Tensor:
        """What comes into the residual stream of what is written where the set writes."""
        if self.transcoders.writes == "mlp_out" and self.family.startswith("gemma"):
            return self.norm(self.block(layer, "post_feedforward_layernorm"), written, constants=constants)
        return written

    @torch.no_grad()
    def run(self, strengths: Tensor, *, constants: bool = False) -> tuple[list[Tensor], Tensor]:
        """What each layer's transcoder reads, `[S, T, d]` each, and what the unembedding reads, `[S, T, d]`."""
        n, n_positions = len(self.layer), self.n_positions
        rest = strengths[:, n:].unflatten(1, (self.n_layers + 1, n_positions))
        x = rest[:, -1, :, None] * self.watched.hidden_states[0].double()
        reads = []
        for layer in range(self.n_layers):
            x = x + self.attention(layer, x, constants=constants)
            reads.append(self.read(layer, x, constants=constants))
            written = rest[:, layer, :, None] * self.errors[layer]
            for i in range(n):
                slot = layer - int(self.layer[i])
                if 0 <= slot < self.transcoders.W_dec[int(self.layer[i])].shape[1]:
                    written[:, self.position[i]] += strengths[:, i, None] * self.row(i, slot)
            if self.transcoders.skipping:
                written = written + reads[-1] @ self.transcoders.W_skip[layer].double().T
            if constants:
                written = written + self.transcoders.b_dec[layer].double()
            x = x + self.contribution(layer, written, constants=constants)
        return reads, self.norm(self.watched.family.norm, x, constants=constants)

    def row(self, feature: int, slot: int) -> Tensor:
        layer, index = int(self.layer[feature]), int(self.index[feature])
        return self.activation[feature] * self.transcoders.W_dec[layer][index, slot].double()

    def columns(self) -> int:
        return len(self.layer) + (self.n_layers + 1) * self.n_positions

    def rows(self, layer: Tensor, position: Tensor, direction: Tensor) -> Tensor:
        """What each source, switched on alone, changes in each target, `[targets, columns]`."""
        reads, final = self.run(torch.eye(self.columns(), dtype=torch.float64))
        wanted = [
            ([*reads, final][int(at)][:, int(p)] @ d.double())
            for at, p, d in zip(layer, position, direction, strict=True)
        ]
        return torch.stack(wanted)

    def mlp_target(self, layer: int) -> Tensor:
        """What the watched model wrote where the set writes, `[T, d]`."""
        family = self.watched.family
        part = family.mlp if self.transcoders.writes == "mlp_out" else family.mlp_contribution
        return self.watched.outputs[self.block(layer, part)].double()

    @torch.no_grad()
    def _encode(self) -> None:
        """Finds the active features at what the watched model read there."""
        found: list[tuple[int, int, int, float]] = []
        for layer in range(self.n_layers):
            x = self.watched.inputs[self.mlp_norm(layer)].double()
            read = self.read(layer, x, constants=True)
            before = read @ self.transcoders.W_enc[layer].double().T + self.transcoders.b_enc[layer].double()
            for position, index in before.relu().nonzero().tolist():
                if position >= self.zeroed:
                    found.append((layer, position, index, float(before[position, index])))
        columns = list(zip(*found, strict=True)) or [(), (), (), ()]
        self.layer, self.position, self.index = (torch.tensor(c, dtype=torch.int64) for c in columns[:3])
        self.activation = torch.tensor(columns[3], dtype=torch.float64)

    @torch.no_grad()
    def _errors(self) -> None:
        """`[L, T, d]`, where the set writes."""
        self.errors = torch.zeros(self.n_layers, self.n_positions, self.transcoders.shape.d_model, dtype=torch.float64)
        for layer in range(self.n_layers):
            rebuilt = self.transcoders.b_dec[layer].double().expand(self.n_positions, -1).clone()
            if self.transcoders.skipping:
                x = self.watched.inputs[self.mlp_norm(layer)].double()
                rebuilt += self.read(layer, x, constants=True) @ self.transcoders.W_skip[layer].double().T
            for i in range(len(self.layer)):
                slot = layer - int(self.layer[i])
                if 0 <= slot < self.transcoders.W_dec[int(self.layer[i])].shape[1]:
                    rebuilt[self.position[i]] += self.row(i, slot)
            self.errors[layer] = self.mlp_target(layer) - rebuilt
        self.errors[:, : self.zeroed] = 0
