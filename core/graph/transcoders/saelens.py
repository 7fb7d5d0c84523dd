"""Transcoder sets in SAELens' hands: releases of its directory, and folders that it saved.

SAELens knows single transcoders; a set is one of them for every layer. A release may have several per layer, which
differ in width or sparsity, so a variant is what remains of an id once the layer's number is taken out:
`layer_3_width_16k_l0_small` belongs to the variant `width_16k_l0_small`.

Where SAELens converts a published format while loading, the files are read as they are; only the places that such
transcoders read and write come from here.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from core.errors import InvalidRequest, NotFound
from core.graph.transcoders.location import SetLocation
from core.graph.transcoders.place import Place
from core.graph.transcoders.sites import read_site, write_site
from core.graph.transcoders.transcoder import ReadSite, WriteSite

_ARCHITECTURES: Final = frozenset(
    {"transcoder", "skip_transcoder", "jumprelu_transcoder", "jumprelu_skip_transcoder"},
)
_LAYER_OF_ID: Final = re.compile(r"layer_(\d+)")
_HOOK: Final = re.compile(r"blocks\.(\d+)\.(.+)")
_NORMALISED: Final = "layernorm.output"  # what Gemma Scope 2 calls `hook_mlp_in` is read behind the norm
_CONFIG, _WEIGHTS = "cfg.json", "sae_weights.safetensors"


@dataclass(frozen=True, slots=True)
class _Format:
    """A published format that SAELens converts.

    Attributes:
        file: Its file within the path of a transcoder; "" where the path is the file.
        reads: Where its transcoders read.
        writes: Where they write.
        encoder_by_columns: Whether encoders are stored `[d, F]`.
    """

    file: str
    reads: ReadSite
    writes: WriteSite
    encoder_by_columns: bool


_FORMATS: Final = {
    "gemma_2_transcoder": _Format("params.npz", "mlp_normalized", "mlp_contribution", True),
    "gemma_3": _Format("params.safetensors", "mlp_in", "mlp_contribution", True),
    "mwhanna_transcoder": _Format("", "mlp_in", "mlp_contribution", False),
}


def release_location(name: str) -> SetLocation:
    """The set of a release, `release` or `release//variant`.

    Raises:
        NotFound: SAELens' directory has no such release or variant.
        InvalidRequest: The release has no transcoders, or several per layer and no variant is named.
    """
    from sae_lens.loading.pretrained_saes_directory import get_pretrained_saes_directory

    release, _, variant = name.partition("//")
    entry = get_pretrained_saes_directory().get(release)
    if entry is None:
        raise NotFound(
            f"There is no transcoder set '{name}'.",
            "Name plt-demo, gemma, llama, a local folder, a Hugging Face repository, or a release of SAELens.",
        )
    layers = _layers_of(entry.saes_map, name, variant)
    known = _FORMATS.get(entry.conversion_func or "")
    if known is None:
        if entry.conversion_func is not None:
            raise InvalidRequest(
                f"The SAELens release {release} is no transcoder set that can be traced.",
                f"If {entry.repo_id} has a config.yaml, name the repository itself.",
            )
        return _configured(name, [Place(path, entry.repo_id) for path in layers])
    files = [Place(path, entry.repo_id) for path in layers]
    return SetLocation(
        name=name,
        folder=Place("", entry.repo_id),
        cross_layer=False,
        reads=known.reads,
        writes=known.writes,
        files=tuple(file.inside(known.file) if known.file else file for file in files),
        encoder_by_columns=known.encoder_by_columns,
    )


def folder_location(folder: Path) -> SetLocation | None:
    """The set of a local folder of SAELens' folders, one per layer and named at will; None if there are none."""
    found = sorted(path.parent for path in folder.glob(f"*/{_CONFIG}"))
    return _configured(folder.resolve().name, [Place(str(path)) for path in found]) if found else None


