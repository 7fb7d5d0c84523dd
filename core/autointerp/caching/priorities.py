"""Random choices that do not depend on the order things come in.

Every (seed, latent, window) has a fixed pseudo-random number, so "the n with the largest numbers" is a uniform sample
without replacement that any two workers agree on and that merges: the best of a union are among the best of its parts.
"""

import numpy as np
from numpy.typing import NDArray

# Constants of the splitmix64 generator (Steele, Lea and Flood, "Fast splittable pseudorandom number generators", 2014).
_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_MIX_1 = np.uint64(0xBF58476D1CE4E5B9)
_MIX_2 = np.uint64(0x94D049BB133111EB)


def priorities(seed: int, latents: NDArray[np.int64], windows: NDArray[np.int64]) -> NDArray[np.float64]:
    """Numbers in [0, 1) for pairs of latent and window, broadcast against each other."""
    mixed = _mix(np.asarray(latents).astype(np.uint64) + np.uint64(seed))
    mixed = _mix(mixed ^ _mix(np.asarray(windows).astype(np.uint64)))
    return (mixed >> np.uint64(11)).astype(np.float64) * 2.0**-53


def choose(seed: int, n: int, count: int) -> NDArray[np.int64]:
    """`count` of the numbers 0 to `n - 1`, or all, ascending."""
    everything = np.arange(n, dtype=np.int64)
    if count >= n:
        return everything
    drawn = priorities(seed, np.zeros(1, np.int64), everything)
    return np.sort(np.argpartition(drawn, n - count)[n - count :])


def _mix(numbers: NDArray[np.uint64]) -> NDArray[np.uint64]:
    with np.errstate(over="ignore"):
        state = numbers + _GOLDEN
        state = (state ^ (state >> np.uint64(30))) * _MIX_1
        state = (state ^ (state >> np.uint64(27))) * _MIX_2
    return state ^ (state >> np.uint64(31))
