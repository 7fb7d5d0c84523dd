"""A finished cache, read: tokens, records and reservoirs by source and latent.

Tokens are held whole once asked for, four bytes each; everything else is read as needed.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from functools import cached_property
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from core.autointerp.caching.logits import TokenEffects
from core.autointerp.caching.manifest import Manifest, Unit
from core.autointerp.caching.parts import read_records, read_tensors
from core.autointerp.caching.records import Records
from core.autointerp.caching.reservoirs import Reservoir, reservoir_from
from core.autointerp.caching.stages import range_name, reservoir_path
from core.errors import InvalidRequest, NotFound, Unavailable


@dataclass(frozen=True, slots=True)
class Range:
    """Latents that were distilled together.

    Attributes:
        reservoir: What is remembered of them.
        effects: Which tokens they raise and lower most; None where they do not write to the residual stream.
    """

    reservoir: Reservoir
    effects: TokenEffects | None


class StoredCache:
    """The cache in a folder."""

    def __init__(self, manifest: Manifest) -> None:
        self._manifest = manifest
        self._folder = manifest.folder
        job = manifest.job
        self.model: str = job["model"]
        self.context_tokens: int = job["windows"]["context_tokens"]
        self.window_tokens: int = job["reservoirs"]["window_tokens"]
        self.seed: int = job["reservoirs"]["seed"]
        self._sources: Mapping[str, Any] = job["sources"]
        self._per_range: int = job["latents_per_range"]

    @classmethod
    def open(cls, folder: Path) -> Self:
        """Opens a cache.

        Raises:
            InvalidRequest: There is none.
            Unavailable: Its job has not finished.
        """
        cache = cls(Manifest.read(folder))
        if not cache.is_finished:
            raise Unavailable("The caching job has not finished.", "Run it again on the same folder: it goes on.")
        return cache

    @property
    def is_finished(self) -> bool:
        """Whether every range of every source has been distilled, which is done last."""
        return all(
            range_name(source, start) in self._manifest for source in self.sources for start in self.starts(source)
        )

    @property
    def sources(self) -> tuple[str, ...]:
        """Source ids."""
        return tuple(self._sources)

    @property
    def job(self) -> Mapping[str, Any]:
        """What was asked for, as the manifest has it."""
        return self._manifest.job

    def n_latents(self, source: str) -> int:
        """Latents of a source.

        Raises:
            NotFound: It was not cached.
        """
        if source not in self._sources:
            raise NotFound(f"Source '{source}' was not cached.", f"Cached are {', '.join(self._sources)}.")
        return self._sources[source]["n_latents"]

    def starts(self, source: str) -> range:
        """First latents of the ranges of a source."""
        return range(0, self.n_latents(source), self._per_range)

    @cached_property
    def parts(self) -> list[Unit]:
        """All parts, by number."""
        return sorted(self._manifest.units("part"), key=lambda part: part.counts["first_window"])

    @cached_property
    def tokens(self) -> NDArray[np.int32]:
        """All windows, `[windows, context]`."""
        return np.concatenate([read_tensors(self._folder, part.files[0].path)["tokens"] for part in self.parts])

    @property
    def n_windows(self) -> int:
        """Windows that were read."""
        return sum(part.counts["windows"] for part in self.parts)

    def window(self, number: int) -> NDArray[np.int32]:
        """Token ids of an exemplar window, `[window]`."""
        row, place = divmod(number, self.context_tokens // self.window_tokens)
        return self.tokens[row, place * self.window_tokens : (place + 1) * self.window_tokens]

    def range_of(self, source: str, latent: int) -> Range:
        """The range that a latent is in.

        Raises:
            InvalidRequest: There is no such latent.
            NotFound: The source was not cached.
        """
        n_latents = self.n_latents(source)
        if not 0 <= latent < n_latents:
            raise InvalidRequest(
                f"Feature index {latent} is out of range for {source}, which has {n_latents} features",
                f"Use an index from 0 to {n_latents - 1}.",
            )
        start = latent - latent % self._per_range
        path = reservoir_path(source, start, min(start + self._per_range, n_latents))
        tensors = read_tensors(self._folder, path)
        names = [field.name for field in fields(TokenEffects)]
        effects = (
            TokenEffects(*(tensors[f"effects.{name}"] for name in names)) if "effects.top_tokens" in tensors else None
        )
        return Range(reservoir_from(tensors), effects)

    def records(self, source: str, latents: range) -> Iterator[tuple[int, Records]]:
        """Records of a range of latents, part by part, each with the number of the part's first window."""
        self.n_latents(source)
        for part in self.parts:
            file = next(file for file in part.files if file.path.startswith(f"records/{source}/"))
            yield part.counts["first_window"], read_records(self._folder, file.path, latents.start, latents.stop)
