"""Where the model families that replay knows keep the parts of their linear map.

These are the decoders that add attention and MLP to the residual stream one after the other, each behind a norm. The
same names find modules of a loaded model and tensors of a checkpoint, so that weights can be taken from either.

Deliberately not here: families with parallel blocks, mixtures of experts or state spaces. The autograd engine serves
those.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from core.errors import InvalidRequest

# The text decoder inside a model or a checkpoint; the longer names first, because the shorter begin them.
_PREFIXES = ("model.language_model.", "language_model.model.", "model.", "transformer.", "")


@dataclass(frozen=True, slots=True)
class Family:
    """Names of a family's parts. Those of a block are relative to the block, the others to the text decoder.

    Attributes:
        blocks: The list of blocks.
        final_norm: The norm before the unembedding.
        attention: The attention module.
        attention_norm: The norm before it.
        attention_post_norm: The norm behind it, if there is one.
        mlp: The MLP.
        mlp_norm: The norm before it.
        mlp_post_norm: The norm behind it, if there is one.
        gain_offset: Added to a norm's weight to get its gain.
        centred: Whether norms subtract the mean, as layer norms do.
        fused: Whether queries, keys and values are one matrix, and matrices are stored `[in, out]`.
    """

    blocks: str = "layers"
    final_norm: str = "norm"
    attention: str = "self_attn"
    attention_norm: str = "input_layernorm"
    attention_post_norm: str | None = None
    mlp: str = "mlp"
    mlp_norm: str = "post_attention_layernorm"
    mlp_post_norm: str | None = None
    gain_offset: float = 0.0
    centred: bool = False
    fused: bool = False

    def block(self, layer: int) -> str:
        """The name of a block, with the dot that ends it."""
        return f"{self.blocks}.{layer}."

    def gain(self, weight: Tensor) -> Tensor:
        """What a norm multiplies by, `[d]` float32, from its weight."""
        return weight.detach().float() + self.gain_offset

    def value_weight(self, block: str, read: Callable[[str], Tensor]) -> Tensor:
        """`[n_kv_heads * head_dim, d]`: what attention reads. `read` gives a tensor of the decoder by its name."""
        if not self.fused:
            return read(f"{block}{self.attention}.v_proj.weight")
        joint = read(f"{block}{self.attention}.c_attn.weight")
        return joint[:, 2 * joint.shape[1] // 3 :].T

    def output_weight(self, block: str, read: Callable[[str], Tensor]) -> Tensor:
        """`[d, n_heads * head_dim]`: what attention writes."""
        if not self.fused:
            return read(f"{block}{self.attention}.o_proj.weight")
        return read(f"{block}{self.attention}.c_proj.weight").T


_GEMMA = Family(
    attention_post_norm="post_attention_layernorm",
    mlp_norm="pre_feedforward_layernorm",
    mlp_post_norm="post_feedforward_layernorm",
    gain_offset=1.0,
)
_GPT2 = Family(
    blocks="h",
    final_norm="ln_f",
    attention="attn",
    attention_norm="ln_1",
    mlp_norm="ln_2",
    centred=True,
    fused=True,
)
_FAMILIES = {
    "llama": Family(),
    "mistral": Family(),
    "qwen2": Family(),
    "qwen3": Family(),
    "gemma2": _GEMMA,
    "gemma3_text": _GEMMA,
    "gpt2": _GPT2,
}


def has_family(config: Any) -> bool:
    """Whether replay knows the family that a `transformers` configuration names."""
    return config.get_text_config().model_type in _FAMILIES


def family_of(config: Any) -> Family:
    """The family that a `transformers` configuration names.

    Raises:
        InvalidRequest: Replay does not know it.
    """
    name = config.get_text_config().model_type
    if name not in _FAMILIES:
        raise InvalidRequest(
            f"The replay engine does not know the model family '{name}'.",
            f"Use the autograd engine for this model; replay knows {', '.join(_FAMILIES)}.",
        )
    return _FAMILIES[name]


def decoder_of(model: Any, family: Family) -> nn.Module:
    """The module of a loaded model that holds the blocks and the final norm."""
    paths = dict(model.named_modules())
    prefix = decoder_prefix(family, lambda name: name.removesuffix(".weight") in paths)
    return paths[prefix.removesuffix(".")]


def decoder_prefix(family: Family, exists: Callable[[str], bool]) -> str:
    """What stands before the decoder's names, given which tensors exist.

    Raises:
        InvalidRequest: There is no decoder of this family.
    """
    first = f"{family.block(0)}{family.attention_norm}.weight"
    for prefix in _PREFIXES:
        if exists(prefix + first):
            return prefix
    raise InvalidRequest(
        f"There is no '{first}' where a model of this family has it.", "Use the autograd engine for this model."
    )
