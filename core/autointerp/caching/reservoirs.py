"""What is remembered of each latent: a bounded number of windows that show what it does, and how often it fires.

    records of a part --by exemplar window--> (latent, window, maximum, values)
        top       the k windows with the highest maximum
        spread    up to r random windows of every octave of the maximum, so that weak firing is seen too
        silence   in which windows of one fixed random pool it fires, hence in which it does not
        counts    tokens and windows in which it fires; windows by octave

Memory is O(latents x windows kept), whatever the corpus. Reservoirs over disjoint parts merge, and in any order give
what one pass gives: every choice is by a priority that belongs to (latent, window), none by when it came.

Octaves are powers of two of the activation: bounds that no pass over the data has to find first. A latent's quantiles
follow from the counts (`exemplars`).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from core.autointerp.caching.priorities import choose, priorities
from core.autointerp.caching.records import Records
from core.autointerp.caching.samples import Sample, best_of, merged
from core.autointerp.seeds import derive_seed
from core.errors import InvalidRequest

LOWEST_OCTAVE: Final = -6
N_OCTAVES: Final = 16
"""Octave `i` holds maxima from `2^(i - 6)` to twice that; the first and the last hold what lies beyond as well."""

_SAMPLE: Final = ("groups", "priorities", "windows", "values")
_ARRAYS: Final = ("fired_tokens", "octaves", "pool", "fired_in_pool")


@dataclass(frozen=True, slots=True)
class ReservoirShape:
    """How much is remembered of a latent.

    Attributes:
        window_tokens: Tokens of an exemplar window; windows of the cache are cut into these.
        top: Strongest windows.
        per_octave: Random windows of each octave.
        silent_pool: Random windows of the corpus that silent ones are taken from.
        seed: Decides every random choice.
    """

    window_tokens: int = 32
    top: int = 40
    per_octave: int = 12
    silent_pool: int = 512
    seed: int = 0

    def windows_of(self, context_tokens: int) -> int:
        """Exemplar windows of one window of the cache.

        Raises:
            InvalidRequest: It can not be cut into whole ones.
        """
        if self.window_tokens < 1 or context_tokens % self.window_tokens:
            raise InvalidRequest(
                f"Windows of {context_tokens} tokens can not be cut into exemplars of {self.window_tokens}.",
                "Make the context length a multiple of the exemplar length.",
            )
        return context_tokens // self.window_tokens

    def pool(self, n_windows: int) -> NDArray[np.int64]:
        """The exemplar windows that silent ones are taken from, ascending, of `n_windows` in the corpus."""
        return choose(derive_seed(self.seed, "silence"), n_windows, self.silent_pool)


@dataclass(frozen=True, slots=True)
class Reservoir:
    """What is remembered of the latents `start` to `start + n_latents - 1` of one source.

    Attributes:
        start: First latent.
        top: Strongest windows; group `i` is latent `start + i`.
        spread: Random windows; group `i * N_OCTAVES + octave`.
        fired_tokens: Tokens at which each fires, `[n_latents]` int64.
        octaves: Exemplar windows by octave of their maximum, `[n_latents, N_OCTAVES]` int64.
        pool: Exemplar windows of the silent pool, `[pool]` int64, ascending.
        fired_in_pool: Whether each fires in each of those, `[n_latents, pool]` bool.
    """

    start: int
    top: Sample
    spread: Sample
    fired_tokens: NDArray[np.int64]
    octaves: NDArray[np.int64]
    pool: NDArray[np.int64]
    fired_in_pool: NDArray[np.bool_]

    @property
    def n_latents(self) -> int:
        """How many latents it is about."""
        return len(self.fired_tokens)

    @property
    def fired_windows(self) -> NDArray[np.int64]:
        """Exemplar windows in which each fires, `[n_latents]`."""
        return self.octaves.sum(1)

    @property
    def size_bytes(self) -> int:
        """Bytes of all arrays."""
        arrays = (self.fired_tokens, self.octaves, self.pool, self.fired_in_pool)
        return self.top.size_bytes + self.spread.size_bytes + sum(array.nbytes for array in arrays)


def empty_reservoir(start: int, n_latents: int, shape: ReservoirShape, pool: NDArray[np.int64]) -> Reservoir:
    """Nothing seen yet."""
    return Reservoir(
        start,
        Sample.empty(shape.window_tokens),
        Sample.empty(shape.window_tokens),
        np.zeros(n_latents, np.int64),
        np.zeros((n_latents, N_OCTAVES), np.int64),
        pool,
        np.zeros((n_latents, len(pool)), np.bool_),
    )


def reservoir_of(
    records: Records,
    source: str,
    *,
    first_window: int,
    context_tokens: int,
    shape: ReservoirShape,
    pool: NDArray[np.int64],
) -> Reservoir:
    """What one part shows.

    Args:
        records: The latents' records over the part.
        source: Source id; with the seed it decides which random windows are kept.
        first_window: Number of the part's first window in the corpus.
        context_tokens: Tokens of a window.
        shape: How much is kept.
        pool: The silent pool of the whole corpus.
    """
    per_window = shape.windows_of(context_tokens)
    empty = empty_reservoir(records.start, records.n_latents, shape, pool)
    if not len(records):
        return empty
    positions = records.positions.astype(np.uint32)
    places = records.windows.astype(np.uint32) * per_window + positions // shape.window_tokens  # within the part
    is_new = np.empty(len(records), np.bool_)
    is_new[0] = True
    np.not_equal(places[1:], places[:-1], out=is_new[1:])
    is_new[records.offsets[:-1][records.counts > 0]] = True
    begins = np.flatnonzero(is_new)
    lengths = np.diff(begins, append=len(records))
    n_windows = np.diff(np.searchsorted(begins, records.offsets))
    of_latent = np.repeat(np.arange(records.n_latents), n_windows)
    window = places[begins] + np.int64(first_window * per_window)
    maximum = np.maximum.reduceat(records.activations, begins).astype(np.float64)
    octave = octave_of(maximum)

    def sample(groups: NDArray[np.int64], order_by: NDArray[np.float64], k: int) -> Sample:
        chosen = best_of(groups, order_by, window, k)
        values = np.zeros((len(chosen), shape.window_tokens), np.float32)
        entries = np.repeat(begins[chosen] - np.concatenate([[0], np.cumsum(lengths[chosen])[:-1]]), lengths[chosen])
        entries += np.arange(len(entries))
        row = np.repeat(np.arange(len(chosen)), lengths[chosen])
        values[row, positions[entries] % shape.window_tokens] = records.activations[entries]
        return Sample(groups[chosen], order_by[chosen], window[chosen], values)

    drawn = priorities(derive_seed(shape.seed, source, "spread"), of_latent + records.start, window)
    in_octave = of_latent * N_OCTAVES + octave
    octaves = np.bincount(in_octave, minlength=records.n_latents * N_OCTAVES).reshape(empty.octaves.shape)
    place = np.searchsorted(pool, window)
    pooled = np.append(pool, -1)[place] == window
    empty.fired_in_pool[of_latent[pooled], place[pooled]] = True
    return Reservoir(
        records.start,
        sample(of_latent, maximum, shape.top),
        sample(in_octave, drawn, shape.per_octave),
        records.counts,
        octaves,
        pool,
        empty.fired_in_pool,
    )


def merge_reservoirs(reservoirs: Sequence[Reservoir], shape: ReservoirShape) -> Reservoir:
    """What disjoint parts show together, of the same latents of the same source."""
    first = reservoirs[0]
    return Reservoir(
        first.start,
        merged([reservoir.top for reservoir in reservoirs], shape.top),
        merged([reservoir.spread for reservoir in reservoirs], shape.per_octave),
        np.sum([reservoir.fired_tokens for reservoir in reservoirs], axis=0),
        np.sum([reservoir.octaves for reservoir in reservoirs], axis=0),
        first.pool,
        np.any([reservoir.fired_in_pool for reservoir in reservoirs], axis=0),
    )


def silent_windows(reservoir: Reservoir, latent: int, source: str, seed: int) -> NDArray[np.int64]:
    """Exemplar windows of the pool in which a latent does not fire, in an order of its own."""
    quiet = reservoir.pool[~reservoir.fired_in_pool[latent - reservoir.start]]
    drawn = priorities(derive_seed(seed, source, "silence"), np.array([latent]), quiet)
    return quiet[np.argsort(-drawn, kind="stable")]


def octave_of(maximum: NDArray[np.float64]) -> NDArray[np.int64]:
    """Octaves of positive activations."""
    _, exponent = np.frexp(maximum)  # m * 2^e with m in [0.5, 1)
    return np.clip(exponent - 1 - LOWEST_OCTAVE, 0, N_OCTAVES - 1).astype(np.int64)


def tensors_of(reservoir: Reservoir) -> dict[str, NDArray[Any]]:
    """As named arrays, for storing."""
    return {
        "start": np.array([reservoir.start]),
        **{f"top.{name}": getattr(reservoir.top, name) for name in _SAMPLE},
        **{f"spread.{name}": getattr(reservoir.spread, name) for name in _SAMPLE},
        **{name: getattr(reservoir, name) for name in _ARRAYS},
    }


def reservoir_from(tensors: Mapping[str, NDArray[Any]]) -> Reservoir:
    """From what `tensors_of` gave."""
    top, spread = (Sample(*(tensors[f"{kind}.{name}"] for name in _SAMPLE)) for kind in ("top", "spread"))
    return Reservoir(int(tensors["start"][0]), top, spread, *(tensors[name] for name in _ARRAYS))
