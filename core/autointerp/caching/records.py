"""Sparse activations of one source over one part, sorted so that a range of latents is one slice.

Eight bytes per activation that is not zero: window and position within the part as 16-bit numbers and the activation
in full precision. The latent is not stored; `offsets` says where each begins.
"""

from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class Records:
    """Activations of latents `start` to `start + n_latents - 1`, by latent, then window, then position.

    Attributes:
        start: First latent.
        offsets: Latent `start + i` owns entries `offsets[i]` to `offsets[i + 1] - 1`; `[n_latents + 1]` int64.
        windows: Window within the part, `[n]` uint16.
        positions: Position within the window, `[n]` uint16.
        activations: `[n]` float32.
    """

    start: int
    offsets: NDArray[np.int64]
    windows: NDArray[np.uint16]
    positions: NDArray[np.uint16]
    activations: NDArray[np.float32]

    def __len__(self) -> int:
        return len(self.activations)

    @classmethod
    def sorted_from(
        cls,
        n_latents: int,
        latents: NDArray[np.int32],
        windows: NDArray[np.uint16],
        positions: NDArray[np.uint16],
        activations: NDArray[np.float32],
    ) -> Self:
        """From entries of all latents `[n]` that are in the order of windows and positions."""
        keys = latents.astype(np.uint16) if n_latents <= 2**16 else latents  # numpy sorts 16 bits by radix
        order = np.argsort(keys, kind="stable")
        offsets = np.zeros(n_latents + 1, dtype=np.int64)
        np.cumsum(np.bincount(latents, minlength=n_latents), out=offsets[1:])
        return cls(0, offsets, windows[order], positions[order], activations[order])

    @property
    def n_latents(self) -> int:
        """How many latents it is about."""
        return len(self.offsets) - 1

    @property
    def counts(self) -> NDArray[np.int64]:
        """Entries of each latent, `[n_latents]`."""
        return np.diff(self.offsets)

    @property
    def latents(self) -> NDArray[np.int64]:
        """The latent of each entry, `[n]`."""
        return np.repeat(np.arange(self.start, self.start + self.n_latents), self.counts)

    @property
    def size_bytes(self) -> int:
        """Bytes of all arrays."""
        return sum(array.nbytes for array in (self.offsets, self.windows, self.positions, self.activations))
