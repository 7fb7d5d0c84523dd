"""SAEs of every architecture load from folders, and published ones from the hub, in the units of published numbers."""

import warnings
from pathlib import Path
from typing import Any

import pytest
import torch

from core.catalogue.catalogue import find_sources
from core.catalogue.sources import Folder, Published, Source
from core.errors import Unavailable
from core.saes.loading import load_sae
from tests.tiny_models import D_MODEL, D_SAE, random_sae, save_sae

from .kinds import ARCHITECTURES, KINDS, NOT_FOLDED, activations, loaded, raw_sae, saelens_encode, saved

every = pytest.mark.parametrize("kind", KINDS)
NEAR = {"rtol": 1e-5, "atol": 1e-5}


def test_every_registered_architecture_is_tested_here() -> None:
    import sae_lens  # noqa: F401 - registers the architectures
    from sae_lens.registry import SAE_CLASS_REGISTRY

    assert set(SAE_CLASS_REGISTRY) == ARCHITECTURES


@every
def test_activations_are_those_of_saelens_in_decoder_norm_units(kind: str, tmp_path: Path) -> None:
    raw, sae = raw_sae(kind), loaded(kind, tmp_path)
    expected = saelens_encode(raw, activations())
    assert (expected != 0).float().mean() > 0.01
    if kind not in NOT_FOLDED and "rescaled" not in kind:
        expected = expected * raw.W_dec.detach().double().norm(dim=-1).float()
    torch.testing.assert_close(sae.encode(activations()), expected, rtol=1e-4, atol=1e-5)


@every
def test_decoder_rows_have_unit_norm_wherever_that_is_safe(kind: str, tmp_path: Path) -> None:
    sae, raw = loaded(kind, tmp_path).sae, raw_sae(kind)
    if kind in NOT_FOLDED:
        torch.testing.assert_close(sae.W_dec, raw.W_dec.detach(), rtol=0, atol=0)
    else:
        assert (raw.W_dec.detach().norm(dim=-1) - 1).abs().max() > 0.1
        torch.testing.assert_close(sae.W_dec.norm(dim=-1), torch.ones(D_SAE), **NEAR)


@pytest.mark.parametrize("kind", ["standard", "jumprelu", "gated"])
def test_encodings_equal_the_published_formulas_in_float64(kind: str, tmp_path: Path) -> None:
    raw = {name: parameter.detach().double() for name, parameter in raw_sae(kind).named_parameters()}
    centred = activations().double() - raw["b_dec"]
    norms = raw["W_dec"].norm(dim=-1)
    if kind == "gated":
        gate = centred @ raw["W_enc"] + raw["b_gate"] > 0
        magnitude = (centred @ (raw["W_enc"] * raw["r_mag"].exp()) + raw["b_mag"]).relu()
        expected = gate * magnitude
    else:
        before = centred @ raw["W_enc"] + raw["b_enc"]
        expected = before * (before > raw["threshold"]) if kind == "jumprelu" else before.relu()
    torch.testing.assert_close(
        loaded(kind, tmp_path).encode(activations()).double(), expected * norms, rtol=1e-4, atol=1e-4
    )


@every
def test_reconstructions_survive_the_folding(kind: str, tmp_path: Path) -> None:
    raw, sae = raw_sae(kind), loaded(kind, tmp_path).sae
    with torch.no_grad():
        expected, found = (one.decode(saelens_encode(one, activations()).unsqueeze(0)) for one in (raw, sae))
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


@every
def test_loading_changes_nothing_on_disk(kind: str, tmp_path: Path) -> None:
    source = saved(kind, tmp_path)
    files = sorted(path for path in tmp_path.rglob("*") if path.is_file())
    before = [path.read_bytes() for path in files]
    first, second = load_sae(source, dtype="float32"), load_sae(source, dtype="float32")
    assert [path.read_bytes() for path in files] == before
    torch.testing.assert_close(first.sae.W_dec, second.sae.W_dec, rtol=0, atol=0)


@every
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_weights_have_the_precision_asked_for_and_need_no_gradients(kind: str, dtype: str, tmp_path: Path) -> None:
    sae = loaded(kind, tmp_path, dtype)
    for parameter in sae.sae.parameters():
        assert parameter.dtype == getattr(torch, dtype)
        assert not parameter.requires_grad
    assert not sae.sae.training
    assert sae.encode(activations()).dtype == getattr(torch, dtype)


