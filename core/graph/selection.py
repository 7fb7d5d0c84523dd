"""Selection: the K features of a graph, chosen from the targets' rows alone, before any feature's row is computed.

    every active feature --direct influence on the targets--> K features --Linearised.keep--> Selected

What circuit-tracer finds with an update interval of at least K is the same set; but since it is known first, only K
columns of every row have to be scored, and only K encoder rows fetched. `Selected` is where a graph can change
process: rows of the kept features may be computed anywhere, in any number of shards, and `assemble` puts them together.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor

from core.errors import RayscopeError
from core.graph.effects import Effects, FeatureNodes, LogitNodes
from core.graph.linearised import Linearised
from core.graph.ranking import direct_influence, most_influential


@dataclass(frozen=True, slots=True, eq=False)
class Selected:
    """A prompt with the features of its graph, and what all sources do to the targets.

    Attributes:
        linearised: With the K chosen features only.
        logits: The m targets.
        effects: The targets' rows, `[m, K + (L + 1) * T]` float32.
        n_active: Features that were active, chosen or not.
    """

    linearised: Linearised
    logits: LogitNodes
    effects: Tensor
    n_active: int


def select(linearised: Linearised, logits: LogitNodes, effects: Tensor, max_features: int | None) -> Selected:
    """Chooses the features with the largest direct influence on the targets; equals are taken in node order.

    Args:
        linearised: With all n active features.
        logits: The m targets.
        effects: Their rows, `[m, n + (L + 1) * T]`.
        max_features: Most features, K; None takes all.

    Raises:
        RayscopeError: The effects are not finite.
    """
    n_active = len(linearised.features)
    influence = direct_influence(effects, logits.probabilities, n_active)
    count = n_active if max_features is None else min(max_features, n_active)
    chosen = most_influential(influence, count)
    kept = linearised.keep(chosen.to(linearised.features.layer.device))
    return Selected(kept, logits, effects.index_select(1, columns(chosen, n_active, effects.shape[1])), n_active)


def columns(chosen: Tensor, n_active: int, n_sources: int) -> Tensor:
    """Columns that stay when only the chosen features do: theirs, then those of all errors and tokens."""
    return torch.cat([chosen, torch.arange(n_active, n_sources, device=chosen.device)])


def shards(features: FeatureNodes, count: int, block_rows: int = 1) -> list[range]:
    """Features in up to `count` runs of about equal work, every feature in one of them.

    A row's work is the part of the model below and before its target: layers times positions. Runs are in node order,
    so each goes no deeper than it must; none is empty. They begin at multiples of `block_rows`: computed in blocks of
    that many rows, each block has the same rows as if there were no shards, and so the same bits.
    """
    if len(features) == 0:
        return []
    work = ((features.layer + 1) * (features.position + 1)).cpu().cumsum(0)
    shares = torch.tensor([int(work[-1]) * share // count for share in range(1, count)], dtype=torch.int64)
    blocks = (torch.searchsorted(work, shares) // block_rows + 1).tolist()
    edges = {0, len(features), *(min(block * block_rows, len(features)) for block in blocks)}
    return [range(start, stop) for start, stop in pairwise(sorted(edges))]


class Assembly:
    """A graph while its rows come in, in runs and in any order. Rows that are not there yet are 0.

    Attributes:
        effects: The graph as far as it is known; its weights change as rows come in.
    """

    def __init__(self, selected: Selected) -> None:
        kept = selected.linearised
        count, width = len(kept.features), selected.effects.shape[1]
        weights = _zeros(count + len(selected.logits), width, selected.effects.device)
        weights[count:] = selected.effects
        self.effects = Effects(
            kept.token_ids, kept.n_layers, kept.features, selected.logits, selected.n_active, weights
        )
        self._given = torch.zeros(count, dtype=torch.int64)

    def rows(self, run: range) -> Tensor:
        """Where the rows of a run go, for who computes them in place and then says so: `[len(run), sources]`."""
        return self.effects.weights[run.start : run.stop]

    def take(self, run: range) -> None:
        """Counts the rows of a run as there."""
        self._given[run.start : run.stop] += 1

    def put(self, run: range, rows: Tensor) -> None:
        """Takes in the rows of a run.

        Raises:
            RayscopeError: They do not fit.
        """
        place = self.rows(run)
        if rows.shape != place.shape or run.stop > len(self._given):
            raise RayscopeError(
                f"rows {run} of {len(self._given)} came as {tuple(rows.shape)}, {place.shape[1]} wide were expected"
            )
        place.copy_(rows)
        self.take(run)

    def whole(self) -> Effects:
        """The graph, when all of it is there.

        Raises:
            RayscopeError: A row is missing or came twice.
        """
        if bool((self._given != 1).any()):
            missing, repeated = int((self._given == 0).sum()), int((self._given > 1).sum())
            raise RayscopeError(f"{missing} rows of the graph are missing, {repeated} repeated")
        return self.effects


def _zeros(rows: int, columns: int, device: torch.device) -> Tensor:
    """`[rows, columns]` float32. On a CPU pages are had when rows are written, and zeros are not written before."""
    if device.type == "cpu":
        return torch.from_numpy(np.zeros((rows, columns), np.float32))
    return torch.zeros(rows, columns, device=device)


def assemble(selected: Selected, parts: Iterable[tuple[range, Tensor]]) -> Effects:
    """Puts the rows of a graph together.

    Args:
        selected: The graph's features and the targets' rows.
        parts: Runs of features and their rows `[len(run), K + (L + 1) * T]`, in any order.

    Raises:
        RayscopeError: A row is missing, comes twice, or does not fit.
    """
    assembly = Assembly(selected)
    for run, rows in parts:
        assembly.put(run, rows)
    return assembly.whole()
