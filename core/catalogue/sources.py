"""One source: which SAE it is, where its weights come from, and what is known without loading them."""

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from core.catalogue.directory import PublishedSae
from core.errors import InvalidRequest

_SOURCE_ID = re.compile(r"(?P<layer>\d+)-(?P<set>.+)")
_BYTES_PER_NUMBER = {"float32": 4, "float16": 2, "bfloat16": 2, "float64": 8}


@dataclass(frozen=True, slots=True)
class Published:
    """Weights from the Hugging Face hub, through SAELens' directory."""

    release: str
    sae_id: str


@dataclass(frozen=True, slots=True)
class Folder:
    """Weights in a local folder in SAELens' format (`cfg.json`, `sae_weights.safetensors`)."""

    path: str


@dataclass(frozen=True, slots=True)
class Source:
    """One SAE of a source set.

    Attributes:
        id: `7-res-jb`.
        source_set: `res-jb`.
        layer: Layer by its id.
        origin: Where the weights come from.
        hook_name: Hook point that it reads.
        d_in: Width of that activation.
        d_sae: Number of features.
        architecture: SAELens' name.
        hook_name_out: Hook point that a transcoder predicts; None where the decoder writes what the encoder reads.
        extra_numbers: Weights beyond encoder, decoder and a few vectors, which only some architectures have.
        dfa: Whether direct feature attribution is offered: attention-output sets on `hook_z` only.
    """

    id: str
    source_set: str
    layer: int
    origin: Published | Folder
    hook_name: str
    d_in: int
    d_sae: int
    architecture: str
    hook_name_out: str | None = None
    extra_numbers: int = 0

    @property
    def dfa(self) -> bool:
        """Attention-output sets are recognised by `-att-` or `-att_` in their id, as Neuronpedia does.

        Some of them read the attention's output instead of `hook_z`; the formula means nothing there, even if the
        widths happen to agree.
        """
        return self.hook_name.endswith(".hook_z") and ("-att-" in self.id or "-att_" in self.id)

    def size_bytes(self, dtype: str) -> int:
        """Most bytes that the loaded weights take: encoder, decoder, three vectors of `d_sae`, and what is extra."""
        numbers = 2 * self.d_in * self.d_sae + 3 * self.d_sae + self.d_in + self.extra_numbers
        return numbers * _BYTES_PER_NUMBER[dtype]


def published_source(row: PublishedSae) -> Source:
    """Describes a published SAE. Downloads its configuration, never its weights, unless it is in the cache."""
    from sae_lens.loading.pretrained_sae_loaders import load_sae_config_from_huggingface

    config = load_sae_config_from_huggingface(row.release, row.sae_id)
    return _describe(row.source, row.source_set, row.layer, Published(row.release, row.sae_id), config)


def folder_sources(source_set: str, folder: Path) -> list[Source]:
    """Describes a local source set: a folder with one SAELens folder per source, named by source id.

    Raises:
        InvalidRequest: There is no such folder, or nothing in it is named like a source of the set.
    """
    found: list[Source] = []
    for path in folder.iterdir() if folder.is_dir() else ():
        match = _SOURCE_ID.fullmatch(path.name)
        if match and match["set"] == source_set and (path / "cfg.json").is_file():
            config = _read_config(path)
            found.append(_describe(path.name, source_set, int(match["layer"]), Folder(str(path)), config))
    if not found:
        raise InvalidRequest(
            f"The folder of source set '{source_set}' holds no SAE.",
            f"Expected folders named like '0-{source_set}', each with cfg.json and sae_weights.safetensors.",
        )
    return sorted(found, key=lambda source: source.layer)


def _read_config(folder: Path) -> dict[str, Any]:
    config = json.loads((folder / "cfg.json").read_text())
    if "metadata" in config:
        return config
    from sae_lens.loading.pretrained_sae_loaders import handle_config_defaulting

    return handle_config_defaulting(config)


def _describe(
    source_id: str, source_set: str, layer: int, origin: Published | Folder, config: dict[str, Any]
) -> Source:
    return Source(
        id=source_id,
        source_set=source_set,
        layer=layer,
        origin=origin,
        hook_name=config["metadata"]["hook_name"],
        d_in=config["d_in"],
        d_sae=config["d_sae"],
        architecture=config["architecture"],
        hook_name_out=config["metadata"].get("hook_name_out") or config.get("hook_name_out"),
        extra_numbers=_extra_numbers(config),
    )


def _extra_numbers(config: dict[str, Any]) -> int:
    """A transcoder's wider decoder and its skip matrix; the attention layers of a temporal SAE, `[d_sae, d_sae]`."""
    d_in, d_sae, architecture = config["d_in"], config["d_sae"], config["architecture"]
    d_out = config.get("d_out") or d_in
    extra = max(0, d_out - d_in) * (d_sae + 1)
    if "skip" in architecture:
        extra += d_in * d_out
    if architecture == "temporal":
        rows = 2 * d_sae + 2 * (d_sae // config.get("bottleneck_factor", 64))  # values and output, keys and queries
        extra += config.get("n_attn_layers", 1) * rows * (d_sae + 1)
    return extra
