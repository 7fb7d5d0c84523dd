"""One pass over many prompts: nothing bleeds between rows, and nothing runs that nobody asked for."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch.nn.modules.module import register_module_forward_pre_hook

from core.engine.capture import capture, pad_right
from core.engine.model import EagerModel
from core.errors import InvalidRequest
from tests.tiny_models import GEMMA2_ID, GPT2_ID, LLAMA_ID

from .families import BLOCK_HOOKS, D_MODEL, FAMILIES, N_LAYERS, VOCAB_SIZE, eager_model, hf_model, watch

NEAR = {"rtol": 1e-5, "atol": 1e-5}
IDS = (7, 3, 22, 60, 1, 44, 44, 9)

every = pytest.mark.parametrize("family", FAMILIES)
few_examples = settings(max_examples=6, deadline=None, suppress_health_check=[HealthCheck.too_slow])
prompts = st.lists(st.integers(0, VOCAB_SIZE - 1), min_size=1, max_size=14).map(tuple)
block_hooks = st.builds(
    lambda layer, name: f"blocks.{layer}.{name}", st.integers(0, N_LAYERS - 1), st.sampled_from(BLOCK_HOOKS)
)


@every
@few_examples
@given(batch=st.lists(st.tuples(prompts, block_hooks), min_size=2, max_size=4))
def test_a_batch_of_different_lengths_equals_each_prompt_alone(
    family: str, batch: list[tuple[tuple[int, ...], str]]
) -> None:
    together = eager_model(family).capture([ids for ids, _ in batch], {hook for _, hook in batch}).activations
    for row, (ids, hook) in enumerate(batch):
        alone = watch(family, ids).expected(hook)
        torch.testing.assert_close(together[hook][row, : len(ids)], alone, rtol=1e-4, atol=3e-5)


@every
@few_examples
@given(ids=prompts, first=prompts, second=prompts, hook=block_hooks)
def test_what_the_neighbours_say_changes_nothing(
    family: str, ids: tuple[int, ...], first: tuple[int, ...], second: tuple[int, ...], hook: str
) -> None:
    model = eager_model(family)
    beside_first = model.capture([first, ids], {hook}).activations[hook][1, : len(ids)]
    beside_second = model.capture([ids, second], {hook}).activations[hook][0, : len(ids)]
    torch.testing.assert_close(beside_first, beside_second, **NEAR)


@every
def test_a_row_reaches_neither_its_future_nor_its_padding(family: str) -> None:
    hook = f"blocks.{N_LAYERS - 1}.hook_resid_post"
    model = hf_model(family)
    filled = pad_right([IDS, IDS[:3]])
    filled[1, 3:] = torch.arange(20, 20 + len(IDS) - 3)
    noisy = capture(model, eager_model(family).hook_points, filled, [hook]).activations[hook]
    plain = eager_model(family).capture([IDS, IDS[:3]], [hook]).activations[hook]
    torch.testing.assert_close(noisy[1, :3], plain[1, :3], **NEAR)
    torch.testing.assert_close(plain[1, :3], plain[0, :3], **NEAR)


@contextmanager
def modules_entered(model: Any) -> Iterator[set[str]]:
    """Paths of all modules whose forward begins."""
    paths = {module: path for path, module in model.named_modules()}
    entered: set[str] = set()
    handle = register_module_forward_pre_hook(lambda module, _: entered.add(paths.get(module, "?")))
    try:
        yield entered
    finally:
        handle.remove()


def blocks_entered(family: str, entered: set[str]) -> set[int]:
    matches = (re.match(rf"{FAMILIES[family].blocks}\.(\d+)$", path) for path in entered)
    return {int(match[1]) for match in matches if match}


@every
@pytest.mark.parametrize("name", BLOCK_HOOKS)
@pytest.mark.parametrize("layer", [0, N_LAYERS - 1])
def test_the_pass_ends_where_the_last_hook_point_is_read(family: str, name: str, layer: int) -> None:
    with modules_entered(hf_model(family)) as entered:
        eager_model(family).capture([IDS], {f"blocks.{layer}.{name}", "blocks.0.hook_resid_pre"})
    deepest = layer - 1 if name == "hook_resid_pre" and layer else layer
    assert deepest in blocks_entered(family, entered)
    assert max(blocks_entered(family, entered)) <= layer
    assert FAMILIES[family].norm not in entered
    assert not any("lm_head" in path or "embed_out" in path for path in entered)


@every
def test_nothing_inside_a_block_runs_when_only_its_input_is_wanted(family: str) -> None:
    block = f"{FAMILIES[family].blocks}.1"
    with modules_entered(hf_model(family)) as entered:
        eager_model(family).capture([IDS], {"blocks.1.hook_resid_pre"})
    assert not any(path.startswith(f"{block}.") for path in entered)


@every
def test_the_mlp_does_not_run_when_only_the_heads_are_wanted(family: str) -> None:
    block = f"{FAMILIES[family].blocks}.1"
    with modules_entered(hf_model(family)) as entered:
        eager_model(family).capture([IDS], {"blocks.1.attn.hook_z"})
    assert f"{block}.{FAMILIES[family].attention}" in entered
    assert f"{block}.{FAMILIES[family].mlp}" not in entered


@every
def test_the_pass_goes_as_deep_as_the_deepest_of_several(family: str) -> None:
    names = {"blocks.0.hook_resid_pre", "blocks.1.hook_mlp_out"}
    with modules_entered(hf_model(family)) as entered:
        read = eager_model(family).capture([IDS], names)
    assert read.activations.keys() == names
    assert blocks_entered(family, entered) == {0, 1}


@every
def test_a_pass_leaves_no_hooks_behind(family: str) -> None:
    model = eager_model(family)
    model.capture([IDS], {"blocks.0.hook_resid_post", "blocks.1.attn.hook_z"}, {1})
    with pytest.raises(IndexError):
        model.capture([(VOCAB_SIZE + 5,)], {"blocks.0.hook_resid_post"}, {0})
    with pytest.raises(InvalidRequest):
        model.capture([IDS], {"blocks.0.hook_resid_post", "blocks.9.hook_resid_post"})
    for module in hf_model(family).modules():
        assert not module._forward_hooks
        assert not module._forward_pre_hooks


def test_asking_for_nothing_runs_nothing() -> None:
    with modules_entered(hf_model("gpt2")) as entered:
        read = eager_model("gpt2").capture([IDS], ())
    assert not entered
    assert not read.activations


def test_a_name_may_be_asked_for_twice() -> None:
    hook = "blocks.1.hook_resid_post"
    assert eager_model("gpt2").capture([IDS], [hook, hook]).activations[hook].shape == (1, len(IDS), D_MODEL)


def test_two_names_of_one_activation_are_both_answered() -> None:
    names = ["blocks.0.hook_resid_post", "blocks.1.hook_resid_pre"]
    read = eager_model("llama").capture([IDS], names).activations
    torch.testing.assert_close(read[names[0]], read[names[1]], rtol=0, atol=0)


def test_rows_are_padded_on_the_right() -> None:
    assert pad_right([(5, 6, 7), (8,), (9, 1)]).tolist() == [[5, 6, 7], [8, 0, 0], [9, 1, 0]]


@pytest.mark.parametrize("repo", [GPT2_ID, LLAMA_ID, GEMMA2_ID])
def test_loaded_weights_compute_what_transformers_computes_with_eager_attention(repo: str, hub: Any) -> None:
    from transformers import AutoModelForCausalLM

    reference = AutoModelForCausalLM.from_pretrained(repo, attn_implementation="eager").eval()
    ids = [(7, 3, 22, 60, 1, 44, 44, 9, 100, 200, 300, 17, 17, 17)]
    model = EagerModel.load(repo, device="cpu")
    with torch.no_grad():
        states = reference(torch.tensor(ids), output_hidden_states=True).hidden_states
    for layer in range(model.shape.n_layers):
        hook = f"blocks.{layer}.hook_resid_pre"
        torch.testing.assert_close(model.capture(ids, {hook}).activations[hook], states[layer], rtol=1e-4, atol=1e-4)


def test_soft_capping_is_not_left_out(hub: Any) -> None:
    from transformers import AutoModelForCausalLM

    uncapped = AutoModelForCausalLM.from_pretrained(GEMMA2_ID, attn_implementation="eager").eval()
    for layer in uncapped.model.layers:
        layer.self_attn.attn_logit_softcapping = None
    hook = "blocks.0.hook_resid_post"
    capped = EagerModel.load(GEMMA2_ID, device="cpu").capture([IDS], {hook}).activations[hook]
    with torch.no_grad():
        without = uncapped(torch.tensor([IDS]), output_hidden_states=True).hidden_states[1]
    assert not torch.allclose(capped, without, atol=1e-2)


def test_the_shape_and_size_are_those_of_the_weights(gpt2: EagerModel, hf_gpt2: Any) -> None:
    assert gpt2.shape.n_layers == len(hf_gpt2.transformer.h)
    assert gpt2.shape.d_model == hf_gpt2.transformer.wte.weight.shape[1]
    assert gpt2.shape.vocab_size == hf_gpt2.transformer.wte.weight.shape[0]
    assert gpt2.shape.max_positions == hf_gpt2.transformer.wpe.weight.shape[0]
    assert gpt2.shape.n_heads * gpt2.shape.head_dim == gpt2.shape.d_model
    assert gpt2.size_bytes() == 4 * sum(parameter.numel() for parameter in hf_gpt2.parameters())


@pytest.mark.parametrize("layer", [-1, N_LAYERS, 1000])
def test_a_layer_that_is_not_there_is_refused_with_the_range(layer: int) -> None:
    with pytest.raises(InvalidRequest, match=rf"Invalid layer: {layer}\. Must be in \[0, {N_LAYERS}\)\."):
        eager_model("llama").check_attention(layer)
