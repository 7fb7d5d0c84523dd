"""A bounded choice of windows for each of many groups: those with the highest priority.

Top windows and random windows are the same thing under different priorities, an activation or a fixed random number.
The order is total (priority, then earlier window), so the best of a union of parts does not depend on the parts.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Self

import numpy as np
from numpy.typing import NDArray

_BITS_BELOW_STEPS: Final = 49  # of a float64: its sign, exponent and three bits remain
_N_STEPS: Final = 128


@dataclass(frozen=True, slots=True)
class Sample:
    """Windows chosen, by group, best first.

    Attributes:
        groups: Group of each, `[n]` int64, ascending.
        priorities: `[n]` float64.
        windows: Number of the exemplar window in the corpus, `[n]` int64.
        values: Activation at each of its positions, `[n, window]` float32.
    """

    groups: NDArray[np.int64]
    priorities: NDArray[np.float64]
    windows: NDArray[np.int64]
    values: NDArray[np.float32]

    @classmethod
    def empty(cls, window_tokens: int) -> Self:
        """None chosen."""
        return cls(
            np.empty(0, np.int64),
            np.empty(0, np.float64),
            np.empty(0, np.int64),
            np.empty((0, window_tokens), np.float32),
        )

    def __len__(self) -> int:
        return len(self.groups)

    @property
    def size_bytes(self) -> int:
        """Bytes of all arrays."""
        return self.groups.nbytes + self.priorities.nbytes + self.windows.nbytes + self.values.nbytes

    def of(self, group: int) -> slice:
        """Where a group's windows are."""
        first, last = np.searchsorted(self.groups, [group, group + 1])
        return slice(int(first), int(last))


def best_of(
    groups: NDArray[np.int64], order_by: NDArray[np.float64], windows: NDArray[np.int64], k: int
) -> NDArray[np.int64]:
    """Places of the `k` best of every group, by group, best first. Priorities are not negative."""
    left = contenders(groups, order_by, k)
    order = left[np.lexsort((windows[left], -order_by[left], groups[left]))]
    ordered = groups[order]
    if not len(ordered):
        return order
    begins = np.flatnonzero(np.concatenate([[True], ordered[1:] != ordered[:-1]]))
    lengths = np.diff(np.append(begins, len(ordered)))
    rank = np.arange(len(ordered)) - np.repeat(begins, lengths)
    return order[rank < k]


def contenders(groups: NDArray[np.int64], order_by: NDArray[np.float64], k: int) -> NDArray[np.int64]:
    """Places, ascending, among which the `k` best of every group are; few more, at the cost of counting and no sort.

    Floats that are not negative are ordered as their bits are, so the leading bits are steps of a scale: an eighth of
    an octave each. Of every group the steps are kept from the highest down to where there are `k`.
    """
    if not len(groups) or np.bincount(groups).max() <= k:
        return np.arange(len(groups))
    scale = order_by.view(np.int64) >> _BITS_BELOW_STEPS
    step = np.minimum(scale.max() - scale, _N_STEPS - 1)
    n_groups = int(groups.max()) + 1
    held = np.bincount(groups * _N_STEPS + step, minlength=n_groups * _N_STEPS).reshape(n_groups, _N_STEPS)
    enough = held.cumsum(1) >= k
    enough[:, -1] = True
    return np.flatnonzero(step <= enough.argmax(1)[groups])


def merged(samples: Sequence[Sample], k: int) -> Sample:
    """The `k` best windows of every group; no window stands in two samples."""
    groups = np.concatenate([sample.groups for sample in samples])
    order_by = np.concatenate([sample.priorities for sample in samples])
    windows = np.concatenate([sample.windows for sample in samples])
    chosen = best_of(groups, order_by, windows, k)
    values = np.concatenate([sample.values for sample in samples])
    return Sample(groups[chosen], order_by[chosen], windows[chosen], values[chosen])
