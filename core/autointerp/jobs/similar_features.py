"""Silent examples that are hard to tell from active ones: where features with nearly the same direction fire.

Which features those are, the decoder rows say; where they fire, the cache's reservoirs; and where the feature in
question is silent, its own records, all of them, since a reservoir does not hold every window in which it fires.

Holds the weights of one SAE at a time.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

from core.autointerp.caching.stored import StoredCache
from core.autointerp.examples import Example, FeatureName
from core.autointerp.jobs.sources import split_source
from core.autointerp.negatives import nearest_features, neighbour_negatives
from core.catalogue.catalogue import find_sources
from core.prompts import PromptTokenizer

if TYPE_CHECKING:
    from core.saes.encoder import LoadedSae

_NEIGHBOURS: Final = 20


@dataclass(slots=True)
class SimilarFeatures:
    """Finds silent examples by similar features. For one thread.

    Attributes:
        model: The model.
        set_folders: Source sets that lie in local folders.
        tokenizer: The model's.
    """

    model: str
    set_folders: Mapping[str, str]
    tokenizer: PromptTokenizer
    _loaded: "tuple[str, LoadedSae] | None" = None

    def silent_examples(self, cache: StoredCache, name: FeatureName, wanted: int) -> list[Example]:
        """Windows where features like this one fire most and it does not, those of the most similar first.

        Args:
            cache: Activations of its source.
            name: The feature.
            wanted: Examples at most.
        """
        neighbours = nearest_features(self._sae(name.source), name.index, _NEIGHBOURS)
        windows = {one.index: _strongest_windows(cache, name.source, one.index) for one in neighbours}
        hard = neighbour_negatives(neighbours, windows, _firing(cache, name), wanted)
        return [self._example(cache, one.window, one.distance) for one in hard]

    def _sae(self, source: str) -> "LoadedSae":
        if self._loaded is None or self._loaded[0] != source:
            from core.saes.loading import load_sae

            found = find_sources(self.model, (split_source(source)[1],), self.set_folders)
            (described,) = (one for one in found if one.id == source)
            self._loaded = (source, load_sae(described, dtype="float32"))
        return self._loaded[1]

    def _example(self, cache: StoredCache, window: int, distance: float) -> Example:
        ids = [token for token in cache.window(window).tolist() if token != self.tokenizer.bos_id]
        return Example(self.tokenizer.str_tokens(ids), (0.0,) * len(ids), distance=distance)


def _strongest_windows(cache: StoredCache, source: str, latent: int) -> list[int]:
    reservoir = cache.range_of(source, latent).reservoir
    return reservoir.top.windows[reservoir.top.of(latent - reservoir.start)].tolist()


def _firing(cache: StoredCache, name: FeatureName) -> set[int]:
    """All windows in which a feature fires."""
    per_context = cache.context_tokens // cache.window_tokens
    found: set[int] = set()
    for first, records in cache.records(name.source, range(name.index, name.index + 1)):
        windows = (records.windows + first) * per_context + records.positions // cache.window_tokens
        found.update(np.unique(windows).tolist())
    return found
