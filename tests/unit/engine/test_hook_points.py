"""Every hook point kind of every family is what TransformerLens means by its name."""

from pathlib import Path

import pytest
import torch

from core.engine.model import EagerModel
from core.errors import InvalidRequest
from tests.tiny_models import GEMMA2_ID, GPT2_ID, LLAMA_ID

from .families import BLOCK_HOOKS, FAMILIES, N_LAYERS, RMS, SEQUENTIAL, eager_model, opt_model, watch

IDS = (7, 3, 22, 60, 1, 44, 44, 9, 13, 5, 2)
NEAR = {"rtol": 1e-4, "atol": 1e-5}

every = pytest.mark.parametrize("family", FAMILIES)


def assert_hook_is_right(family: str, hook: str) -> None:
    found = eager_model(family).capture([IDS], {hook}).activations[hook][0]
    expected = watch(family, IDS).expected(hook)
    assert expected.std() > 1e-3
    torch.testing.assert_close(found, expected.to(found.dtype), **NEAR)


@every
@pytest.mark.parametrize("layer", range(N_LAYERS))
@pytest.mark.parametrize("name", BLOCK_HOOKS)
def test_a_block_hook_point_is_what_its_name_says(family: str, name: str, layer: int) -> None:
    assert_hook_is_right(family, f"blocks.{layer}.{name}")


@pytest.mark.parametrize("family", SEQUENTIAL)
def test_resid_mid_lies_between_attention_and_mlp(family: str) -> None:
    assert_hook_is_right(family, "blocks.1.hook_resid_mid")


@pytest.mark.parametrize("family", RMS)
def test_hook_normalized_is_divided_by_the_root_mean_square_before_the_gain(family: str) -> None:
    assert_hook_is_right(family, "blocks.1.ln2.hook_normalized")


@every
def test_hook_embed_is_the_embedding(family: str) -> None:
    assert_hook_is_right(family, "hook_embed")


@every
def test_all_hook_points_come_out_of_one_pass_as_out_of_many(family: str) -> None:
    model = eager_model(family)
    names = {f"blocks.{layer}.{name}" for layer in range(N_LAYERS) for name in BLOCK_HOOKS} | {"hook_embed"}
    together = model.capture([IDS], names).activations
    assert together.keys() == names
    for name in names:
        torch.testing.assert_close(together[name], model.capture([IDS], {name}).activations[name], rtol=0, atol=0)


@pytest.mark.parametrize("family", ["gemma2", "gemma3"])
def test_the_contribution_of_a_sublayer_is_not_its_raw_output_where_a_norm_follows(family: str) -> None:
    read = eager_model(family).capture([IDS], {"blocks.0.hook_mlp_out", "blocks.0.mlp.hook_out"}).activations
    assert not torch.allclose(read["blocks.0.hook_mlp_out"], read["blocks.0.mlp.hook_out"], atol=1e-2)


@pytest.mark.parametrize("repo", [GPT2_ID, LLAMA_ID, GEMMA2_ID])
def test_transformer_lens_itself_agrees_on_the_names(repo: str, hub: Path) -> None:
    from transformer_lens.model_bridge import TransformerBridge

    names = [
        "hook_embed",
        "blocks.0.hook_resid_pre",
        "blocks.1.hook_resid_mid",
        "blocks.1.hook_resid_post",
        "blocks.1.hook_attn_out",
        "blocks.2.hook_mlp_out",
        "blocks.2.mlp.hook_post",
    ]
    ours = EagerModel.load(repo, device="cpu").capture([IDS], names).activations
    bridge = TransformerBridge.boot_transformers(repo, device="cpu")
    _, theirs = bridge.run_with_cache(torch.tensor([IDS]), names_filter=names)
    for name in names:
        torch.testing.assert_close(ours[name], theirs[name], **NEAR)


@every
def test_a_layer_out_of_range_is_refused_with_the_range(family: str) -> None:
    for name in (f"blocks.{N_LAYERS}.hook_resid_post", "blocks.99.attn.hook_z"):
        with pytest.raises(InvalidRequest) as refusal:
            eager_model(family).capture([IDS], {name})
        assert name in refusal.value.message
        assert refusal.value.hint == f"This model has {N_LAYERS} layers (0-{N_LAYERS - 1})."


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("", "/v1/models"),
        ("hook_nothing", "/v1/models"),
        ("unknown.hook_out", "/v1/models"),
        ("blocks", "blocks.7.hook_resid_post"),
        ("blocks.1", "blocks.7.hook_resid_post"),
        ("blocks.-1.hook_resid_post", "blocks.7.hook_resid_post"),
        ("blocks.x.hook_resid_post", "blocks.7.hook_resid_post"),
        ("blocks.1.", "no '' there"),
        ("blocks.1.hook_resid_middle", "no 'hook_resid_middle' there"),
        ("blocks.1.attn.hook_pattern", "no 'hook_pattern' there"),
        ("blocks.1.nothing.hook_out", "no 'nothing' there"),
        ("blocks.1.hook_resid_post.hook_out", "no 'hook_resid_post' there"),
        ("blocks.².hook_resid_post", "blocks.7.hook_resid_post"),
        (f"blocks.{'9' * 5000}.hook_resid_post", "blocks.7.hook_resid_post"),
        ("blocks.1.ln2.hook_normalized", "LayerNorm"),
    ],
)
def test_an_unknown_hook_point_is_refused_with_a_hint(name: str, hint: str) -> None:
    with pytest.raises(InvalidRequest) as refusal:
        eager_model("gpt2").capture([IDS], {name})
    assert f"'{name}'" in refusal.value.message
    assert hint in (refusal.value.hint or "")


@pytest.mark.parametrize("name", ["mlp.hook_in", "mlp.hook_out", "mlp.hook_normalized"])
def test_what_no_module_reads_or_returns_is_not_taken_from_the_module_around_it(name: str) -> None:
    model = EagerModel(opt_model())
    with pytest.raises(InvalidRequest) as refusal:
        model.capture([IDS], {f"blocks.1.{name}"})
    assert refusal.value.message == f"This model has no hook point 'blocks.1.{name}'."
    assert "'mlp' inside another module" in (refusal.value.hint or "")
    assert model.capture([IDS], {"blocks.1.hook_attn_out"}).activations


@pytest.mark.parametrize("name", ["hook_mlp_out", "mlp.hook_post", "hook_resid_mid"])
def test_an_activation_whose_positions_are_not_told_apart_from_its_prompts_is_refused(name: str) -> None:
    with pytest.raises(InvalidRequest, match=f"'blocks.1.{name}' of all prompts in one axis"):
        EagerModel(opt_model()).capture([IDS], {f"blocks.1.{name}"})


def test_a_parallel_block_has_no_middle_of_the_residual_stream() -> None:
    with pytest.raises(InvalidRequest):
        eager_model("neox").capture([IDS], {"blocks.1.hook_resid_mid"})
