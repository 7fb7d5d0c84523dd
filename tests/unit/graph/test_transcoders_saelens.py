"""Transcoders that SAELens saved or publishes, against SAELens' own encode and forward."""

import json
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from core.errors import InvalidRequest, NotFound
from core.graph.transcoders.location import locate
from core.graph.transcoders.opening import open_transcoders
from core.graph.transcoders.stored import StoredTranscoders
from tests.tiny_models import offline_hub, random_sae, save_sae

from .folders import repository

L, D, F = 3, 16, 16  # a square encoder: its orientation does not show in its shape
ARCHITECTURES = ["transcoder", "skip_transcoder", "jumprelu_transcoder", "jumprelu_skip_transcoder"]
every = pytest.mark.parametrize("architecture", ARCHITECTURES)


def saved(folder: Path, architecture: str, hook: str = "mlp.hook_in", n_layers: int = L) -> list[Any]:
    """SAELens transcoders of all layers, saved by SAELens in folders whose names do not sort by layer."""
    saes: list[Any] = []
    for layer in range(n_layers):
        sae = random_sae(architecture, D, F, f"blocks.{layer}.{hook}", seed=layer)
        with torch.no_grad():
            if hasattr(sae, "threshold"):
                sae.threshold[::4] *= -1  # SAELens' JumpReLU passes nothing below 0, all the same
        save_sae(folder / f"{'cab'[layer % 3]}-{layer}", sae)
        saes.append(sae)
    return saes


def opened(name: str | Path, n_layers: int = L, lazy: bool = True) -> StoredTranscoders:
    return open_transcoders(
        str(name),
        n_layers=n_layers,
        d_model=D,
        device="cpu",
        dtype=torch.float32,
        lazy_encoder=lazy,
        budget_bytes=2**20,
    )


def inputs() -> Tensor:
    return torch.randn(9, D, generator=torch.Generator().manual_seed(3))


def activations(transcoders: StoredTranscoders, layer: int, x: Tensor) -> Tensor:
    active, dense = transcoders.encode(layer, x), torch.zeros(len(x), F)
    dense[active.position, active.index] = active.value
    return dense


def output(transcoders: StoredTranscoders, layer: int, x: Tensor) -> Tensor:
    written = activations(transcoders, layer, x) @ transcoders.decoder_rows(layer, torch.arange(F))[:, 0]
    skip = transcoders.skip(layer)
    return written + transcoders.decoder_bias(layer) + (0 if skip is None else x @ skip.T)


@every
@pytest.mark.parametrize("lazy", [False, True], ids=["resident", "lazy"])
def test_a_folder_saved_by_saelens_encodes_and_writes_as_saelens_does(
    architecture: str, lazy: bool, tmp_path: Path
) -> None:
    saes, transcoders = saved(tmp_path / "mine", architecture), opened(tmp_path / "mine", lazy=lazy)
    assert transcoders.shape.name == "mine"
    for layer, sae in enumerate(saes):
        with torch.no_grad():
            expected, written = sae.encode(inputs()), sae(inputs())
        assert 0.05 < (expected > 0).float().mean() < 0.9
        torch.testing.assert_close(activations(transcoders, layer, inputs()), expected, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(output(transcoders, layer, inputs()), written, rtol=1e-5, atol=1e-4)
        chosen = torch.tensor([3, 1, 3])
        assert torch.equal(transcoders.encoder_rows(layer, chosen), sae.W_enc.detach().T[chosen])


@pytest.mark.parametrize(
    ("hook", "site"),
    [
        ("mlp.hook_in", "mlp_in"),
        ("ln2.hook_normalized", "mlp_normalized"),
        ("hook_resid_mid", "resid_mid"),
        ("hook_mlp_in", "resid_mid"),
    ],
)
def test_hooks_have_transformer_lens_meaning(hook: str, site: str, tmp_path: Path) -> None:
    saved(tmp_path, "transcoder", hook)
    location = locate(str(tmp_path))
    assert (location.reads, location.writes) == (site, "mlp_contribution")


def change(folder: Path, **changes: Any) -> None:
    config = json.loads((folder / "cfg.json").read_text())
    metadata = config["metadata"] | changes.pop("metadata", {})
    (folder / "cfg.json").write_text(json.dumps(config | changes | {"metadata": metadata}))


def test_gemma_scope_2_transcoders_that_saelens_saved_read_behind_the_norm(tmp_path: Path) -> None:
    saved(tmp_path, "jumprelu_skip_transcoder", "hook_mlp_in")
    for layer, name in enumerate(("c-0", "a-1", "b-2")):
        change(tmp_path / name, metadata={"hf_hook_name": f"model.layers.{layer}.pre_feedforward_layernorm.output"})
    assert locate(str(tmp_path)).reads == "mlp_in"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"architecture": "standard"}, "architecture 'standard', which is no transcoder"),
        ({"normalize_activations": "layer_norm"}, "normalises its inputs"),
        ({"metadata": {"hook_name": "blocks.1.attn.hook_z"}}, "attn.hook_z"),
        ({"metadata": {"hook_name_out": "blocks.2.hook_mlp_out"}}, "writes 'blocks.2.hook_mlp_out'"),
        ({"metadata": {"hook_name": "blocks.0.mlp.hook_in", "hook_name_out": "blocks.0.hook_mlp_out"}}, "two trans"),
        ({"metadata": {"hook_name": "blocks.7.mlp.hook_in", "hook_name_out": "blocks.7.hook_mlp_out"}}, "for layer 1"),
        ({"metadata": {"hook_name": "blocks.1.hook_resid_mid"}}, "read or write different places"),
        ({"metadata": {"hook_name": None}}, "reads None"),
    ],
)
def test_what_can_not_be_attributed_is_refused(changes: dict[str, Any], message: str, tmp_path: Path) -> None:
    saved(tmp_path, "transcoder")
    change(tmp_path / "a-1", **changes)
    with pytest.raises(InvalidRequest, match=message):
        locate(str(tmp_path))


