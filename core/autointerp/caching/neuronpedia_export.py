"""A cache as Neuronpedia's JSON lines, for its bulk explainer and its importer.

    <folder>/features/batch-<n>.jsonl.gz       one object per feature: frequency, logits, histogram
    <folder>/activations/batch-<n>.jsonl.gz    one object per example, the strongest of a feature first

Keys are those of Neuronpedia's tables. What a cache does not know (similar features, neuron alignment, loss effects) is
left out rather than made up. The same cache gives the same bytes.
"""

import gzip
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from core.autointerp.caching.exemplars import ExemplarReader, Exemplars
from core.autointerp.caching.parts import write_bytes
from core.autointerp.caching.reservoirs import LOWEST_OCTAVE, N_OCTAVES
from core.autointerp.caching.stored import StoredCache
from core.autointerp.examples import Example, FeatureName
from core.autointerp.seeds import derive_seed
from core.prompts import PromptTokenizer


def export_neuronpedia(
    cache: StoredCache,
    tokenizer: PromptTokenizer,
    folder: Path,
    source: str,
    *,
    latents: Sequence[int] | None = None,
    n_active: int = 20,
    n_silent: int = 5,
    per_batch: int = 256,
) -> list[Path]:
    """Writes one source for Neuronpedia.

    Args:
        cache: What to export.
        tokenizer: The model's.
        folder: Where to.
        source: Which source.
        latents: Which of its latents; None: all.
        n_active: Strongest examples of each.
        n_silent: Examples in which it does not fire.
        per_batch: Features of a file.

    Returns:
        The files, features before activations.

    Raises:
        NotFound: The source was not cached.
        InvalidRequest: There is no such latent.
    """
    reader = ExemplarReader(cache, tokenizer)
    chosen = list(range(cache.n_latents(source)) if latents is None else latents)
    written: list[Path] = []
    for number, first in enumerate(range(0, len(chosen), per_batch)):
        features: list[dict[str, Any]] = []
        activations: list[dict[str, Any]] = []
        for latent in chosen[first : first + per_batch]:
            known = reader.exemplars(source, latent, n_silent)
            features.append(_feature(cache, known))
            shown = (*known.active[:n_active], *known.silent)
            activations += [_activation(known.name, place, example) for place, example in enumerate(shown)]
        for kind, rows in (("features", features), ("activations", activations)):
            path = folder / kind / f"batch-{number}.jsonl.gz"
            write_bytes(path, _compressed(rows))
            written.append(path)
    return written


def _feature(cache: StoredCache, known: Exemplars) -> dict[str, Any]:
    return {
        "modelId": known.name.model,
        "layer": known.name.source,
        "index": str(known.name.index),
        "maxActApprox": known.active[0].maximum if known.active else 0.0,
        "frac_nonzero": known.fired_tokens / (cache.n_windows * cache.context_tokens),
        "pos_str": list(known.top_logits),
        "pos_values": list(known.top_values),
        "neg_str": list(known.bottom_logits),
        "neg_values": list(known.bottom_values),
        "freq_hist_data_bar_values": [2.0 ** (LOWEST_OCTAVE + octave) for octave in range(N_OCTAVES)],
        "freq_hist_data_bar_heights": list(known.octaves),
    }


def _activation(name: FeatureName, place: int, example: Example) -> dict[str, Any]:
    values = list(example.activations)
    return {
        "id": f"{derive_seed(name, place):016x}",
        "modelId": name.model,
        "layer": name.source,
        "index": str(name.index),
        "tokens": list(example.tokens),
        "values": values,
        "maxValue": example.maximum,
        "maxValueTokenIndex": values.index(example.maximum),
        "minValue": min(values),
    }


def _compressed(rows: Iterable[dict[str, Any]]) -> bytes:
    lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    return gzip.compress(lines.encode(), mtime=0)
