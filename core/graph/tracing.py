"""Tracing: one pass of the unmodified model over a prompt, taken apart into a `FrozenPrompt`.

    ids -> forward, no gradients -> patterns, norm scales, what MLPs read and wrote
                                          |
                      transcoders -> active features, decoder rows, errors

Encoder rows are not fetched: a graph needs those of the few features it selects (`FrozenPrompt.with_encoders`), and
rows of logits, by which they are selected, need none.

Deliberately not here: tokenising, and the rule that says how many leading positions are no sources.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from core.engine.attention import AttentionReading, recording_attention
from core.engine.model import EagerModel
from core.errors import InvalidRequest
from core.graph.effects import FeatureNodes
from core.graph.frozen import FrozenPrompt
from core.graph.linear.family import Family, decoder_of, family_of
from core.graph.transcoders.transcoder import ActiveFeatures, TranscoderSet


@torch.no_grad()
def trace(
    model: EagerModel,
    transcoders: TranscoderSet,
    ids: Sequence[int],
    *,
    zeroed: int = 1,
    dtype: torch.dtype | None = None,
) -> FrozenPrompt:
    """Freezes a prompt. Must run on the thread that owns the model's device.

    Args:
        model: A model of a family that replay knows.
        transcoders: A set made for it.
        ids: The prompt, BOS included, `[T]`.
        zeroed: Positions at the start whose features and errors are no sources, such as BOS.
        dtype: Of what is kept; the model's unless given.

    Returns:
        The prompt with all its active features, on the model's device, without encoder rows.

    Raises:
        InvalidRequest: Replay does not know the model's family, the transcoders are another model's, or no embedding
            holds the prompt.
    """
    model.check_prompt(ids)
    family = family_of(model.module.config)
    shape = transcoders.shape
    if (shape.n_layers, shape.d_model) != (model.shape.n_layers, model.shape.d_model):
        raise InvalidRequest(
            f"The transcoders {shape.name} are for {shape.n_layers} layers of width {shape.d_model}; "
            f"this model has {model.shape.n_layers} of width {model.shape.d_model}."
        )
    return _Taken(family, transcoders, _forward(model, family, ids), zeroed, dtype or model.dtype).frozen(ids)


@dataclass(frozen=True, slots=True)
class _Pass:
    """What one forward pass did. Tensors have no batch axis.

    Attributes:
        modules: The norms and MLPs on the way, by their names in the decoder.
        reads: What each of them read, `[T, d]`.
        wrote: What each of them returned, `[T, d]`.
        attention: By layer.
        logits: Of the last position, `[vocabulary]` float32.
    """

    modules: dict[str, nn.Module]
    reads: dict[str, Tensor]
    wrote: dict[str, Tensor]
    attention: dict[int, AttentionReading]
    logits: Tensor


def _forward(model: EagerModel, family: Family, ids: Sequence[int]) -> _Pass:
    decoder, layers = decoder_of(model.module, family), range(model.shape.n_layers)
    in_blocks = (
        family.attention_norm, family.attention_post_norm, family.mlp_norm, family.mlp, family.mlp_post_norm,
    )  # fmt: skip
    names = [family.block(layer) + name for layer in layers for name in in_blocks if name] + [family.final_norm]
    modules = {name: decoder.get_submodule(name) for name in names}
    reads: dict[str, Tensor] = {}
    wrote: dict[str, Tensor] = {}
    attention: dict[int, AttentionReading] = {}

    def listener(name: str) -> Callable[[nn.Module, tuple[Tensor, ...], Tensor], None]:
        def listen(_: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> None:
            reads[name], wrote[name] = args[0][0], output[0]

        return listen

    handles = [module.register_forward_hook(listener(name)) for name, module in modules.items()]
    try:
        with recording_attention(model.module, model.hook_points, layers, attention, lambda: None):
            tokens = torch.tensor([list(ids)], device=model.device)
            output: Any = model.module(input_ids=tokens, use_cache=False, logits_to_keep=1)
    finally:
        for handle in handles:
            handle.remove()
    return _Pass(modules, reads, wrote, attention, output.logits[0, -1].float())


class _Taken:
    """Takes a pass apart."""

    def __init__(
        self, family: Family, transcoders: TranscoderSet, passed: _Pass, zeroed: int, dtype: torch.dtype
    ) -> None:
        self._family = family
        self._set = transcoders
        self._shape = transcoders.shape
        self._pass = passed
        self._zeroed = zeroed
        self._dtype = dtype
        self._blocks = [family.block(layer) for layer in range(self._shape.n_layers)]

    def frozen(self, ids: Sequence[int]) -> FrozenPrompt:
        tokens = self._pass.reads[self._blocks[0] + self._family.attention_norm]
        read_scales = self._read_scales()
        features, decoders, errors = self._written()
        skips = any(self._set.skip(layer) is not None for layer in range(self._shape.n_layers))
        return FrozenPrompt(
            token_ids=tuple(ids),
            transcoders=self._shape.name,
            reads=self._shape.reads,
            cross_layer=self._shape.cross_layer,
            mixing=torch.stack([self._mixing(layer) for layer in range(self._shape.n_layers)]),
            read_scales=read_scales,
            skip_scales=read_scales[:-1] * self._write_scales() if skips else None,
            tokens=tokens.to(self._dtype, copy=True),
            errors=errors,
            features=features,
            decoders=decoders,
            encoders=None,
            logits=self._pass.logits,
        )

    def _mixing(self, layer: int) -> Tensor:
        """`[n_heads, T, T]`."""
        pattern = self._pass.attention[layer].pattern[0].float()
        behind = self._scale(self._within(layer, self._family.attention_post_norm))
        before = self._scale(self._blocks[layer] + self._family.attention_norm)
        return (behind[:, None] * pattern * before).to(self._dtype)

    def _read_scales(self) -> Tensor:
        """`[L + 1, T]`."""
        names = [block + self._family.mlp_norm for block in self._blocks]
        scales = [self._scale(None if self._shape.reads == "resid_mid" else name) for name in names]
        return torch.stack([*scales, self._scale(self._family.final_norm)])

    def _write_scales(self) -> Tensor:
        """`[L, T]`."""
        return torch.stack([self._write_scale(layer) for layer in range(self._shape.n_layers)])

    def _write_scale(self, layer: int) -> Tensor:
        """`[T]`: of the norm between the place that transcoders write and the residual stream."""
        behind = self._family.mlp_post_norm if self._shape.writes == "mlp_out" else None
        return self._scale(self._within(layer, behind))

    def _write_gain(self, layer: int) -> Tensor:
        """`[d]`, of the same norm."""
        name = self._within(layer, self._family.mlp_post_norm)
        if name is None or self._shape.writes != "mlp_out":
            return torch.ones(self._shape.d_model, device=self._pass.logits.device)
        return self._family.gain(self._pass.modules[name].get_parameter("weight"))

    def _written(self) -> tuple[FeatureNodes, tuple[Tensor, ...], Tensor]:
        """The features, what they wrote to each layer, and what they missed there, `[L, T, d]`."""
        layers = range(self._shape.n_layers)
        into_residual = [(self._write_gain(layer), self._write_scale(layer)) for layer in layers]
        missed = torch.stack([self._target(layer) for layer in layers])
        wrote = [[missed[0, :0].to(self._dtype)] for _ in layers]
        found: list[ActiveFeatures] = []
        for layer in layers:
            active = self._encoded(layer)
            found.append(active)
            if not len(active):
                continue
            once, places = torch.unique(active.index, return_inverse=True)
            rows = self._set.decoder_rows(layer, once).detach().to(missed.device)
            for slot in range(rows.shape[1]):
                gain, scale = into_residual[layer + slot]
                # Rows are gathered slot by slot: all slots of all active features at once would be the largest tensor.
                written = rows[:, slot].float().index_select(0, places) * active.value[:, None]
                missed[layer + slot].index_add_(0, active.position, written, alpha=-1)
                wrote[layer + slot].append((written * gain * scale[active.position, None]).to(self._dtype))
        missed[:, : self._zeroed] = 0
        for layer, (gain, scale) in enumerate(into_residual):
            missed[layer] *= gain * scale[:, None]
        return _nodes(found), tuple(torch.cat(rows) for rows in wrote), missed.to(self._dtype)

    def _target(self, layer: int) -> Tensor:
        """`[T, d]` float32: what features and error of a layer have to make up."""
        name = self._blocks[layer] + self._family.mlp
        if self._shape.writes == "mlp_contribution":
            name = self._within(layer, self._family.mlp_post_norm) or name
        wrote = self._pass.wrote[name].float() - self._set.decoder_bias(layer).to(self._pass.logits)
        skip = self._set.skip(layer)
        return wrote if skip is None else wrote - self._read(layer).float() @ skip.to(self._pass.logits).T

    def _encoded(self, layer: int) -> ActiveFeatures:
        x = self._read(layer)[self._zeroed :]
        if not len(x):
            nothing = torch.zeros(0, dtype=torch.int64, device=x.device)
            return ActiveFeatures(nothing, nothing, nothing.float())
        active = self._set.encode(layer, x)
        position, index = active.position.to(x.device), active.index.to(x.device)
        return ActiveFeatures(position + self._zeroed, index, active.value.detach().to(x.device).float())

    def _read(self, layer: int) -> Tensor:
        """`[T, d]`: what a layer's transcoder reads."""
        name = self._blocks[layer] + self._family.mlp_norm
        if self._shape.reads == "mlp_in":
            return self._pass.wrote[name]
        x = self._pass.reads[name]
        if self._shape.reads == "resid_mid":
            return x
        return (self._minus_mean(x.float()) * self._scale(name)[:, None]).to(x.dtype)

    def _scale(self, norm: str | None) -> Tensor:
        """`[T]` float32: what a norm multiplies each position by, apart from its gain; ones where there is none."""
        if norm is None:
            return torch.ones(len(next(iter(self._pass.reads.values()))), device=self._pass.logits.device)
        kept = self._minus_mean(self._pass.reads[norm].float())
        return torch.rsqrt(kept.pow(2).mean(-1) + _epsilon(self._pass.modules[norm]))

    def _minus_mean(self, x: Tensor) -> Tensor:
        return x - x.mean(-1, keepdim=True) if self._family.centred else x

    def _within(self, layer: int, name: str | None) -> str | None:
        return None if name is None else self._blocks[layer] + name


def _nodes(found: Sequence[ActiveFeatures]) -> FeatureNodes:
    layer = torch.cat([torch.full_like(active.position, layer) for layer, active in enumerate(found)])
    position = torch.cat([active.position for active in found])
    index = torch.cat([active.index for active in found])
    return FeatureNodes(layer, position, index, torch.cat([active.value for active in found]))


def _epsilon(norm: Any) -> float:
    return norm.variance_epsilon if hasattr(norm, "variance_epsilon") else norm.eps
