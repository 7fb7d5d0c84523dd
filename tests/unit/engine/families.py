"""Tiny random models of every family that matters, and an account of each forward pass that owes nothing to `core`.

`Family` says by hand where `transformers` keeps things. `watch` runs the plain forward with its own hooks on every
module, `output_hidden_states` and `output_attentions`, and `expected` derives the activation of a TransformerLens hook
point from that by its definition.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import torch
from torch import nn

from core.engine.model import EagerModel

N_LAYERS = 3
VOCAB_SIZE = 61
D_MODEL = 32
_SIZES = {
    "vocab_size": VOCAB_SIZE,
    "hidden_size": D_MODEL,
    "intermediate_size": 48,
    "num_hidden_layers": N_LAYERS,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 64,
    "bos_token_id": 0,
    "eos_token_id": 0,
    "pad_token_id": None,
}


@dataclass(frozen=True)
class Family:
    """Where one model family keeps its parts; paths are relative to a block unless they name the whole model's."""

    config: Callable[[], Any]
    blocks: str = "model.layers"
    embed: str = "model.embed_tokens"
    norm: str = "model.norm"
    attention: str = "self_attn"
    heads_out: str = "self_attn.o_proj"
    mlp: str = "mlp"
    mlp_out: str = "mlp.down_proj"
    mlp_norm: str = "post_attention_layernorm"
    attention_contribution: str = "self_attn"
    mlp_contribution: str = "mlp"
    activation: Callable[[nn.Module, torch.Tensor], torch.Tensor] = lambda mlp, x: (
        mlp.act_fn(mlp.gate_proj(x)) * mlp.up_proj(x)
    )
    parallel: bool = False
    rms: bool = True
    eager: bool = False


def _gemma(config: Callable[[], Any], **changes: Any) -> Family:
    return Family(
        config,
        mlp_norm="pre_feedforward_layernorm",
        attention_contribution="post_attention_layernorm",
        mlp_contribution="post_feedforward_layernorm",
        **changes,
    )


def _config(name: str, **changes: Any) -> Callable[[], Any]:
    def build() -> Any:
        import transformers

        return getattr(transformers, name)(**_SIZES | changes)

    return build


def _gpt2_config() -> Any:
    from transformers import GPT2Config

    return GPT2Config(
        n_layer=N_LAYERS,
        n_embd=D_MODEL,
        n_head=4,
        n_positions=64,
        vocab_size=VOCAB_SIZE,
        bos_token_id=0,
        eos_token_id=0,
    )


def _gemma3_with_images_config() -> Any:
    from transformers import Gemma3Config

    seeing = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    return Gemma3Config(
        text_config=_SIZES | {"sliding_window": 5, "query_pre_attn_scalar": 8},
        vision_config=seeing | {"image_size": 28, "patch_size": 14},
        mm_tokens_per_image=1,
    )


def opt_model() -> Any:
    """A random OPT: its MLPs are no modules, and inside of them batch and position are one axis."""
    from transformers import OPTConfig, OPTForCausalLM

    config: Any = OPTConfig(
        vocab_size=VOCAB_SIZE,
        hidden_size=D_MODEL,
        word_embed_proj_dim=D_MODEL,
        ffn_dim=48,
        num_hidden_layers=N_LAYERS,
        num_attention_heads=4,
        max_position_embeddings=64,
    )
    config.architectures = ["OPTForCausalLM"]
    torch.manual_seed(0)
    return OPTForCausalLM(config).eval()


FAMILIES = {
    "gpt2": Family(
        _gpt2_config,
        blocks="transformer.h",
        embed="transformer.wte",
        norm="transformer.ln_f",
        attention="attn",
        heads_out="attn.c_proj",
        mlp_out="mlp.c_proj",
        mlp_norm="ln_2",
        attention_contribution="attn",
        activation=lambda mlp, x: mlp.act(mlp.c_fc(x)),
        rms=False,
    ),
    "llama": Family(_config("LlamaConfig")),
    "mistral": Family(_config("MistralConfig", sliding_window=5)),
    "qwen2": Family(_config("Qwen2Config")),
    "qwen3": Family(_config("Qwen3Config")),
    "gemma2": _gemma(
        _config("Gemma2Config", sliding_window=5, query_pre_attn_scalar=8, attn_logit_softcapping=2.0), eager=True
    ),
    "gemma3": _gemma(_config("Gemma3TextConfig", sliding_window=5, query_pre_attn_scalar=8)),
    "gemma3_with_images": _gemma(
        _gemma3_with_images_config,
        blocks="model.language_model.layers",
        embed="model.language_model.embed_tokens",
        norm="model.language_model.norm",
    ),
    "neox": Family(
        _config("GPTNeoXConfig", rotary_pct=0.5, use_parallel_residual=True),
        blocks="gpt_neox.layers",
        embed="gpt_neox.embed_in",
        norm="gpt_neox.final_layer_norm",
        attention="attention",
        heads_out="attention.dense",
        mlp_out="mlp.dense_4h_to_h",
        attention_contribution="attention",
        activation=lambda mlp, x: mlp.act(mlp.dense_h_to_4h(x)),
        parallel=True,
        rms=False,
    ),
}
SEQUENTIAL = [name for name, family in FAMILIES.items() if not family.parallel]
RMS = [name for name, family in FAMILIES.items() if family.rms]
BLOCK_HOOKS = (
    "hook_resid_pre",
    "hook_resid_post",
    "attn.hook_z",
    "attn.hook_out",
    "hook_attn_out",
    "mlp.hook_in",
    "mlp.hook_post",
    "mlp.hook_out",
    "hook_mlp_out",
)


