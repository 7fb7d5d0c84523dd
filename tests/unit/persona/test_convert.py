"""The converter: published layouts become assets with the same numbers, and a pickle can make nothing else happen."""

import pickle
import pickletools
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from typer.testing import CliRunner

from cluster.cli import app
from core.errors import InvalidRequest
from core.persona.asset import read_persona
from core.persona.convert import TITLE, convert
from core.persona.pickles import read_pickle

WIDTH, LAYERS, LAYER = 8, 5, 3
RUNNER = CliRunner()


class MeanScaler:
    """As published: pickled by name only."""

    def __init__(self, mean: Any) -> None:
        self.mean = mean


class L2MeanScaler(MeanScaler):
    def __init__(self, mean: Any, eps: float = 1e-12) -> None:
        super().__init__(mean)
        self.eps = eps


class PCA:
    """What scikit-learn's PCA keeps."""

    def __init__(self, components: Any, mean: Any) -> None:
        self.n_components = 3
        self.svd_solver = "auto"
        self.components_ = components
        self.mean_ = mean
        self.noise_variance_ = np.float32(0.25)
        self.explained_variance_ = np.array([3.0, 2.0, 1.0], dtype=np.float32)
        self.n_samples_ = 100
        self._sklearn_version = "1.5.0"


PUBLISHED = {MeanScaler: ("__main__", "MeanScaler"), L2MeanScaler: ("__main__", "L2MeanScaler")}
PUBLISHED[PCA] = ("sklearn.decomposition._pca", "PCA")


@pytest.fixture
def published_names(monkeypatch: pytest.MonkeyPatch) -> None:
    """While a test writes, its classes bear the published names; reading must not depend on them."""
    for class_, (module, name) in PUBLISHED.items():
        monkeypatch.setattr(class_, "__module__", module)
        parent = sys.modules.get(module) or type(sys)(module)
        monkeypatch.setitem(sys.modules, module, parent)
        monkeypatch.setattr(parent, name, class_, raising=False)


def numbers(seed: int, *shape: int, dtype: Any = np.float32) -> Any:
    return np.random.default_rng(seed).normal(size=shape).astype(dtype)


def plain_2(value: Any, path: Path) -> None:
    path.write_bytes(pickle.dumps(value, protocol=2))


def plain_5(value: Any, path: Path) -> None:
    path.write_bytes(pickle.dumps(value, protocol=5))


WRITERS = [plain_2, plain_5, torch.save]


def write_published(folder: Path, scaler: Any, writer: Any = torch.save, **changes: Any) -> dict[str, Any]:
    """A published asset with a manifest; returns its numbers."""
    (folder / "pca").mkdir(parents=True)
    contrast = torch.tensor(numbers(1, LAYERS, WIDTH)).to(torch.bfloat16)
    torch.save(contrast, folder / "contrast_vectors.pt")
    components, mean = numbers(2, 3, WIDTH), numbers(3, WIDTH)
    writer({"pca": PCA(components, mean), "scaler": scaler}, folder / "pca" / f"roles_layer{LAYER}-min.pt")
    manifest = {
        "blank_system_prompt": True,
        "pc_titles": ["- a ↔ + b"],
        "pca": [{"layer": LAYER, "file": f"pca/roles_layer{LAYER}-min.pt"}],
    }
    (folder / "persona.yaml").write_text(yaml.safe_dump(manifest | changes, allow_unicode=True))
    return {"components": components, "mean": mean, "contrast": contrast.double().numpy()[LAYER]}


@pytest.mark.usefixtures("published_names")
@pytest.mark.parametrize("writer", WRITERS)
@pytest.mark.parametrize("scaler", [MeanScaler, L2MeanScaler])
@pytest.mark.parametrize("tensors", [True, False])
def test_every_number_of_a_published_asset_arrives(tmp_path: Path, writer: Any, scaler: Any, tensors: bool) -> None:
    middle = numbers(4, WIDTH)
    held = torch.tensor(middle) if tensors and writer is torch.save else middle
    stored = write_published(tmp_path / "from", scaler(held), writer)
    assert convert(tmp_path / "from", tmp_path / "to") == []
    found = read_persona(tmp_path / "to")
    assert found.warnings == ()
    asset = found.asset
    assert asset is not None
    assert (asset.titles, asset.blank_system_prompt) == (("- a ↔ + b",), True)
    axis = asset.primary
    assert (axis.layer, axis.scaler) == (LAYER, "mean" if scaler is MeanScaler else "l2-mean")
    np.testing.assert_array_equal(axis.scaler_mean, middle)
    np.testing.assert_array_equal(axis.mean, stored["mean"])
    np.testing.assert_array_equal(axis.components[1:], stored["components"][1:])
    contrast = stored["contrast"]
    np.testing.assert_allclose(axis.components[0], -contrast / np.linalg.norm(contrast), rtol=1e-6)


