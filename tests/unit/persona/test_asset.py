"""Persona assets: what is loaded, and that whatever is wrong with one only switches the monitor off."""

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from core.demo import DEMO_MODEL_ID
from core.engine.shape import ModelShape
from core.persona.asset import find_persona, read_persona

from .assets import TITLES, WIDTH, arrays, manifest, write_asset

SHAPE = ModelShape(n_layers=4, n_heads=2, n_kv_heads=2, head_dim=3, d_model=WIDTH, vocab_size=100, max_positions=64)
FILES = {"layer_1.safetensors": arrays()}


def test_the_first_direction_is_the_contrast_turned_round_and_the_others_stay(tmp_path: Path) -> None:
    found = read_persona(write_asset(tmp_path, manifest(blank_system_prompt=True), FILES), SHAPE)
    assert found.warnings == ()
    asset = found.asset
    assert asset is not None
    assert (asset.titles, asset.blank_system_prompt) == (tuple(TITLES), True)
    axis, stored = asset.primary, arrays()
    assert (axis.layer, axis.scaler, axis.hook_name) == (1, "l2-mean", "blocks.1.hook_resid_post")
    contrast = stored["contrast"].astype(float)
    np.testing.assert_allclose(axis.components[0], -contrast / np.sqrt((contrast**2).sum()), rtol=1e-6)
    np.testing.assert_array_equal(axis.components[1:], stored["components"][1:])
    np.testing.assert_array_equal(axis.mean, stored["mean"])
    np.testing.assert_array_equal(axis.scaler_mean, stored["scaler_mean"])


def test_the_lowest_layer_that_is_there_is_reported_and_absent_ones_are_named(tmp_path: Path) -> None:
    layers = (3, 0, 2, 1)
    axes = [{"layer": layer, "file": f"{layer}.safetensors", "scaler": "mean"} for layer in layers]
    files = {"3.safetensors": arrays(3), "2.safetensors": arrays(2)}
    found = read_persona(write_asset(tmp_path, manifest(axes=axes), files), SHAPE)
    assert found.asset is not None
    assert [axis.layer for axis in found.asset.axes] == [2, 3]
    assert found.asset.primary.layer == 2
    assert [("0.safetensors" in w, "1.safetensors" in w) for w in found.warnings] == [(True, False), (False, True)]


def changed(**changes: Any) -> dict[str, dict[str, Any]]:
    content = arrays() | changes
    return {"layer_1.safetensors": {name: value for name, value in content.items() if value is not None}}


MALFORMED: list[tuple[Any, dict[str, dict[str, Any]], str]] = [
    ("pc_titles: [", FILES, "persona.yaml can not be read"),
    ("just words", FILES, "persona.yaml can not be read"),
    (manifest(pc_titles=[]), FILES, "pc_titles"),
    (manifest(pc_titles=["a", "a"]), FILES, "names a component twice"),
    (manifest(axes=[]), FILES, "axes"),
    (manifest(axes=manifest()["axes"] * 2), FILES, "names a layer twice"),
    (manifest(blank_system_promt=True), FILES, "blank_system_promt"),
    (manifest(axes=[{"layer": 1, "file": "layer_1.safetensors", "scaler": "max"}]), FILES, "scaler"),
    (manifest(axes=[{"layer": -1, "file": "layer_1.safetensors", "scaler": "mean"}]), FILES, "layer"),
    (manifest(axes=[{"layer": 4, "file": "layer_1.safetensors", "scaler": "mean"}]), FILES, "layer 4 does not exist"),
    (manifest(), {}, "none of the files that it names are there"),
    (manifest(pc_titles=list("abcd")), FILES, "4 rows or more"),
    (manifest(), changed(components=None), "components is missing"),
    (manifest(), changed(contrast=None), "contrast is missing"),
    (manifest(), changed(mean=np.zeros(WIDTH + 1, np.float32)), "mean has shape [7], needed: [6]"),
    (manifest(), changed(scaler_mean=np.zeros((1, WIDTH), np.float32)), "scaler_mean has shape [1, 6]"),
    (manifest(), changed(contrast=np.zeros(WIDTH, np.float32)), "contrast is zero"),
    (manifest(), changed(mean=np.full(WIDTH, np.nan, np.float32)), "mean holds inf or nan"),
    (manifest(), {"layer_1.safetensors": arrays(width=8)}, "components has width 8, the model 6"),
]


@pytest.mark.parametrize(("described", "files", "reason"), MALFORMED, ids=[reason for *_, reason in MALFORMED])
def test_whatever_is_malformed_switches_the_monitor_off_and_says_what_it_is(
    tmp_path: Path, described: Any, files: dict[str, dict[str, Any]], reason: str
) -> None:
    found = read_persona(write_asset(tmp_path, described, files), SHAPE)
    assert found.asset is None
    assert len(found.warnings) == 1
    assert reason in found.warnings[0]
    assert "persona monitor is off" in found.warnings[0]


@pytest.mark.parametrize("content", [b"", b"not safetensors", b"\x80\x02]q\x00."])
def test_a_file_of_another_kind_is_malformed(tmp_path: Path, content: bytes) -> None:
    write_asset(tmp_path, manifest(), {})
    (tmp_path / "layer_1.safetensors").write_bytes(content)
    found = read_persona(tmp_path, SHAPE)
    assert found.asset is None
    assert "not a readable safetensors file" in found.warnings[0]


def test_a_wrong_file_beside_a_good_one_switches_off_too(tmp_path: Path) -> None:
    axes = [{"layer": layer, "file": f"{layer}.safetensors", "scaler": "mean"} for layer in (1, 2)]
    files = {"1.safetensors": arrays(), "2.safetensors": arrays(width=8)}
    assert read_persona(write_asset(tmp_path, manifest(axes=axes), files), SHAPE).asset is None


def test_a_folder_that_is_not_there_is_a_warning(tmp_path: Path) -> None:
    found = read_persona(tmp_path / "none", SHAPE)
    assert found.asset is None
    assert "persona.yaml can not be read" in found.warnings[0]


def test_an_asset_is_found_under_any_name_of_its_model_the_loaded_one_first(tmp_path: Path) -> None:
    write_asset(tmp_path / "maker" / "model-awq", manifest(pc_titles=["loaded"]), FILES)
    write_asset(tmp_path / "model", manifest(pc_titles=["served"]), FILES)
    for names, title in ((("maker/model-awq", "model"), "loaded"), (("maker/other", "model"), "served")):
        found = find_persona(names, SHAPE, tmp_path)
        assert found.asset is not None
        assert found.asset.titles == (title,)
    direct = find_persona(("anything",), SHAPE, tmp_path / "model")
    assert direct.asset is not None


def test_a_named_root_without_the_model_warns_and_no_root_does_not(tmp_path: Path) -> None:
    missing = find_persona(("some/model",), SHAPE, tmp_path)
    assert missing.asset is None
    assert "some/model" in missing.warnings[0]
    unasked = find_persona(("some/model",), SHAPE)
    assert (unasked.asset, unasked.warnings) == (None, ())


def test_an_asset_travels(tmp_path: Path) -> None:
    asset = read_persona(write_asset(tmp_path, manifest(), FILES), SHAPE).asset
    assert asset is not None
    arrived = pickle.loads(pickle.dumps(asset))
    assert arrived.titles == asset.titles
    np.testing.assert_array_equal(arrived.primary.components, asset.primary.components)


def test_an_asset_that_does_not_fit_the_demo_is_refused_by_its_width() -> None:
    found = find_persona((DEMO_MODEL_ID,), SHAPE)
    assert found.asset is None
    assert len(found.warnings) == 1
