"""Hard negatives: texts where a feature is silent although they look like those where it fires.

A judge tells random text from a feature's examples by topic alone. Two sources ask more of an explanation:

    similar texts       one index of all windows of a dataset, whatever the feature; the windows where it fires are
                        masked at the time of the question
    similar features    windows where the features whose decoder rows are nearest fire most and this one does not

One index serves every feature, as only the mask differs; an index per feature would repeat the corpus for each.

What comes back are window numbers with a distance to put into `Example.distance`, a cosine in both cases: of the
embeddings, or of the decoder rows.

Deliberately not here: computing embeddings (`core.autointerp.embedder`), where windows are stored, and which features
fire in them.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import numpy.typing as npt

from core.errors import InvalidRequest

if TYPE_CHECKING:
    from core.saes.encoder import LoadedSae

Vectors = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class HardNegative:
    """A window where the feature is silent.

    Attributes:
        window: Its number in the dataset.
        distance: How near it is to where the feature fires, a cosine.
    """

    window: int
    distance: float


@dataclass(frozen=True, slots=True)
class NeighbourFeature:
    """A feature of the same SAE, and the cosine of its decoder row with the one asked about."""

    index: int
    cosine: float


class WindowIndex:
    """The embeddings of a dataset's windows, searched exactly by cosine."""

    def __init__(self, index: Any) -> None:
        self._index = index

    @classmethod
    def build(cls, embeddings: Vectors) -> Self:
        """An index of windows `[windows, d]`, numbered in order. Their lengths do not matter.

        Raises:
            InvalidRequest: There are none, or one is zero or not finite.
        """
        import faiss

        units = _units(embeddings)
        if not len(units):
            raise InvalidRequest("an index needs at least one window")
        index: Any = faiss.IndexFlatIP(units.shape[1])
        index.add(units)
        return cls(index)

    @classmethod
    def open(cls, path: Path) -> Self:
        """An index that `save` wrote."""
        import faiss

        return cls(faiss.read_index(str(path)))

    def save(self, path: Path) -> None:
        """Write it to a file, from which every feature's job can open it."""
        import faiss

        faiss.write_index(self._index, str(path))

    def __len__(self) -> int:
        return int(self._index.ntotal)

    def hardest(self, active: Vectors, firing: Collection[int], wanted: int) -> list[HardNegative]:
        """The silent windows nearest to any active one, nearest first; fewer where there are not as many.

        Args:
            active: Embeddings of texts where the feature fires, `[texts, d]`.
            firing: Numbers of all windows where it fires, however weakly.
            wanted: Most windows.

        Raises:
            InvalidRequest: The embeddings are not of this index's width, or one is zero or not finite.
        """
        import faiss

        selectors: Any = faiss  # its signatures are generated, and not all of them
        queries = _units(active)
        if queries.shape[1] != self._index.d:
            raise InvalidRequest(f"embeddings of width {queries.shape[1]} were asked of an index of {self._index.d}")
        if wanted < 1 or not len(queries):
            return []
        masked = np.asarray(sorted(set(firing)), dtype=np.int64)
        batch = selectors.IDSelectorBatch(masked)
        search = selectors.SearchParameters(sel=selectors.IDSelectorNot(batch))
        cosines, windows = self._index.search(queries, min(wanted, len(self)), params=search)
        best: dict[int, float] = {}
        for window, cosine in zip(windows.ravel().tolist(), cosines.ravel().tolist(), strict=True):
            if window >= 0:  # faiss fills up with -1
                best[window] = max(cosine, best.get(window, cosine))
        ranked = sorted(best.items(), key=lambda item: (-item[1], item[0]))[:wanted]
        return [HardNegative(window, cosine) for window, cosine in ranked]


def _units(embeddings: Vectors) -> Vectors:
    if embeddings.ndim != 2:
        raise InvalidRequest(f"embeddings are [texts, d], got {list(embeddings.shape)}")
    lengths = np.linalg.norm(embeddings.astype(np.float64), axis=1, keepdims=True)
    if not np.isfinite(lengths).all() or not (lengths > 0).all():
        raise InvalidRequest("an embedding is zero or not finite")
    return np.ascontiguousarray(embeddings / lengths, dtype=np.float32)


def nearest_features(sae: "LoadedSae", index: int, wanted: int) -> list[NeighbourFeature]:
    """The other features whose decoder rows point most nearly the same way, nearest first; at most 127.

    Raises:
        InvalidRequest: The SAE has no such feature.
    """
    from core.saes.neighbours import decoder_row, nearest_by_decoder

    found, cosines = nearest_by_decoder(sae, decoder_row(sae, index), wanted + 1)
    others = [NeighbourFeature(one, cosine) for one, cosine in zip(found, cosines, strict=True) if one != index]
    return others[:wanted]


def neighbour_negatives(
    neighbours: Sequence[NeighbourFeature],
    windows: Mapping[int, Sequence[int]],
    firing: Collection[int],
    wanted: int,
    per_neighbour: int = 10,
) -> list[HardNegative]:
    """Windows where near features fire most and this one does not, the nearest feature's first.

    Args:
        neighbours: Near features, nearest first.
        windows: Feature to the numbers of the windows where it fires, strongest first. One that is missing has none.
        firing: Numbers of all windows where this feature fires.
        wanted: Most windows.
        per_neighbour: Most windows of one neighbour. None comes twice: it counts for the nearest.
    """
    mask = set(firing)
    chosen: dict[int, HardNegative] = {}
    for neighbour in neighbours:
        free = [at for at in dict.fromkeys(windows.get(neighbour.index, ())) if at not in mask and at not in chosen]
        for window in free[:per_neighbour]:
            chosen[window] = HardNegative(window, neighbour.cosine)
    return list(chosen.values())[:wanted]
