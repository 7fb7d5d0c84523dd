"""Attention patterns are the model's own, and reading them leaves no trace."""

import gc
import weakref
from typing import Any

import pytest
import torch

from core.engine.model import EagerModel
from core.errors import InvalidRequest

from .families import FAMILIES, N_LAYERS, SEQUENTIAL, VOCAB_SIZE, eager_model, hf_model, watch

IDS = (7, 3, 22, 60, 1, 44, 44, 9, 13, 5, 2)
SHORT = IDS[2:6]
NEAR = {"rtol": 1e-4, "atol": 1e-5}

every = pytest.mark.parametrize("family", FAMILIES)


def implementation(family: str) -> str:
    return hf_model(family).config.get_text_config()._attn_implementation


@every
def test_patterns_equal_those_of_transformers(family: str) -> None:
    read = eager_model(family).capture([IDS, SHORT], (), range(N_LAYERS)).attention
    for row, ids in enumerate((IDS, SHORT)):
        for layer, pattern in enumerate(watch(family, ids).attentions):
            assert pattern.std() > 1e-3
            found = read[layer].pattern[row, :, : len(ids), : len(ids)]
            torch.testing.assert_close(found, pattern, **NEAR)


@every
def test_each_row_of_a_pattern_is_a_causal_distribution(family: str) -> None:
    pattern = eager_model(family).capture([IDS], (), {1}).attention[1].pattern[0]
    torch.testing.assert_close(pattern.sum(-1), torch.ones(pattern.shape[:2]))
    assert not pattern.triu(1).any()


@pytest.mark.parametrize("family", ["mistral", "gemma2", "gemma3", "gemma3_with_images"])
def test_a_sliding_window_shows_in_the_pattern(family: str) -> None:
    first = eager_model(family).capture([IDS], (), {0}).attention[0].pattern[0]
    assert not first[:, -1, : len(IDS) - 5].any()
    assert (first[:, -1, len(IDS) - 5 :] > 0).all()


@every
def test_patterns_times_values_are_the_heads(family: str) -> None:
    read = eager_model(family).capture([IDS], (), range(N_LAYERS)).attention
    for layer, attention in read.items():
        values = attention.values[0].repeat_interleave(attention.pattern.shape[1] // attention.values.shape[1], 0)
        heads = torch.einsum("hqk,hkd->qhd", attention.pattern[0].double(), values.double()).flatten(1)
        torch.testing.assert_close(heads.float(), watch(family, IDS).expected(f"blocks.{layer}.attn.hook_z"), **NEAR)


@every
def test_activations_of_a_recording_pass_are_the_usual_ones(family: str) -> None:
    names = {f"blocks.{layer}.hook_resid_post" for layer in range(N_LAYERS)}
    recording = eager_model(family).capture([IDS], names, {1}).activations
    for name in names:
        torch.testing.assert_close(recording[name][0], watch(family, IDS).expected(name), **NEAR)


@every
def test_later_passes_are_not_touched(family: str) -> None:
    model, name = eager_model(family), f"blocks.{N_LAYERS - 1}.hook_resid_post"
    usual = implementation(family)
    before = model.capture([IDS], {name}).activations[name]
    model.capture([IDS, SHORT], {name}, {0, 2})
    assert implementation(family) == usual
    torch.testing.assert_close(model.capture([IDS], {name}).activations[name], before, rtol=0, atol=0)
    assert not model.capture([IDS], {name}).attention


@every
def test_a_failed_pass_restores_the_model_too(family: str) -> None:
    usual = implementation(family)
    with pytest.raises(IndexError):
        eager_model(family).capture([(VOCAB_SIZE,)], (), {0})
    assert implementation(family) == usual


@pytest.mark.parametrize("family", SEQUENTIAL)
def test_the_pass_ends_with_the_last_pattern(family: str) -> None:
    entered: list[str] = []
    block = hf_model(family).get_submodule(f"{FAMILIES[family].blocks}.1")
    handles = [
        module.register_forward_pre_hook(lambda *_, path=path: entered.append(path))
        for path, module in block.named_modules()
    ]
    try:
        eager_model(family).capture([IDS], (), {0, 1})
    finally:
        for handle in handles:
            handle.remove()
    assert FAMILIES[family].attention in entered
    assert FAMILIES[family].mlp not in entered
    assert FAMILIES[family].heads_out not in entered


def test_a_pattern_is_freed_with_its_capture() -> None:
    read = eager_model("gpt2").capture([IDS], (), {1})
    pattern = weakref.ref(read.attention[1].pattern)
    del read
    gc.collect()
    assert pattern() is None


def test_a_layer_without_softmax_attention_is_refused() -> None:
    model = hybrid_model()
    kinds = model._model.config.layer_types
    linear, full = kinds.index("linear_attention"), kinds.index("full_attention")
    with pytest.raises(InvalidRequest, match=f"Layer {linear} is a linear-attention layer"):
        model.capture([IDS], (), {linear})
    assert model.capture([IDS], (), {full}).attention[full].pattern.shape[-1] == len(IDS)


def hybrid_model() -> EagerModel:
    """A tiny model in which only some layers have softmax attention."""
    from transformers import AutoModelForCausalLM, Qwen3NextConfig

    config: Any = Qwen3NextConfig(
        vocab_size=VOCAB_SIZE,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=8,
        linear_num_key_heads=2,
        linear_num_value_heads=2,
        linear_key_head_dim=8,
        linear_value_head_dim=8,
        num_experts=2,
        num_experts_per_tok=1,
        moe_intermediate_size=16,
        shared_expert_intermediate_size=16,
        layer_types=["linear_attention", "full_attention"],
    )
    config.architectures = ["Qwen3NextForCausalLM"]
    return EagerModel(AutoModelForCausalLM.from_config(config))
