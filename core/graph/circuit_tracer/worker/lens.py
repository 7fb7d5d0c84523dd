"""A model folder as circuit-tracer's TransformerLens backend wants it.

`HookedTransformer.from_pretrained` takes only names of its own list, and for some families sizes of its own list, too.
So the configuration is written here from the folder's `config.json`, and TransformerLens' own converter of the family
moves the weights, without folding or centring anything.
"""

import gc
from collections.abc import Callable, Mapping
from typing import Any

import torch
from transformer_lens import HookedTransformerConfig
from transformer_lens.pretrained import weight_conversions
from transformers import AutoModelForCausalLM, AutoTokenizer

Settings = dict[str, Any]

_LONGEST_CONTEXT = 2048


def build(folder: str, transcoders: Any, dtype: torch.dtype) -> Any:
    """circuit-tracer's replacement model on the CPU.

    Raises:
        ValueError: The family is not in the table below.
    """
    from circuit_tracer.replacement_model.replacement_model_transformerlens import TransformerLensReplacementModel

    model = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype, attn_implementation="eager")
    if model.config.model_type not in _FAMILIES:
        raise ValueError(f"no TransformerLens configuration for {model.config.model_type}; there are {list(_FAMILIES)}")
    family, converter = _FAMILIES[model.config.model_type]
    config = HookedTransformerConfig(
        **family(model.config),
        original_architecture=model.config.architectures[0],
        model_name=folder,
        tokenizer_name=folder,
        device="cpu",
        dtype=dtype,
    )
    lens = TransformerLensReplacementModel(config, tokenizer=AutoTokenizer.from_pretrained(folder))
    weights = getattr(weight_conversions, converter)(model, config)
    lens.load_and_process_state_dict(
        weights, fold_ln=False, center_writing_weights=False, center_unembed=False, fold_value_biases=False
    )
    del model, weights
    gc.collect()
    lens._configure_replacement_model(transcoders)
    return lens


def _gpt2(config: Any) -> Settings:
    return {
        "n_layers": config.n_layer,
        "d_model": config.n_embd,
        "n_heads": config.n_head,
        "d_head": config.n_embd // config.n_head,
        "d_mlp": config.n_inner or 4 * config.n_embd,
        "n_ctx": config.n_positions,
        "d_vocab": config.vocab_size,
        "eps": config.layer_norm_epsilon,
        "act_fn": config.activation_function,
        "normalization_type": "LN",
    }


def _llama(config: Any) -> Settings:
    head = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    grouped = config.num_key_value_heads != config.num_attention_heads
    return {
        "n_layers": config.num_hidden_layers,
        "d_model": config.hidden_size,
        "n_heads": config.num_attention_heads,
        "n_key_value_heads": config.num_key_value_heads if grouped else None,
        "d_head": head,
        "d_mlp": config.intermediate_size,
        "n_ctx": min(config.max_position_embeddings, _LONGEST_CONTEXT),
        "d_vocab": config.vocab_size,
        "eps": config.rms_norm_eps,
        "act_fn": getattr(config, "hidden_act", None) or config.hidden_activation,
        "normalization_type": "RMS",
        "final_rms": True,
        "gated_mlp": True,
        "positional_embedding_type": "rotary",
        "rotary_adjacent_pairs": False,
        "rotary_dim": head,
        "rotary_base": config.rope_theta,
    }


def _qwen3(config: Any) -> Settings:
    return _llama(config) | {"use_qk_norm": True}


def _gemma2(config: Any) -> Settings:
    return _llama(config) | {
        "n_key_value_heads": config.num_key_value_heads,  # the converter of the family has no other layout
        "use_normalization_before_and_after": True,
        "use_attn_scale": True,
        "attn_scale": config.query_pre_attn_scalar**0.5,
        "attn_scores_soft_cap": config.attn_logit_softcapping or -1.0,
        "output_logits_soft_cap": config.final_logit_softcapping or -1.0,
        "use_local_attn": True,
        "window_size": config.sliding_window,
        "attn_types": ["local" if kind == "sliding_attention" else "global" for kind in config.layer_types],
    }


def _gemma3(config: Any) -> Settings:
    return _gemma2(config) | {"use_qk_norm": True, "rotary_base_local": config.rope_local_base_freq}


_FAMILIES: Mapping[str, tuple[Callable[[Any], Settings], str]] = {
    "gpt2": (_gpt2, "convert_gpt2_weights"),
    "llama": (_llama, "convert_llama_weights"),
    "qwen3": (_qwen3, "convert_qwen3_weights"),
    "gemma2": (_gemma2, "convert_gemma_weights"),
    "gemma3_text": (_gemma3, "convert_gemma_weights"),
}
