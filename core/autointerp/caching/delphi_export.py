"""A cache in the layout of delphi 0.1.3, so that delphi's own `LatentDataset` reads it.

    <folder>/<source>/<first>_<last>.safetensors    locations [n, 3] (row, position, latent - first), activations
                                                    float16, tokens int64 [rows, context] again in every file
    <folder>/<source>/config.json                   fields of delphi's CacheConfig, and the model's name

One file is in memory at a time. Files in which no latent fires are written too: delphi's reader takes them (its own
writer fails there).
"""

import json
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from core.autointerp.caching.parts import write_bytes, write_tensors
from core.autointerp.caching.stored import StoredCache
from core.errors import InvalidRequest

_NARROW = 2**16  # rows and latents below it fit into 16 bits, and delphi reads either width


def export_delphi(
    cache: StoredCache,
    folder: Path,
    *,
    sources: Sequence[str] | None = None,
    n_splits: int = 5,
    model_name: str | None = None,
    batch_size: int = 32,
) -> list[Path]:
    """Writes a cache for delphi.

    Args:
        cache: What to export.
        folder: Where to; delphi calls it `latents`.
        sources: Which sources; None: all.
        n_splits: Files per source.
        model_name: What delphi loads the tokenizer by; None: the model's id.
        batch_size: For the configuration alone.

    Returns:
        The safetensors files, in order.

    Raises:
        InvalidRequest: There would be more files than latents.
        NotFound: A source was not cached.
    """
    config = json.dumps(_config(cache, n_splits, model_name or cache.model, batch_size), indent=4).encode()
    written: list[Path] = []
    for source in cache.sources if sources is None else sources:
        n_latents = cache.n_latents(source)
        if not 1 <= n_splits <= n_latents:
            raise InvalidRequest(f"{n_latents} latents can not be split into {n_splits} files.", "Ask for fewer.")
        edges = np.linspace(0, n_latents, n_splits + 1).astype(int).tolist()
        for start, end in pairwise(edges):
            path = f"{source}/{start}_{end - 1}.safetensors"
            write_tensors(folder, path, _shard(cache, source, range(start, end)))
            written.append(folder / path)
        write_bytes(folder / source / "config.json", config)
    return written


def _shard(cache: StoredCache, source: str, latents: range) -> dict[str, Any]:
    found = list(cache.records(source, latents))
    total = sum(len(records) for _, records in found)
    wide = max(cache.n_windows, len(latents), cache.context_tokens) > _NARROW
    locations = np.empty((total, 3), np.uint32 if wide else np.uint16)
    activations = np.empty(total, np.float16)
    at = 0
    for first_window, records in found:
        here = slice(at, at + len(records))
        locations[here, 0] = records.windows + np.int64(first_window)
        locations[here, 1] = records.positions
        locations[here, 2] = records.latents - latents.start
        activations[here] = records.activations
        at += len(records)
    return {"locations": locations, "activations": activations, "tokens": cache.tokens.astype(np.int64)}


def _config(cache: StoredCache, n_splits: int, model_name: str, batch_size: int) -> dict[str, Any]:
    texts = cache.job["texts"]
    return {
        "dataset_repo": texts.get("repo", texts["kind"]),
        "dataset_split": texts.get("split", "train"),
        "dataset_name": texts.get("name") or "",
        "dataset_column": texts.get("column", "text"),
        "batch_size": batch_size,
        "cache_ctx_len": cache.context_tokens,
        "n_tokens": cache.n_windows * cache.context_tokens,
        "n_splits": n_splits,
        "model_name": model_name,
    }
