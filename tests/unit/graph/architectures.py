"""Tiny random models by architecture, in float64 or float32, and where each keeps its parts, said by hand."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn

from core.engine.model import EagerModel
from core.graph.transcoders.transcoder import ReadSite
from tests.unit.engine import families
from tests.unit.engine.families import D_MODEL, FAMILIES, N_LAYERS, VOCAB_SIZE, Family

__all__ = ["ARCHITECTURES", "D_MODEL", "N_LAYERS", "OTHERS", "REPLAYED", "VOCAB_SIZE", "Architecture", "eager_model"]


@dataclass(frozen=True)
class Architecture:
    """What an account of a forward pass needs to know. Paths are relative to a block.

    Attributes:
        family: Where the parts are.
        norms: The norms of a block that lie on the residual's way.
        values: The module that makes the values.
        pick: Takes its output `[1, pos, ...]` to values `[pos, n_kv_heads, head_dim]`.
        unit_gain: Whether the gain of norms is one plus the weight.
        mid: The module that reads the residual on the MLP's side.
        sites: Where transcoders can read.
    """

    family: Family
    norms: tuple[str, ...] = ("input_layernorm", "post_attention_layernorm")
    values: str = "self_attn.v_proj"
    pick: Callable[[Tensor], Tensor] = lambda v: v[0].unflatten(-1, (-1, 8))
    unit_gain: bool = False
    mid: str = "post_attention_layernorm"
    sites: tuple[ReadSite, ...] = ("mlp_in", "resid_mid", "mlp_normalized")


_GEMMA = (
    "input_layernorm",
    "post_attention_layernorm",
    "pre_feedforward_layernorm",
    "post_feedforward_layernorm",
)


def _gemma(name: str) -> Architecture:
    return Architecture(FAMILIES[name], norms=_GEMMA, unit_gain=True, mid="pre_feedforward_layernorm")


ARCHITECTURES = {
    "llama": Architecture(FAMILIES["llama"]),
    "mistral": Architecture(FAMILIES["mistral"]),
    "qwen2": Architecture(FAMILIES["qwen2"]),
    "qwen3": Architecture(FAMILIES["qwen3"]),
    "gemma2": _gemma("gemma2"),
    "gemma3": _gemma("gemma3"),
    "gpt2": Architecture(
        FAMILIES["gpt2"],
        norms=("ln_1", "ln_2"),
        values="attn.c_attn",
        pick=lambda qkv: qkv[0].chunk(3, -1)[2].unflatten(-1, (-1, 8)),
        mid="ln_2",
    ),
    "neox": Architecture(
        FAMILIES["neox"],
        values="attention.query_key_value",
        pick=lambda qkv: qkv[0].unflatten(-1, (-1, 3, 8))[:, :, 2],
        sites=("mlp_in", "mlp_normalized"),  # attention and MLP read the same residual
    ),
    "olmo2": Architecture(
        Family(families._config("Olmo2Config"), mlp_contribution="post_feedforward_layernorm"),
        norms=("post_attention_layernorm", "post_feedforward_layernorm"),
        mid="mlp",
        sites=("mlp_in", "resid_mid"),  # no norm stands before the MLP
    ),
    "granite": Architecture(
        Family(
            families._config(
                "GraniteConfig",
                embedding_multiplier=3.0,
                residual_multiplier=0.7,
                attention_multiplier=0.4,
                logits_scaling=2.0,
            )
        ),
    ),
}
REPLAYED = ("llama", "mistral", "qwen2", "qwen3", "gemma2", "gemma3", "gpt2")
OTHERS = tuple(name for name in ARCHITECTURES if name not in REPLAYED)


@cache
def eager_model(name: str, dtype: torch.dtype = torch.float64) -> EagerModel:
    """A random model whose attention and norms are far from linear."""
    from transformers import AutoModelForCausalLM

    architecture = ARCHITECTURES[name]
    torch.manual_seed(sorted(ARCHITECTURES).index(name))
    model: Any = AutoModelForCausalLM.from_config(architecture.family.config(), attn_implementation="eager")
    model.config.architectures = [type(model).__name__]
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn_like(parameter) * (0.3 if parameter.ndim == 2 else 0.1))
            if parameter.ndim == 1 and not architecture.unit_gain:
                parameter.add_(1.0)
    return EagerModel(model.to(dtype).eval())


def gain(architecture: Architecture, norm: nn.Module) -> Tensor:
    """What a norm multiplies by."""
    weight: Any = norm.weight
    return 1.0 + weight if architecture.unit_gain else weight