def test_a_transcoder_to_another_width_is_refused(tmp_path: Path) -> None:
    for layer in range(L):
        save_sae(tmp_path / str(layer), random_sae("transcoder", D, F, f"blocks.{layer}.mlp.hook_in", 0, d_out=2 * D))
    with pytest.raises(InvalidRequest, match=r"decoder of layer 0 .* shape \[16, 32\]"):
        opened(tmp_path)


# Releases of SAELens' directory, from a warm cache.


@pytest.fixture
def cache(tmp_path: Path) -> Iterator[Path]:
    with offline_hub(tmp_path / "home"):
        yield tmp_path / "home" / "hub"


def test_a_release_of_gemma_scope_is_read_from_its_npz_files(cache: Path) -> None:
    from sae_lens.loading.pretrained_sae_loaders import gemma_2_transcoder_huggingface_loader

    location = locate("gemma-scope-2b-pt-transcoders")
    assert (len(location.files), location.reads, location.writes) == (26, "mlp_normalized", "mlp_contribution")
    snapshot = repository(cache, "google/gemma-scope-2b-pt-transcoders")
    for layer, file in enumerate(location.files):
        (snapshot / file.path).parent.mkdir(parents=True)
        generator = torch.Generator().manual_seed(layer)
        shapes = {"W_enc": (D, F), "W_dec": (F, D), "b_enc": (F,), "b_dec": (D,), "threshold": (F,)}
        arrays = {name: torch.randn(shape, generator=generator).abs().numpy() for name, shape in shapes.items()}
        np.savez(snapshot / file.path, **arrays)
    transcoders = opened("gemma-scope-2b-pt-transcoders", n_layers=26)
    _, raw, _ = gemma_2_transcoder_huggingface_loader(
        "google/gemma-scope-2b-pt-transcoders", "layer_11/width_16k/average_l0_5"
    )
    assert torch.equal(transcoders.encoder_rows(11, torch.arange(F)), raw["W_enc"].T)
    assert torch.equal(transcoders.decoder_rows(11, torch.arange(F))[:, 0], raw["W_dec"])
    before = inputs() @ raw["W_enc"] + raw["b_enc"]
    expected = before.relu() * (before > raw["threshold"])
    torch.testing.assert_close(activations(transcoders, 11, inputs()), expected, rtol=1e-5, atol=1e-5)


def test_a_variant_of_a_gemma_scope_2_release_is_read_from_its_safetensors(cache: Path) -> None:
    name = "gemma-scope-2-270m-pt-transcoders-all//width_16k_l0_small_affine"
    location = locate(name)
    assert (location.reads, location.writes) == ("mlp_in", "mlp_contribution")
    assert location.files[3].path == "transcoder_all/layer_3_width_16k_l0_small_affine/params.safetensors"
    snapshot = repository(cache, "google/gemma-scope-2-270m-pt")
    written: list[dict[str, Tensor]] = []
    for layer, file in enumerate(location.files):
        (snapshot / file.path).parent.mkdir(parents=True)
        generator = torch.Generator().manual_seed(layer)
        shapes = {"w_enc": (D, F), "w_dec": (F, D), "b_enc": (F,), "b_dec": (D,), "threshold": (F,)}
        shapes["affine_skip_connection"] = (D, D)
        written.append({key: torch.randn(shape, generator=generator) for key, shape in shapes.items()})
        save_file(written[-1], snapshot / file.path)
    transcoders = opened(name, n_layers=len(location.files))
    raw, x = written[3], inputs()
    before = x @ raw["w_enc"] + raw["b_enc"]
    expected = (before.relu() * (before > raw["threshold"])) @ raw["w_dec"] + raw["b_dec"]
    expected = expected + x @ raw["affine_skip_connection"]
    torch.testing.assert_close(output(transcoders, 3, x), expected, rtol=1e-5, atol=1e-4)


def test_a_release_that_circuit_tracer_s_format_has_names_the_same_files(cache: Path) -> None:
    location = locate("mwhanna-qwen3-4b-transcoders")
    assert (len(location.files), location.encoder_by_columns) == (36, False)
    assert (location.files[35].repo, location.files[35].path) == (
        "mwhanna/qwen3-4b-transcoders",
        "layer_35.safetensors",
    )


def test_a_release_with_several_variants_asks_for_one(cache: Path) -> None:
    with pytest.raises(InvalidRequest, match="several transcoders per layer") as refusal:
        locate("gemma-scope-2-270m-pt-transcoders-all")
    assert "width_16k_l0_big" in (refusal.value.hint or "")


@pytest.mark.parametrize(
    ("name", "error"),
    [
        ("no-such-release", NotFound),
        ("gemma-scope-2-270m-pt-transcoders-all//width_1k", NotFound),
        ("gemma-scope-2-270m-pt-transcoders//transcoder/width_16k_l0_big", NotFound),
        ("gemma-scope-2b-pt-res-canonical//width_16k/canonical", InvalidRequest),
        ("mntss-gemma-2-2b-2.5m-clt-as-per-layer", InvalidRequest),
    ],
)
def test_a_release_that_is_no_whole_transcoder_set_is_refused(name: str, error: type[Exception], cache: Path) -> None:
    with warnings.catch_warnings(), pytest.raises(error):
        warnings.simplefilter("error")
        locate(name)