def _layers_of(paths: Mapping[str, str], name: str, variant: str) -> list[str]:
    """Paths of a variant's transcoders, in the order of layers."""
    variants: dict[str, dict[int, list[str]]] = {}
    for sae_id, path in paths.items():
        match = _LAYER_OF_ID.search(sae_id)
        if match:
            rest = (sae_id[: match.start()] + sae_id[match.end() :]).strip("/_")
            for key in {rest, ""}:
                variants.setdefault(key, {}).setdefault(int(match[1]), []).append(path)
    layers = variants.get(variant)
    if layers is None:
        raise NotFound(f"There is no transcoder set '{name}'.", _choices(variants))
    if any(len(found) > 1 for found in layers.values()):
        raise InvalidRequest(f"The SAELens release {name} has several transcoders per layer.", _choices(variants))
    missing = [layer for layer in range(max(layers) + 1) if layer not in layers]
    if missing:
        raise InvalidRequest(f"{name} has no transcoder for layer {missing[0]}.", _choices(variants))
    return [layers[layer][0] for layer in sorted(layers)]


def _choices(variants: Mapping[str, object]) -> str:
    names = sorted(variant for variant in variants if variant)
    return f"Name one as release//variant: {', '.join(names[:12])}{' and more' if len(names) > 12 else ''}."


def _configured(name: str, folders: list[Place]) -> SetLocation:
    """A set of SAELens' own folders, by their `cfg.json`."""
    layers: dict[int, Place] = {}
    sites: set[tuple[ReadSite, WriteSite]] = set()
    for folder in folders:
        config = json.loads(folder.inside(_CONFIG).fetch().read_text(encoding="utf-8"))
        layer, reads, writes = _sites(config, folder)
        if layer in layers:
            raise InvalidRequest(f"{name} has two transcoders for layer {layer}.", "Keep one set per folder.")
        layers[layer] = folder.inside(_WEIGHTS)
        sites.add((reads, writes))
    missing = [layer for layer in range(max(layers) + 1) if layer not in layers]
    if missing:
        raise InvalidRequest(f"{name} has no transcoder for layer {missing[0]}.", "Every layer needs one.")
    if len(sites) > 1:
        raise InvalidRequest(f"The transcoders of {name} read or write different places.", "Keep one set per folder.")
    reads, writes = sites.pop()
    return SetLocation(
        name=name,
        folder=folders[0],
        cross_layer=False,
        reads=reads,
        writes=writes,
        files=tuple(layers[layer] for layer in sorted(layers)),
        encoder_by_columns=True,
    )


def _sites(config: Mapping[str, Any], folder: Place) -> tuple[int, ReadSite, WriteSite]:
    """Layer, and where it reads and writes."""
    if config.get("architecture") not in _ARCHITECTURES:
        raise InvalidRequest(
            f"{folder.name} holds an SAE of the architecture {config.get('architecture')!r}, which is no transcoder.",
            f"Transcoders: {', '.join(sorted(_ARCHITECTURES))}.",
        )
    if config.get("normalize_activations", "none") != "none":
        raise InvalidRequest(
            f"{folder.name} normalises its inputs ({config['normalize_activations']}), which can not be attributed.",
            "Fold the normalisation into the weights before saving.",
        )
    metadata = config.get("metadata") or config
    read = _HOOK.fullmatch(str(metadata.get("hook_name")))
    written = _HOOK.fullmatch(str(metadata.get("hook_name_out")))
    if read is None or written is None or read[1] != written[1]:
        raise InvalidRequest(
            f"{folder.name} reads {metadata.get('hook_name')!r} and writes {metadata.get('hook_name_out')!r}.",
            "A per-layer transcoder reads and writes the same layer: blocks.3.mlp.hook_in, blocks.3.hook_mlp_out.",
        )
    behind_norm = str(metadata.get("hf_hook_name")).endswith(_NORMALISED)
    return int(read[1]), "mlp_in" if behind_norm else read_site(read[2]), write_site(written[2])