@pytest.mark.usefixtures("published_names")
def test_an_older_asset_without_a_manifest_is_known_by_its_file_names(tmp_path: Path) -> None:
    write_published(tmp_path / "from", L2MeanScaler(numbers(4, WIDTH)))
    (tmp_path / "from" / "persona.yaml").unlink()
    convert(tmp_path / "from", tmp_path / "to")
    asset = read_persona(tmp_path / "to").asset
    assert asset is not None
    assert (asset.titles, asset.blank_system_prompt, asset.primary.layer) == ((TITLE,), True, LAYER)


@pytest.mark.usefixtures("published_names")
def test_layers_without_a_file_or_a_contrast_are_left_out_and_named(tmp_path: Path) -> None:
    pca = [{"layer": layer, "file": f"pca/roles_layer{LAYER}-min.pt"} for layer in (LAYER, LAYERS)]
    write_published(tmp_path / "from", MeanScaler(numbers(4, WIDTH)), pca=[*pca, {"layer": 1, "file": "pca/none.pt"}])
    left_out = convert(tmp_path / "from", tmp_path / "to")
    assert left_out == ["Layer 1: pca/none.pt is not there.", "Layer 5: contrast vectors end with layer 4."]
    asset = read_persona(tmp_path / "to").asset
    assert asset is not None
    assert [axis.layer for axis in asset.axes] == [LAYER]


@pytest.mark.usefixtures("published_names")
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16, torch.int64])
def test_tensors_of_any_number_format_and_any_layout_are_read(tmp_path: Path, dtype: torch.dtype) -> None:
    whole = torch.arange(24).reshape(4, 6).to(dtype)
    stored = {"whole": whole, "turned": whole.T, "part": whole[1:3, 2:], "one": whole[2, 3], "none": whole[:0]}
    torch.save(stored, tmp_path / "x.pt")
    found = read_pickle(tmp_path / "x.pt")
    for name, tensor in stored.items():
        assert found[name].shape == tuple(tensor.shape)
        np.testing.assert_array_equal(found[name].astype(float), tensor.double().numpy())


class Foreign:
    pass


