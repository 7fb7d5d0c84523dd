"""From the published persona assets to ours: pickles in, safetensors and a manifest out. By hand and offline only.

    SOURCE/persona.yaml              blank_system_prompt, pc_titles, contrast_vectors, pca: layer, file (may be absent)
    SOURCE/contrast_vectors.pt       [layers, d], bfloat16
    SOURCE/pca/roles_layer40-min.pt  {"pca": PCA, "scaler": MeanScaler | L2MeanScaler}

A manifest is newer than the assets themselves. Without one, every `pca/*layer<N>*.pt` is an axis, the system prompt is
read blank and there is one title, as the first of these assets were used.
"""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import yaml
from pydantic import BaseModel, Field

from core.errors import InvalidRequest
from core.persona.asset import MANIFEST, read_persona
from core.persona.pickles import Array, L2MeanScaler, MeanScaler, NumpyArray, Pca, read_pickle
from core.persona.projection import Scaler

TITLE: Final = "- Role-playing ↔️ + Assistant-like"
_LAYER: Final = re.compile(r"layer_?(\d+)")
_EPSILON: Final = 1e-12


class _PublishedPca(BaseModel):
    layer: int = Field(ge=0, description="Layer of the principal components.")
    file: str = Field(description="Pickle, relative to the manifest.")


class _PublishedManifest(BaseModel):
    blank_system_prompt: bool = Field(default=False, description="Whether conversations are read without one.")
    pc_titles: list[str] = Field(min_length=1, description="Names of the components.")
    contrast_vectors: str = Field(default="contrast_vectors.pt", description="One vector per layer.")
    pca: list[_PublishedPca] = Field(description="Principal components by layer.")


def convert(source: Path, destination: Path, titles: Sequence[str] = ()) -> list[str]:
    """Writes an asset.

    Args:
        source: Folder of a published asset.
        destination: Folder to write; it must not hold an asset yet.
        titles: Names of the components; default: the manifest's.

    Returns:
        What was left out, and why.

    Raises:
        InvalidRequest: The source is not what it should be, or the destination is taken.
    """
    if (destination / MANIFEST).exists():
        raise InvalidRequest(f"{destination} holds a persona asset already.", "Name another folder.")
    manifest = _manifest(source)
    contrast = _numbers(read_pickle(_file(source, manifest.contrast_vectors)), manifest.contrast_vectors)
    left_out: list[str] = []
    axes: list[dict[str, Any]] = []
    for entry in sorted(manifest.pca, key=lambda entry: entry.layer):
        if not (source / entry.file).is_file():
            left_out.append(f"Layer {entry.layer}: {entry.file} is not there.")
        elif entry.layer >= len(contrast):
            left_out.append(f"Layer {entry.layer}: contrast vectors end with layer {len(contrast) - 1}.")
        else:
            name = f"layer_{entry.layer}.safetensors"
            scaler = _write_axis(source / entry.file, contrast[entry.layer], destination / name)
            axes.append({"layer": entry.layer, "file": name, "scaler": scaler})
    if not axes:
        raise InvalidRequest("No layer can be converted. " + " ".join(left_out))
    written = {
        "blank_system_prompt": manifest.blank_system_prompt,
        "pc_titles": list(titles or manifest.pc_titles),
        "axes": axes,
    }
    text = yaml.safe_dump(written, sort_keys=False, allow_unicode=True)
    (destination / MANIFEST).write_text(text, encoding="utf-8")
    read = read_persona(destination)
    if read.asset is None:
        (destination / MANIFEST).unlink()
        raise InvalidRequest(f"What was written can not be used. {' '.join(read.warnings)}")
    return left_out


def _file(source: Path, name: str) -> Path:
    if not (source / name).is_file():
        raise InvalidRequest(f"{source} has no {name}.", "Name the folder of one model's persona asset.")
    return source / name


def _manifest(source: Path) -> _PublishedManifest:
    path = source / MANIFEST
    if path.is_file():
        try:
            return _PublishedManifest.model_validate(yaml.safe_load(path.read_text(encoding="utf-8")))
        except (ValueError, yaml.YAMLError) as error:
            raise InvalidRequest(f"{path} can not be read: {error}") from error
    found = {path: _LAYER.search(path.name) for path in sorted((source / "pca").glob("*.pt"))}
    pca = [
        _PublishedPca(layer=int(match[1]), file=str(path.relative_to(source))) for path, match in found.items() if match
    ]
    if not pca:
        raise InvalidRequest(f"{source} has neither {MANIFEST} nor a file like pca/roles_layer40-min.pt.")
    return _PublishedManifest(blank_system_prompt=True, pc_titles=[TITLE], pca=pca)


def _write_axis(path: Path, contrast: Array, destination: Path) -> Scaler:
    from safetensors.numpy import save_file

    stored = read_pickle(path)
    pca = stored.get("pca") if isinstance(stored, dict) else None
    scaler = stored.get("scaler") if isinstance(stored, dict) else None
    if not isinstance(pca, Pca) or not isinstance(scaler, MeanScaler | L2MeanScaler):
        raise InvalidRequest(f'{path.name} does not hold {{"pca": PCA, "scaler": MeanScaler or L2MeanScaler}}.')
    if isinstance(scaler, L2MeanScaler) and scaler.attributes.get("eps", _EPSILON) != _EPSILON:
        raise InvalidRequest(f"{path.name}: the scaler's eps is {scaler.attributes['eps']}, known is {_EPSILON}.")
    arrays = {
        "components": pca.array("components_"),
        "mean": pca.array("mean_"),
        "scaler_mean": scaler.array("mean"),
        "contrast": contrast,
    }
    destination.parent.mkdir(parents=True, exist_ok=True)
    save_file({name: np.ascontiguousarray(array, dtype=np.float32) for name, array in arrays.items()}, destination)
    return "l2-mean" if isinstance(scaler, L2MeanScaler) else "mean"


def _numbers(value: Any, name: str) -> Array:
    if isinstance(value, NumpyArray):
        value = value.value
    if not isinstance(value, np.ndarray) or value.ndim != 2:
        raise InvalidRequest(f"{name} does not hold one vector per layer, [layers, d].")
    return value
