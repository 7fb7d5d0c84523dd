"""From a model's name to what can be served of it.

Three places are known: SAELens' directory of published SAEs, local folders, and the demo that Rayscope ships. Only what
is asked for is looked at: a source set that nobody named is neither downloaded nor described.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from core.catalogue.directory import published_models, published_sets
from core.catalogue.model_ids import ModelNames, names_of
from core.catalogue.sources import Source, folder_sources, published_source
from core.demo import ARTEFACTS, DEMO_MODEL_ID
from core.errors import NotFound

_DEMO_SETS = ("res-demo", "att-demo")


@dataclass(frozen=True, slots=True)
class SourceFilter:
    """Regular expressions on source ids, searched anywhere in the id.

    Attributes:
        include: Keep only what matches one of these; empty: everything.
        exclude: Then drop what matches one of these.
    """

    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()

    def keeps(self, source_id: str) -> bool:
        """Whether a source passes."""
        if self.include and not any(re.search(pattern, source_id) for pattern in self.include):
            return False
        return not any(re.search(pattern, source_id) for pattern in self.exclude)


def find_model(model: str) -> ModelNames:
    """Names and weights of a catalogue id, Hugging Face id, local folder, or the demo."""
    if model == DEMO_MODEL_ID:
        return ModelNames(DEMO_MODEL_ID, (), DEMO_MODEL_ID)
    if Path(model).is_dir():
        return ModelNames(Path(model).name, (), model)
    return names_of(model)


def weights_location(weights: str) -> str:
    """Where `from_pretrained` finds weights on this machine: the demo's lie inside the installed package."""
    return str(ARTEFACTS / "model") if weights == DEMO_MODEL_ID else weights


def find_sources(
    model: str,
    source_sets: Sequence[str],
    folders: Mapping[str, str] | None = None,
    wanted: SourceFilter | None = None,
) -> list[Source]:
    """Describes the sources of the named sets, in set order, then catalogue order.

    Args:
        model: Any name of the model.
        source_sets: Set ids to serve.
        folders: Sets that lie in local folders: set id to folder.
        wanted: Which sources of those sets.

    Raises:
        NotFound: The model has no such source set; the hint lists those that it has.
    """
    names, folders, wanted = find_model(model), folders or {}, wanted or SourceFilter()
    sources: list[Source] = []
    for source_set in source_sets:
        if source_set in folders:
            found = folder_sources(source_set, Path(folders[source_set]))
        elif names.id == DEMO_MODEL_ID and source_set in _DEMO_SETS:
            found = folder_sources(source_set, ARTEFACTS / source_set)
        else:
            rows = published_sets(names.id).get(source_set)
            if rows is None:
                raise NotFound(f"{names.id} has no source set '{source_set}'.", _known_sets(names.id))
            found = [published_source(row) for row in rows if wanted.keeps(row.source)]
        sources += [source for source in found if wanted.keeps(source.id)]
    return sources


def catalogue_rows() -> list[tuple[ModelNames, tuple[str, ...]]]:
    """Every model with known source sets: the demo, then the published ones by name."""
    published = [(find_model(model), tuple(sets)) for model, sets in published_models().items()]
    return [(find_model(DEMO_MODEL_ID), _DEMO_SETS), *published]


def _known_sets(model_id: str) -> str:
    known = _DEMO_SETS if model_id == DEMO_MODEL_ID else tuple(published_sets(model_id))
    return f"Known sets: {', '.join(known) or 'none'}. Other sets can be served from local folders."