class Caller:
    """Calls something when it is unpickled."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self._call = function, arguments

    def __reduce__(self) -> Any:
        return self._call


def foreign(marker: Path) -> list[Any]:
    import os
    import subprocess

    return [
        Foreign(),
        Caller(os.system, f"touch {marker}"),
        Caller(subprocess.check_call, ["touch", str(marker)]),
        Caller(eval, f"open({str(marker)!r}, 'w')"),
        Caller(exec, f"open({str(marker)!r}, 'w')"),
        Caller(open, str(marker), "w"),
        Caller(getattr, "", "join"),
        Caller(__import__, "os"),
        Caller(np.load, str(marker)),
        Caller(torch.load, str(marker)),
        np.array([Foreign()], dtype=object),
        np.array(["text"]),
        np.random.default_rng(0),
        Path("/"),
        {"pca": {"deep": [Foreign()]}},
        torch.nn.Linear(1, 1),
    ]


@pytest.mark.parametrize("writer", WRITERS)
@pytest.mark.parametrize("number", range(len(foreign(Path("x")))))
def test_a_pickle_that_names_anything_else_is_refused_and_nothing_runs(
    tmp_path: Path, writer: Any, number: int
) -> None:
    marker, path = tmp_path / "ran", tmp_path / "x.pt"
    writer(foreign(marker)[number], path)
    with pytest.raises(InvalidRequest, match="The pickle asks for"):
        read_pickle(path)
    assert not marker.exists()


def test_the_foreign_pickles_would_have_run_elsewhere(tmp_path: Path) -> None:
    """Else the test above could not fail."""
    marker = tmp_path / "ran"
    pickle.loads(pickle.dumps(foreign(marker)[5])).close()
    assert marker.exists()


@pytest.mark.parametrize("protocol", [0, 1])
def test_names_are_refused_in_every_protocol(tmp_path: Path, protocol: int) -> None:
    path = tmp_path / "x.pkl"
    path.write_bytes(pickle.dumps(Foreign(), protocol=protocol))
    assert any(opcode.name in ("GLOBAL", "STACK_GLOBAL") for opcode, *_ in pickletools.genops(path.read_bytes()))
    with pytest.raises(InvalidRequest, match="The pickle asks for"):
        read_pickle(path)


@pytest.mark.usefixtures("published_names")
def test_a_known_class_runs_no_code_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plain_5(L2MeanScaler(numbers(4, WIDTH)), tmp_path / "x.pkl")

    def refuse(*_: Any) -> None:
        raise AssertionError("code of the class ran")

    monkeypatch.setattr(L2MeanScaler, "__init__", refuse)
    monkeypatch.setattr(L2MeanScaler, "__setstate__", refuse, raising=False)
    found = read_pickle(tmp_path / "x.pkl")
    assert type(found).__module__ == "core.persona.pickles"
    np.testing.assert_array_equal(found.array("mean"), numbers(4, WIDTH))


@pytest.mark.parametrize("content", [b"", b"words", b"\x80\x05.", b"PK\x03\x04broken", b"\x80\x05N"])
def test_a_file_that_is_no_pickle_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "x.pt").write_bytes(content)
    with pytest.raises(InvalidRequest, match=r"x\.pt can not be read"):
        read_pickle(tmp_path / "x.pt")


def spoil(folder: Path, what: str) -> None:
    pca = folder / "pca" / f"roles_layer{LAYER}-min.pt"
    good = {"pca": PCA(numbers(2, 3, WIDTH), numbers(3, WIDTH)), "scaler": MeanScaler(numbers(4, WIDTH))}
    if what == "no contrast":
        (folder / "contrast_vectors.pt").unlink()
    elif what == "flat contrast":
        torch.save(torch.zeros(WIDTH), folder / "contrast_vectors.pt")
    elif what == "no pca":
        pca.unlink()
    elif what == "no table":
        torch.save([1, 2], pca)
    elif what == "no scaler":
        torch.save({"pca": good["pca"]}, pca)
    elif what == "unfitted scaler":
        torch.save(good | {"scaler": MeanScaler(None)}, pca)
    elif what == "other eps":
        torch.save(good | {"scaler": L2MeanScaler(numbers(4, WIDTH), 1e-3)}, pca)
    elif what == "other width":
        torch.save(good | {"scaler": MeanScaler(numbers(4, WIDTH + 1))}, pca)
    else:
        (folder / "persona.yaml").write_text("pc_titles: 3")


@pytest.mark.usefixtures("published_names")
@pytest.mark.parametrize(
    ("what", "message"),
    [
        ("no contrast", "has no contrast_vectors.pt"),
        ("flat contrast", "does not hold one vector per layer"),
        ("no pca", "No layer can be converted. Layer 3"),
        ("no table", "does not hold"),
        ("no scaler", "does not hold"),
        ("unfitted scaler", "MeanScaler has no array 'mean'"),
        ("other eps", "eps is 0.001"),
        ("other width", r"What was written can not be used.*scaler_mean has shape \[9\]"),
        ("bad manifest", "persona.yaml can not be read"),
    ],
)
def test_an_asset_that_is_not_as_published_is_refused_with_the_reason(tmp_path: Path, what: str, message: str) -> None:
    write_published(tmp_path / "from", MeanScaler(numbers(4, WIDTH)))
    spoil(tmp_path / "from", what)
    with pytest.raises(InvalidRequest, match=message):
        convert(tmp_path / "from", tmp_path / "to")
    assert not (tmp_path / "to" / "persona.yaml").exists()


@pytest.mark.usefixtures("published_names")
def test_the_command_reads_nothing_without_a_yes_and_warns_either_way(tmp_path: Path) -> None:
    write_published(tmp_path / "from", MeanScaler(numbers(4, WIDTH)))
    command = ["persona", "convert", str(tmp_path / "from"), str(tmp_path / "to")]
    refused = RUNNER.invoke(app, command)
    assert refused.exit_code == 1
    assert "reading a pickle can run" in refused.output
    assert not (tmp_path / "to").exists()
    done = RUNNER.invoke(app, [*command, "--yes", "--title", "- mine ↔ + other"])
    assert done.exit_code == 0
    assert "reading a pickle can run" in done.output
    asset = read_persona(tmp_path / "to").asset
    assert asset is not None
    assert asset.titles == ("- mine ↔ + other",)
    again = RUNNER.invoke(app, [*command, "--yes"])
    assert again.exit_code == 1
    assert "holds a persona asset already" in again.output


def test_the_command_names_what_is_wrong(tmp_path: Path) -> None:
    (tmp_path / "from" / "pca").mkdir(parents=True)
    torch.save(torch.zeros(LAYERS, WIDTH), tmp_path / "from" / "contrast_vectors.pt")
    plain_5(Foreign(), tmp_path / "from" / "pca" / "roles_layer1-min.pt")
    refused = RUNNER.invoke(app, ["persona", "convert", str(tmp_path / "from"), str(tmp_path / "to"), "--yes"])
    assert refused.exit_code == 1
    assert "Foreign, which a persona asset does not need" in refused.output


@pytest.mark.parametrize("writer", WRITERS)
def test_what_scikit_learn_itself_writes_is_read(tmp_path: Path, writer: Any) -> None:
    decomposition = pytest.importorskip("sklearn.decomposition")
    rows = numbers(7, 40, WIDTH)
    fitted = decomposition.PCA(n_components=3).fit(rows)
    writer({"pca": fitted}, tmp_path / "x.pt")
    found = read_pickle(tmp_path / "x.pt")["pca"]
    np.testing.assert_array_equal(found.array("components_"), fitted.components_)
    np.testing.assert_array_equal(found.array("mean_"), fitted.mean_)
