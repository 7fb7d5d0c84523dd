"""Merging rankings of the same prompt over different sources, without torch.

A question may be answered in parts: by several Runner deployments, or in waves when its SAEs do not fit into memory
together. Parts merge exactly, because the order is total: key descending, then source as listed, then feature index.
"""

from collections.abc import Sequence

import numpy as np

from core.questions import TopFeaturesAnswer


def merge_rankings(parts: Sequence[TopFeaturesAnswer], sources: Sequence[str], k: int) -> TopFeaturesAnswer:
    """The best `k` features of all parts.

    Args:
        parts: Rankings of one prompt, each with its own best `k`; no source stands in two parts.
        sources: All sources in the order that settles ties.
        k: How many to keep.
    """
    if len(parts) == 1:
        return parts[0]
    number = {source: place for place, source in enumerate(sources)}
    names = [source for part in parts for source in part.sources]
    keys = np.concatenate([part.keys for part in parts])
    indexes = np.concatenate([part.indexes for part in parts])
    values = np.concatenate([part.values for part in parts])
    starts = np.cumsum([0, *(len(part.sources) for part in parts)])
    attributions = {
        int(start) + place: dfa
        for start, part in zip(starts, parts, strict=False)
        for place, dfa in part.attributions.items()
    }
    numbers = np.array([number[name] for name in names])
    order = np.lexsort(np.stack([indexes, numbers, -keys]))[:k]
    return TopFeaturesAnswer(
        sources=tuple(names[place] for place in order),
        indexes=indexes[order],
        values=values[order],
        keys=keys[order],
        attributions={new: attributions[old] for new, old in enumerate(order.tolist()) if old in attributions},
    )