@cache
def hf_model(name: str, attention: str = "usual") -> Any:
    """A random model with weights large enough that attention and activation functions are far from linear.

    `attention` is an implementation of `transformers`, or what Rayscope loads the family with.
    """
    from transformers import AutoModelForCausalLM

    family = FAMILIES[name]
    torch.manual_seed(sorted(FAMILIES).index(name))
    usual = "eager" if family.eager else "sdpa"
    model = AutoModelForCausalLM.from_config(
        family.config(), attn_implementation=usual if attention == "usual" else attention
    )
    model.config.architectures = [type(model).__name__]  # as every published checkpoint says it
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn_like(parameter) * (0.3 if parameter.ndim == 2 else 0.1))
            if parameter.ndim == 1 and not name.startswith("gemma"):
                parameter.add_(1.0)
    return model.eval()


@dataclass
class Watched:
    """One plain forward pass over one prompt. Tensors have no batch axis."""

    family: Family
    model: Any
    inputs: dict[str, torch.Tensor] = field(default_factory=dict)
    outputs: dict[str, torch.Tensor] = field(default_factory=dict)
    hidden_states: tuple[torch.Tensor, ...] = ()
    attentions: tuple[torch.Tensor, ...] = ()

    def expected(self, hook: str) -> torch.Tensor:
        """The activation at a TransformerLens hook point, by its definition."""
        if hook == "hook_embed":
            return self.outputs[self.family.embed]
        _, layer, name = hook.split(".", 2)
        block = f"{self.family.blocks}.{layer}"
        part = {
            "attn.hook_out": self.family.attention,
            "hook_attn_out": self.family.attention_contribution,
            "mlp.hook_out": self.family.mlp,
            "hook_mlp_out": self.family.mlp_contribution,
        }.get(name)
        if part is not None:
            return self.outputs[f"{block}.{part}"]
        before = self.hidden_states[int(layer)]
        middle = before + self.outputs[f"{block}.{self.family.attention_contribution}"]
        if name == "hook_resid_pre":
            return before
        if name == "hook_resid_mid":
            return middle
        if name == "hook_resid_post":
            return middle + self.outputs[f"{block}.{self.family.mlp_contribution}"]
        if name == "ln2.hook_normalized":
            return middle / (middle.double().pow(2).mean(-1, keepdim=True) + 1e-6).sqrt()
        mlp = self.model.get_submodule(f"{block}.{self.family.mlp}")
        mlp_in = self.model.get_submodule(f"{block}.{self.family.mlp_norm}")(before if self.family.parallel else middle)
        if name == "mlp.hook_in":
            return mlp_in
        if name == "mlp.hook_post":
            return self.family.activation(mlp, mlp_in)
        if name == "attn.hook_z":
            return self.inputs[f"{block}.{self.family.heads_out}"]
        raise KeyError(hook)


@cache
def eager_model(name: str) -> EagerModel:
    """The same model as Rayscope reads it."""
    return EagerModel(hf_model(name))


@cache
@torch.no_grad()
def watch(name: str, ids: tuple[int, ...]) -> Watched:
    """Runs the whole model with eager attention, recording every module's first input and output."""
    family, model = FAMILIES[name], hf_model(name, "eager")
    watched = Watched(family, model)

    def keep(path: str) -> Callable[..., None]:
        def after(_: Any, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
            given = args[0] if args else kwargs.get("hidden_states")
            returned = output[0] if isinstance(output, tuple) else output
            if isinstance(given, torch.Tensor) and isinstance(returned, torch.Tensor):
                watched.inputs[path], watched.outputs[path] = given[0], returned[0]

        return after

    handles = [
        module.register_forward_hook(keep(path), with_kwargs=True) for path, module in model.named_modules() if path
    ]
    try:
        ran = model(
            input_ids=torch.tensor([ids]),
            output_hidden_states=True,
            output_attentions=True,
            use_cache=False,
        )
    finally:
        for handle in handles:
            handle.remove()
    watched.hidden_states = tuple(states[0] for states in ran.hidden_states)
    watched.attentions = tuple(pattern[0] for pattern in ran.attentions or ())
    return watched
