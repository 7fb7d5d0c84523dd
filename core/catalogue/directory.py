"""SAELens' directory of published SAEs, by Neuronpedia ids.

Read straight from the data file inside the installed package: importing `sae_lens` for it would cost seconds. Nothing
is downloaded here.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from core.catalogue.model_ids import base_of

_NEURONPEDIA_ID = re.compile(r"(?P<model>[^/]+)/(?P<source>(?P<layer>\d+)-(?P<set>.+))")


@dataclass(frozen=True, slots=True)
class PublishedSae:
    """One row of the directory that has a Neuronpedia id.

    Attributes:
        model: Neuronpedia model id, `gpt2-small`.
        source: Source id, `7-res-jb`.
        source_set: Source set id, `res-jb`.
        layer: Layer of the source.
        release: SAELens release, `gpt2-small-res-jb`.
        sae_id: SAELens id within the release.
    """

    model: str
    source: str
    source_set: str
    layer: int
    release: str
    sae_id: str


def published_sets(model_id: str) -> dict[str, tuple[PublishedSae, ...]]:
    """Source sets published for a model, in directory order; an instruct model borrows its base model's."""
    for candidate in (model_id, base_of(model_id)):
        if candidate is not None and candidate in _by_model():
            return _by_model()[candidate]
    return {}


def published_models() -> dict[str, dict[str, tuple[PublishedSae, ...]]]:
    """Every model of the directory with its source sets."""
    return _by_model()


@cache
def _by_model() -> dict[str, dict[str, tuple[PublishedSae, ...]]]:
    models: dict[str, dict[str, list[PublishedSae]]] = {}
    for sae in _rows():
        models.setdefault(sae.model, {}).setdefault(sae.source_set, []).append(sae)
    return {
        model: {source_set: tuple(saes) for source_set, saes in sets.items()} for model, sets in sorted(models.items())
    }


def _rows() -> Iterator[PublishedSae]:
    for release, entry in _read().items():
        for row in entry["saes"]:
            match = _NEURONPEDIA_ID.fullmatch(row.get("neuronpedia") or "")
            if match:
                yield PublishedSae(
                    match["model"], match["source"], match["set"], int(match["layer"]), release, row["id"]
                )


def _read() -> dict[str, Any]:
    import yaml

    package = find_spec("sae_lens")
    if package is None or not package.submodule_search_locations:
        return {}
    path = Path(package.submodule_search_locations[0]) / "pretrained_saes.yaml"
    return yaml.load(path.read_text(), Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))
