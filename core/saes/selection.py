"""Choosing the strongest features, source by source, exactly as one global stable sort would.

A question over many sources never holds more than one source's encoding: each source contributes its best `k`, and the
running best absorbs them. The order is descending by key; equal keys keep the earlier source, then the lower feature
index. `torch.topk` leaves the order of equal keys open, so ties at the boundary are settled here.
"""

from dataclasses import dataclass

import torch


def stable_top_k(keys: torch.Tensor, k: int) -> torch.Tensor:
    """Indices of the `k` largest of `keys` `[n]`, equal to a stable descending sort cut at `k`."""
    k = min(k, keys.numel())
    if k == 0:
        return torch.empty(0, dtype=torch.long, device=keys.device)
    boundary = torch.topk(keys, k, sorted=False).values.min()
    above = (keys > boundary).nonzero().squeeze(1)
    level = (keys == boundary).nonzero().squeeze(1)[: k - above.numel()]
    chosen = torch.cat([above, level])
    order = torch.sort(keys[chosen], descending=True, stable=True).indices
    return chosen[order]


@dataclass(frozen=True, slots=True)
class Ranked:
    """Features in ranking order.

    Attributes:
        keys: What they are ranked by, `[n]`.
        sources: Number of the source that each belongs to, `[n]`, long.
        indexes: Feature index within its source, `[n]`, long.
        values: Activation at each position, `[n, pos]`.
    """

    keys: torch.Tensor
    sources: torch.Tensor
    indexes: torch.Tensor
    values: torch.Tensor

    def merge(self, other: "Ranked", k: int) -> "Ranked":
        """The best `k` of both. Sources may be merged in any order: equal keys go by source number, then by index."""
        keys = torch.cat([self.keys, other.keys])
        sources = torch.cat([self.sources, other.sources])
        by_source = torch.sort(sources, stable=True).indices
        order = by_source[torch.sort(keys[by_source], descending=True, stable=True).indices[:k]]
        return Ranked(
            keys[order],
            sources[order],
            torch.cat([self.indexes, other.indexes])[order],
            torch.cat([self.values, other.values])[order],
        )


def rank(
    features: torch.Tensor,
    source: int,
    k: int,
    sort_positions: list[int],
    indexes: torch.Tensor | None = None,
) -> Ranked:
    """Ranks one source's features. One whose key is not a number ranks last, so that it hides no other.

    Args:
        features: Activations `[pos, n]`.
        source: Number that the source is known by in the result.
        k: How many to keep.
        sort_positions: Rank by the sum over these positions; empty: by the maximum over all.
        indexes: Feature index of each column, ascending, when `features` holds only some of them.
    """
    keys = features[sort_positions].sum(0) if sort_positions else features.amax(0)
    keys = torch.where(keys.isnan(), -torch.inf, keys)
    best = stable_top_k(keys, k)
    return Ranked(
        keys=keys[best].float(),
        sources=torch.full_like(best, source),
        indexes=best if indexes is None else indexes.to(best.device)[best],
        values=features[:, best].T.float(),
    )