@every
def test_what_is_loaded_is_what_was_described(kind: str, tmp_path: Path) -> None:
    source, sae = saved(kind, tmp_path), loaded(kind, tmp_path)
    assert (sae.source, sae.hook_name, sae.architecture) == (source.id, source.hook_name, source.architecture)
    assert (sae.d_in, sae.d_sae) == (source.d_in, source.d_sae) == (D_MODEL, D_SAE)
    assert tuple(sae.sae.W_dec.shape) == (D_SAE, KINDS[kind][1].get("d_out", D_MODEL))


@every
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_size_known_before_loading_bounds_the_real_one(kind: str, dtype: str, tmp_path: Path) -> None:
    source = saved(kind, tmp_path)
    sae = load_sae(source, dtype=dtype).sae
    real = sum(tensor.nbytes for tensor in [*sae.parameters(), *sae.buffers()])
    assert real <= source.size_bytes(dtype) <= 2.2 * real


def test_hook_z_saes_take_heads_concatenated(tmp_path: Path) -> None:
    raw = random_sae("standard", D_MODEL, D_SAE, "blocks.1.attn.hook_z", 5, reshape_activations="hook_z")
    save_sae(tmp_path / "1-att-kk", raw)
    source = Source("1-att-kk", "att-kk", 1, Folder(str(tmp_path / "1-att-kk")), "", D_MODEL, D_SAE, "standard")
    heads = activations().unflatten(-1, (4, D_MODEL // 4))
    expected = saelens_encode(raw, heads) * raw.W_dec.detach().norm(dim=-1)
    torch.testing.assert_close(load_sae(source, dtype="float32").encode(activations()), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.filterwarnings("ignore:\\s*This SAE has non-empty")
def test_a_published_sae_loads_from_the_hub_in_decoder_norm_units(hub: Path) -> None:
    from sae_lens import SAE

    source = next(source for source in find_sources("gpt2-small", ["res-jb"]) if source.id == "7-res-jb")
    assert source.origin == Published("gpt2-small-res-jb", "blocks.7.hook_resid_pre")
    raw: Any = SAE.from_pretrained("gpt2-small-res-jb", "blocks.7.hook_resid_pre", device="cpu")
    sae = load_sae(source, dtype="float32")
    assert (sae.source, sae.hook_name) == ("7-res-jb", "blocks.7.hook_resid_pre")
    with torch.no_grad():
        expected = raw.encode(activations()) * raw.W_dec.norm(dim=-1)
    torch.testing.assert_close(sae.encode(activations()), expected, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(sae.sae.W_dec.norm(dim=-1), torch.ones(D_SAE), **NEAR)


@pytest.mark.parametrize(
    "origin", [Folder("/nowhere"), Published("gpt2-small-res-jb", "blocks.99"), Published("no-such-release", "x")]
)
def test_weights_that_are_not_there_are_unavailable_and_the_cause_is_kept(
    origin: Folder | Published, hub: Path
) -> None:
    source = Source("7-res-jb", "res-jb", 7, origin, "blocks.7.hook_resid_pre", D_MODEL, D_SAE, "standard")
    with pytest.raises(Unavailable, match=r"The weights of 7-res-jb could not be loaded") as failure:
        load_sae(source, dtype="float32")
    assert failure.value.__cause__ is not None
    assert "cache" in (failure.value.hint or "")


def test_a_pickle_in_place_of_weights_is_not_opened(tmp_path: Path) -> None:
    source = saved("standard", tmp_path)
    weights = tmp_path / "1-kind" / "sae_weights.safetensors"
    torch.save({"W_enc": torch.zeros(1)}, weights)
    with pytest.raises(Unavailable):
        load_sae(source, dtype="float32")


def test_saelens_advice_about_other_model_weights_is_not_repeated(tmp_path: Path) -> None:
    raw = raw_sae("standard")
    raw.cfg.metadata.model_from_pretrained_kwargs = {"center_writing_weights": True}
    save_sae(tmp_path / "1-kind", raw)
    source = Source("1-kind", "kind", 1, Folder(str(tmp_path / "1-kind")), "", D_MODEL, D_SAE, "standard")
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        load_sae(source, dtype="float32")
