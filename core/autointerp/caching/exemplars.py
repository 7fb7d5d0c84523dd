"""From a cache to what samplers draw from: a feature's examples with the texts of their tokens.

Quantiles are those of the windows in which the feature fires, by their maximum, in equal counts. The strongest windows
have an exact rank. A random window has an estimated one: the counts say how many windows lie in weaker octaves, and
its place among those drawn from its octave says where in that it is.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from threading import Lock

import numpy as np
from numpy.typing import NDArray

from core.autointerp.caching.reservoirs import N_OCTAVES, Reservoir, silent_windows
from core.autointerp.caching.stored import Range, StoredCache
from core.autointerp.examples import Example, FeatureName
from core.prompts import PromptTokenizer


@dataclass(frozen=True, slots=True)
class Exemplars:
    """What a cache knows of a feature.

    Attributes:
        name: Which feature.
        active: Windows in which it fires, strongest first, no text twice, each with its quantile.
        silent: Windows in which it does not, in random order.
        fired_tokens: Tokens at which it fires.
        fired_windows: Exemplar windows in which it fires.
        n_windows: Exemplar windows of the corpus.
        octaves: Exemplar windows by octave of their maximum (`reservoirs`).
        top_logits: Tokens that it raises most; none where it does not write to the residual stream.
        top_values: By how much, per unit.
        bottom_logits: Tokens that it lowers most.
        bottom_values: By how much, per unit.
    """

    name: FeatureName
    active: tuple[Example, ...]
    silent: tuple[Example, ...]
    fired_tokens: int
    fired_windows: int
    n_windows: int
    octaves: tuple[int, ...]
    top_logits: tuple[str, ...]
    top_values: tuple[float, ...]
    bottom_logits: tuple[str, ...]
    bottom_values: tuple[float, ...]


class ExemplarReader:
    """Reads examples out of a cache. Keeps the range of latents that was asked for last; threads may share it.

    Args:
        cache: The cache.
        tokenizer: The model's.
        n_quantiles: In how many parts a feature's range is cut.
    """

    def __init__(self, cache: StoredCache, tokenizer: PromptTokenizer, n_quantiles: int = 10) -> None:
        self._cache = cache
        self._tokenizer = tokenizer
        self._n_quantiles = n_quantiles
        self._last: tuple[str, Range] | None = None
        self._reading = Lock()

    def exemplars(self, source: str, latent: int, n_silent: int = 100) -> Exemplars:
        """A feature's examples; none are active if it never fired.

        Raises:
            InvalidRequest: There is no such latent.
            NotFound: The source was not cached.
        """
        found = self._range(source, latent)
        reservoir, effects = found.reservoir, found.effects
        place = latent - reservoir.start
        quiet = silent_windows(reservoir, latent, source, self._cache.seed)[:n_silent]
        zeros = np.zeros(self._cache.window_tokens, np.float32)
        return Exemplars(
            name=FeatureName(self._cache.model, source, latent),
            active=_distinct(
                self._example(window, values, quantile) for window, values, quantile in self._active(reservoir, place)
            ),
            silent=_distinct(self._example(int(window), zeros, None) for window in quiet),
            fired_tokens=int(reservoir.fired_tokens[place]),
            fired_windows=int(reservoir.fired_windows[place]),
            n_windows=self._cache.n_windows * (self._cache.context_tokens // self._cache.window_tokens),
            octaves=tuple(reservoir.octaves[place].tolist()),
            top_logits=self._texts(effects and effects.top_tokens[place]),
            top_values=() if effects is None else tuple(effects.top_values[place].tolist()),
            bottom_logits=self._texts(effects and effects.bottom_tokens[place]),
            bottom_values=() if effects is None else tuple(effects.bottom_values[place].tolist()),
        )

    def _texts(self, ids: NDArray[np.int32] | None) -> tuple[str, ...]:
        return () if ids is None else self._tokenizer.str_tokens(ids.tolist())

    def _range(self, source: str, latent: int) -> Range:
        with self._reading:
            if self._last is not None:
                last_source, last = self._last
                if source == last_source and 0 <= latent - last.reservoir.start < last.reservoir.n_latents:
                    return last
            found = self._cache.range_of(source, latent)
            self._last = (source, found)
            return found

    def _active(self, reservoir: Reservoir, place: int) -> list[tuple[int, NDArray[np.float32], int]]:
        """Windows with their values and quantiles, strongest first."""
        counts = reservoir.octaves[place]
        total = int(counts.sum())
        found: dict[int, tuple[NDArray[np.float32], float]] = {}
        for octave in range(N_OCTAVES):
            drawn = reservoir.spread.of(place * N_OCTAVES + octave)
            values, windows = reservoir.spread.values[drawn], reservoir.spread.windows[drawn]
            below, share = int(counts[:octave].sum()), int(counts[octave]) / max(len(windows), 1)
            for nth, at in enumerate(np.argsort(values.max(1), kind="stable") if len(windows) else ()):
                found[int(windows[at])] = (values[at], below + (nth + 0.5) * share)
        top = reservoir.top.of(place)
        strongest = zip(reservoir.top.windows[top], reservoir.top.values[top], strict=True)
        for nth, (window, values) in enumerate(strongest):
            found[int(window)] = (values, total - nth - 0.5)
        ranked = sorted(found.items(), key=lambda item: (-float(item[1][0].max()), item[0]))
        return [
            (window, values, min(int(rank / total * self._n_quantiles), self._n_quantiles - 1) + 1)
            for window, (values, rank) in ranked
        ]

    def _example(self, window: int, values: NDArray[np.float32], quantile: int | None) -> Example:
        """Without BOS, at which nothing is recorded and which is not text."""
        ids = self._cache.window(window)
        text = ids != self._tokenizer.bos_id if len(ids) > 1 else np.ones(len(ids), np.bool_)
        tokens = self._tokenizer.str_tokens(ids[text].tolist())
        return Example(tokens, tuple(values[text].tolist()), quantile)


def _distinct(examples: Iterable[Example]) -> tuple[Example, ...]:
    """Each text once, as it comes first."""
    found: dict[tuple[str, ...], Example] = {}
    for example in examples:
        found.setdefault(example.tokens, example)
    return tuple(found.values())
