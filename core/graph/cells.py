"""Scoring: the effects of what features wrote to one layer, position by position.

A feature is scored against the gradient at its own position only. Gathering that gradient for every feature would make
`B * n * d` numbers, the largest tensor of attribution by far. So features are sorted by position and cut into cells of
equal width, each cell belonging to one position, and one batched product scores all cells:

    cells [c, width, d] @ gradient at each cell's position [c, d, B] -> [c, width, B]

The last cell of a position is filled up with rows whose scores are dropped. A width near the mean number of features
at a position keeps both the number of cells (at most two for each position, on average) and the filling small: for w
features that write to the layer no more than `3 w + 8 T` rows are gathered, of d numbers and 2 B scores each.
"""

from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

from core.graph.frozen import FrozenPrompt

_LEAST_WIDTH = 8


@dataclass(frozen=True, slots=True, eq=False)
class Cells:
    """How the features that write to one layer are cut. All are index tensors on the prompt's device.

    Attributes:
        width: Features in a cell.
        rows: `[c * width]`: which decoder row is where.
        positions: `[c]`, ascending: the position of each cell.
        slots: `[w]`: where each feature is, those at earlier positions first.
        columns: `[w]`: their columns.
        first: The first column, where columns follow each other and no other layer writes to them; else None.
        cells_before: `[T + 1]`: how many cells belong to positions before each.
        features_before: `[T + 1]`: how many features are at positions before each.
    """

    width: int
    rows: Tensor
    positions: Tensor
    slots: Tensor
    columns: Tensor
    first: int | None
    cells_before: tuple[int, ...]
    features_before: tuple[int, ...]

    @classmethod
    def of(cls, prompt: FrozenPrompt, layer: int) -> Self:
        """Cuts the features that write to a layer of a prompt."""
        first, last = prompt.writers(layer)
        by_position, order = torch.sort(prompt.features.position[first:last].cpu(), stable=True)
        counts = torch.bincount(by_position, minlength=prompt.n_positions)
        width = _LEAST_WIDTH
        while width * prompt.n_positions < last - first:
            width *= 2
        cells = (counts + width - 1) // width
        cells_before, features_before = _before(cells), _before(counts)
        rank = torch.arange(last - first) - features_before[by_position]
        slots = cells_before[by_position] * width + rank
        rows = torch.zeros(int(cells_before[-1]) * width, dtype=torch.int64)
        rows[slots] = order
        device = prompt.device
        adjacent = not prompt.cross_layer and bool((order == torch.arange(last - first)).all())
        return cls(
            width,
            rows.to(device),
            torch.repeat_interleave(torch.arange(prompt.n_positions), cells).to(device),
            slots.to(device),
            (order + first).to(device),
            first if adjacent else None,
            tuple(cells_before.tolist()),
            tuple(features_before.tolist()),
        )

    def score(self, g: Tensor, decoders: Tensor, effects: Tensor) -> None:
        """Adds effects of the features at the positions of `g`.

        Args:
            g: The gradient where they write, `[pos, B, d]` float32, of the first positions.
            decoders: What they wrote, `[w, d]`.
            effects: `[columns, B]` float32, added to; 0 before where only one layer writes.
        """
        n_cells, n_features = self.cells_before[len(g)], self.features_before[len(g)]
        if not n_features:
            return
        wrote = decoders.index_select(0, self.rows[: n_cells * self.width]).view(n_cells, self.width, -1)
        gradient = g.to(decoders.dtype).index_select(0, self.positions[:n_cells])
        scores = product(wrote, gradient.transpose(1, 2)).view(n_cells * self.width, -1)
        slots = self.slots[:n_features]
        if self.first is None:
            effects.index_add_(0, self.columns[:n_features], scores.index_select(0, slots))
        else:
            torch.index_select(scores, 0, slots, out=effects[self.first : self.first + n_features])


def product(a: Tensor, b: Tensor) -> Tensor:
    """`a @ b` of matrices or of batches of them, in float32: half precision is not rounded on the way out of a GPU."""
    multiply = torch.bmm if a.ndim == 3 else torch.mm
    if a.is_cuda and a.dtype != torch.float32:
        return multiply(a, b, out_dtype=torch.float32)
    return multiply(a, b).float()


def _before(counts: Tensor) -> Tensor:
    """`[T + 1]`: sums of the entries before each."""
    return torch.cat([torch.zeros(1, dtype=torch.int64), counts.cumsum(0)])
