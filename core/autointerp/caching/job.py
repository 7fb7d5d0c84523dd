"""A caching job: from a specification to a folder with records, reservoirs and a manifest.

    texts -> token parts --record--> records           one forward pass per batch for all sources
    records, by latent range --distil--> reservoirs

`CachingJob` knows what there is to do and what of it is done; `cache_activations` does it in one process, and
`deployments.autointerp.caching` on a cluster. Stopped anywhere and started again with the same specification, by
either, a job makes what is missing and nothing else, and the finished cache has the same bytes as an undisturbed
run's. A finished cache is known without loading the model.
"""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np

from core.autointerp.caching.corpus import TokenPart, documents, token_parts
from core.autointerp.caching.loaded import Loaded
from core.autointerp.caching.manifest import Manifest, Unit
from core.autointerp.caching.parts import is_present, read_tensors
from core.autointerp.caching.progress import CachingProgress, Meter
from core.autointerp.caching.specification import CachingSpec, described
from core.autointerp.caching.stages import part_name, range_name, tokens_path
from core.catalogue.catalogue import find_sources
from core.catalogue.sources import Source
from core.clock import SYSTEM_CLOCK, Clock
from core.errors import InvalidRequest, Unavailable
from core.prompts import PromptTokenizer


@dataclass(frozen=True, slots=True)
class CachingResult:
    """What a job came to.

    Attributes:
        windows: Windows of the corpus that were read.
        records: Activations kept, by source.
        alive: Latents that fired at all, by source.
    """

    windows: int
    records: Mapping[str, int]
    alive: Mapping[str, int]


class CachingJob:
    """A job that was begun, as its one driver knows it.

    Attributes:
        spec: What is to be cached.
        sources: The sources.
    """

    def __init__(self, spec: CachingSpec, sources: Sequence[Source], manifest: Manifest) -> None:
        self.spec = spec
        self.sources = tuple(sources)
        self._manifest = manifest

    @classmethod
    def begin(cls, spec: CachingSpec, *, check_sums: bool = False) -> Self:
        """Begins a job, or goes on with one.

        Args:
            spec: What and where.
            check_sums: Whether to read all that is cached already and make again what is damaged.

        Raises:
            InvalidRequest: The specification can not be met, or the folder holds another job's cache.
            NotFound: The model has no such source set.
        """
        sources = find_sources(spec.model, spec.source_sets, spec.set_folders, spec.wanted)
        if not sources:
            raise InvalidRequest("No source is left to cache.", "Loosen the filter on source ids.")
        manifest = Manifest.open(Path(spec.folder), described(spec, sources))
        if check_sums:
            manifest.forget(manifest.damaged())
        return cls(spec, sources, manifest)

    @property
    def parts(self) -> list[Unit]:
        """Parts that were recorded."""
        return self._manifest.units("part")

    @property
    def n_latents(self) -> int:
        """Latents of all sources."""
        return sum(source.d_sae for source in self.sources)

    def ranges(self) -> Iterator[tuple[str, range, bool]]:
        """What is distilled together: source id, latents, and whether it was done."""
        for source in self.sources:
            for start in range(0, source.d_sae, self.spec.latents_per_range):
                latents = range(start, min(start + self.spec.latents_per_range, source.d_sae))
                yield source.id, latents, range_name(source.id, start) in self._manifest

    def add(self, unit: Unit) -> None:
        """Enters what a worker made.

        Raises:
            Unavailable: Its files are not here.
        """
        if not all(is_present(self._manifest.folder, file) for file in unit.files):
            raise Unavailable(
                "What a worker wrote is not in the cache's folder here.",
                "On several machines the folder must be one that all of them see.",
            )
        self._manifest.add(unit)

    def finish(self) -> CachingResult:
        """Puts the manifest in order.

        Raises:
            InvalidRequest: There was less text than one window.
        """
        parts = sorted(self.parts, key=lambda part: part.counts["first_window"])
        if not parts:
            raise InvalidRequest("The corpus is shorter than one window.", "Use more text or shorter windows.")
        ranges = [range_name(source, latents.start) for source, latents, _ in self.ranges()]
        self._manifest.settle([*(part.name for part in parts), *ranges])
        return CachingResult(
            sum(part.counts["windows"] for part in parts),
            {source.id: sum(part.counts[f"records/{source.id}"] for part in parts) for source in self.sources},
            {
                source.id: sum(unit.counts["alive"] for unit in self._manifest.units(f"reservoir/{source.id}"))
                for source in self.sources
            },
        )


def parts_of(
    spec: CachingSpec, tokenizer: PromptTokenizer, recorded: Collection[str]
) -> Iterator[tuple[TokenPart, bool]]:
    """The parts of a job's corpus, in order, each with whether it was recorded.

    Args:
        spec: The job.
        tokenizer: The model's.
        recorded: Names of the parts that were.

    Raises:
        InvalidRequest: The texts can not be read, or are not those that were recorded: half of the cache would be
            about one corpus and half about another.
        Unavailable: The texts could not be had.
    """
    for part in token_parts(documents(spec.texts), tokenizer, spec.windows, spec.n_windows):
        is_recorded = part_name(part.number) in recorded
        if is_recorded:
            stored = read_tensors(Path(spec.folder), tokens_path(part.number))["tokens"]
            if not np.array_equal(stored, part.tokens):
                raise InvalidRequest(
                    f"The texts have changed since part {part.number} was cached.",
                    "Cache the changed texts into another folder.",
                )
        yield part, is_recorded


def cache_activations(
    spec: CachingSpec,
    report: Callable[[CachingProgress], None] = lambda _: None,
    *,
    check_sums: bool = False,
    clock: Clock = SYSTEM_CLOCK,
) -> CachingResult:
    """Caches what is not cached yet, in this process.

    Args:
        spec: What and where.
        report: Is told after every part and every range, on this thread. What it raises stops the job, which can be
            gone on with.
        check_sums: Whether to read all that is cached already and make again what is damaged.
        clock: Measures the rate.

    Raises:
        InvalidRequest: The specification can not be met, or the folder holds another job's cache.
        NotFound: The model has no such source set.
        TooLarge: A part has more activations than may be kept.
        Unavailable: Texts or weights could not be had.
    """
    job = CachingJob.begin(spec, check_sums=check_sums)
    loaded = Loaded(spec, job.sources)
    recording = Meter("recording", spec.n_windows, report, clock, spec.windows.context_tokens)
    for part, is_recorded in parts_of(spec, loaded.tokenizer, {part.name for part in job.parts}):
        if is_recorded:
            recording.found(len(part.tokens))
        else:
            if not recording.is_running:
                loaded.prepare()
                recording.start()
            job.add(loaded.record(part))
            recording.made(len(part.tokens))
    distilling = Meter("distilling", job.n_latents, report, clock)
    distilling.start()
    parts = job.parts
    for source, latents, is_distilled in job.ranges() if parts else ():
        if is_distilled:
            distilling.found(len(latents))
        else:
            job.add(loaded.distil(parts, source, latents))
            distilling.made(len(latents))
    return job.finish()
