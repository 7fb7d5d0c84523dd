"""A persona asset: the directions that a model's messages are measured along, as files and in memory.

    <folder>/persona.yaml              blank_system_prompt, pc_titles, axes: layer, file, scaler
    <folder>/<file>.safetensors        components [n, d], mean [d], scaler_mean [d], contrast [d]

The first component is not taken as it was fitted: it is replaced by the contrast, turned round and of length 1, so that
the first title names a direction somebody chose. The other rows stay.

The monitor is an extra, so nothing about its files may keep a model from being served. Reading never fails: what is
missing or wrong becomes a warning, and without a usable axis there is no asset. An axis whose file is absent is left
out; a file that is there but wrong switches the monitor off altogether, because then nobody knows what else is.

What is read is plain data (NumPy, a few vectors) and travels to the Gateway as it is. Pickles are never read here; see
`convert`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Self

import numpy as np
import yaml
from pydantic import BaseModel, ConfigDict, Field, model_validator

from core.demo import ARTEFACTS, DEMO_MODEL_ID
from core.engine.shape import ModelShape
from core.persona.projection import Axis, Floats, Scaler

MANIFEST: Final = "persona.yaml"


class AxisManifest(BaseModel):
    """One axis of `persona.yaml`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    layer: int = Field(ge=0, description="Layer whose output (`resid_post`) is read.")
    file: str = Field(description="Safetensors file, relative to the manifest.")
    scaler: Scaler = Field(description="What is done to a mean before it is centred: mean or l2-mean.")


class PersonaManifest(BaseModel):
    """`persona.yaml`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    blank_system_prompt: bool = Field(
        default=False, description="Read conversations with an empty leading system message."
    )
    pc_titles: list[str] = Field(min_length=1, description="Names of the first components; so many are reported.")
    axes: list[AxisManifest] = Field(min_length=1, description="Layers with directions. The lowest usable one is read.")

    @model_validator(mode="after")
    def _names_are_unique(self) -> Self:
        if len(set(self.pc_titles)) != len(self.pc_titles):
            raise ValueError("pc_titles names a component twice")
        if len({axis.layer for axis in self.axes}) != len(self.axes):
            raise ValueError("axes names a layer twice")
        return self


@dataclass(frozen=True, slots=True, eq=False)
class PersonaAsset:
    """What the monitor of one model needs to know.

    Attributes:
        titles: Names of the reported directions, the first rows of every axis' components.
        blank_system_prompt: Whether a conversation's leading system message is read, and rendered, empty.
        axes: Usable axes, lowest layer first; at least one.
    """

    titles: tuple[str, ...]
    blank_system_prompt: bool
    axes: tuple[Axis, ...]

    @property
    def primary(self) -> Axis:
        """The axis that is reported."""
        return self.axes[0]


@dataclass(frozen=True, slots=True)
class Persona:
    """What reading an asset came to.

    Attributes:
        asset: None where the monitor is off.
        warnings: Why it is off, or what is left out.
    """

    asset: PersonaAsset | None
    warnings: tuple[str, ...] = ()


def find_persona(names: Sequence[str], shape: ModelShape, root: Path | None = None) -> Persona:
    """Looks for a model's asset and reads it.

    Args:
        names: Names of the model, most specific first: what is really loaded, then the names it is served under.
        shape: Its sizes, which the asset must fit.
        root: Folder with one folder per model name; may also be an asset itself. None: only the demo has one.

    Returns:
        An asset, or None. A model without an asset is usual and no reason to warn, unless a root was named.
    """
    if root is None:
        return read_persona(ARTEFACTS / "persona", shape) if DEMO_MODEL_ID in names else Persona(None)
    folders = [root, *(root / name for name in names)]
    found = next((folder for folder in folders if (folder / MANIFEST).is_file()), None)
    if found is None:
        return Persona(None, (f"No persona asset for {names[0]}: {root} has no folder of that name with {MANIFEST}.",))
    return read_persona(found, shape)


def read_persona(folder: Path, shape: ModelShape | None = None) -> Persona:
    """Reads an asset; never raises.

    Args:
        folder: Holds `persona.yaml`.
        shape: Sizes of the model; None leaves them unchecked.
    """
    try:
        text = (folder / MANIFEST).read_text(encoding="utf-8")
        manifest = PersonaManifest.model_validate(yaml.safe_load(text))
    except (OSError, ValueError, yaml.YAMLError) as error:
        return _off(folder, f"{MANIFEST} can not be read: {error}")
    axes: list[Axis] = []
    left_out: list[str] = []
    for entry in sorted(manifest.axes, key=lambda entry: entry.layer):
        path = folder / entry.file
        if not path.is_file():
            left_out.append(f"The persona asset in {folder} has no file {entry.file}; layer {entry.layer} is left out.")
            continue
        try:
            axes.append(_axis(entry, path, len(manifest.pc_titles), shape))
        except _Malformed as error:
            return _off(folder, f"{entry.file}: {error}")
    if not axes:
        return _off(folder, "none of the files that it names are there")
    asset = PersonaAsset(tuple(manifest.pc_titles), manifest.blank_system_prompt, tuple(axes))
    return Persona(asset, tuple(left_out))


class _Malformed(ValueError):
    """A file of an asset is not what it should be."""


def _off(folder: Path, reason: str) -> Persona:
    return Persona(None, (f"The persona monitor is off. The asset in {folder} is unusable: {reason}",))


def _axis(entry: AxisManifest, path: Path, n_titles: int, shape: ModelShape | None) -> Axis:
    tensors = _tensors(path)
    components = tensors["components"]
    if components.ndim != 2 or len(components) < n_titles:
        raise _Malformed(f"components has shape {list(components.shape)}, needed: {n_titles} rows or more, [n, d]")
    width = components.shape[1] if shape is None else shape.d_model
    if components.shape[1] != width:
        raise _Malformed(f"components has width {components.shape[1]}, the model {width}")
    for name in ("mean", "scaler_mean", "contrast"):
        if tensors[name].shape != (width,):
            raise _Malformed(f"{name} has shape {list(tensors[name].shape)}, needed: [{width}]")
    if shape is not None and entry.layer >= shape.n_layers:
        raise _Malformed(f"layer {entry.layer} does not exist, the model has {shape.n_layers}")
    contrast = tensors["contrast"].astype(np.float64)
    length = float(np.linalg.norm(contrast))
    if length == 0.0:
        raise _Malformed("contrast is zero and has no direction")
    components[0] = -contrast / length
    return Axis(entry.layer, entry.scaler, tensors["scaler_mean"], tensors["mean"], components)


def _tensors(path: Path) -> dict[str, Floats]:
    """The four arrays of an axis in float32, all finite."""
    from safetensors import SafetensorError  # the Gateway, which gets assets ready-made, has no such library
    from safetensors.numpy import load_file

    try:
        stored: dict[str, Any] = load_file(path)
    except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
        raise _Malformed(f"not a readable safetensors file ({error})") from error
    found: dict[str, Floats] = {}
    for name in ("components", "mean", "scaler_mean", "contrast"):
        if name not in stored:
            raise _Malformed(f"{name} is missing")
        array = np.array(stored[name], dtype=np.float32)
        if not np.isfinite(array).all():
            raise _Malformed(f"{name} holds inf or nan")
        found[name] = array
    return found
