"""Where a job's examples come from: a cache of activations, made first if it is not there.

    job -> cache by name, below the folders of the host --make--> finished --> latent -> exemplars -> sampler -> record

A cache that was begun is gone on with, by whoever needs it next; of two jobs that need the same one, one makes it while
the other waits. A baseline's random SAE has a cache of its own beside the true one, over the same texts.

Files are read in one thread per job: neither blocks the event loop, and readers need no locks. A few records are
remembered, since a latent's stages ask for it one after another.

Deliberately not here: making caches (`core.autointerp.caching`), and choosing examples (`core.autointerp.sampling`).
"""

import asyncio
import re
from collections import OrderedDict
from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from threading import Event, Lock
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from core.autointerp.caching.exemplars import ExemplarReader
from core.autointerp.caching.library import catalogue_tokenizer
from core.autointerp.caching.manifest import FILE_NAME
from core.autointerp.caching.progress import CachingProgress
from core.autointerp.caching.stored import StoredCache
from core.autointerp.examples import Example, FeatureName, FeatureRecord
from core.autointerp.jobs.choices import CacheMaking
from core.autointerp.jobs.sources import is_random, split_source
from core.autointerp.jobs.specification import JobSpec
from core.autointerp.legacy_sampling import sample_as_delphi
from core.autointerp.sampling import sample
from core.catalogue.catalogue import SourceFilter
from core.errors import InvalidRequest, NotFound, Unavailable
from core.prompts import PromptTokenizer

if TYPE_CHECKING:
    from core.autointerp.caching.specification import CachingSpec
    from core.autointerp.jobs.similar_features import SimilarFeatures

_RECORDS_KEPT: Final = 256
_READERS_KEPT: Final = 4
_SILENT_PER_WANTED: Final = 2

MakeCache = Callable[["CachingSpec", Callable[[CachingProgress], None]], Any]
"""Makes what is missing of a cache, and blocks until it is there; what its second argument raises stops it."""


class _NotWanted(Exception):
    """Nobody waits for the cache any more."""


class Caches:
    """The caches that jobs read; opens the latents of a job.

    Args:
        folders: Folders with caches, by name; those that are made go into the first.
        make: Makes caches; None: they have to be there.
        tokenizer_of: The tokenizer of a model id.
    """

    def __init__(
        self,
        folders: Sequence[Path],
        make: MakeCache | None,
        tokenizer_of: Callable[[str], PromptTokenizer] = catalogue_tokenizer,
    ) -> None:
        self._folders = tuple(folders)
        self._make = make
        self._tokenizer_of = tokenizer_of
        self._making: dict[Path, Lock] = {}

    async def open(self, spec: JobSpec, report: Callable[[CachingProgress], None]) -> "CachedFeatures":
        """The latents of a job.

        Args:
            spec: The job.
            report: Is told how far its cache is, on any thread.

        Raises:
            NotFound: There is no such cache, and the job does not say how to make it.
            RayscopeError: It could not be made.
        """
        wanted = Event()
        wanted.set()

        def tell(progress: CachingProgress) -> None:
            if not wanted.is_set():
                raise _NotWanted
            report(progress)

        try:
            return await asyncio.to_thread(self._open, spec, tell)
        except asyncio.CancelledError:
            wanted.clear()
            raise

    def _open(self, spec: JobSpec, report: Callable[[CachingProgress], None]) -> "CachedFeatures":
        cache = self._finished(spec, spec.sources, spec.cache.name, report)
        beside = tuple(source for source in spec.all_sources() if is_random(source))
        random = self._finished(spec, beside, f"{spec.cache.name}.random-{spec.seed}", report) if beside else None
        return CachedFeatures(spec, cache, random, self._tokenizer_of(cache.model))

    def _finished(
        self, spec: JobSpec, sources: Sequence[str], name: str, report: Callable[[CachingProgress], None]
    ) -> StoredCache:
        """A cache, made if need be. Runs in a thread."""
        found = next((root / name for root in self._folders if (root / name / FILE_NAME).is_file()), None)
        folder = found or self._folders[0] / name
        with self._making.setdefault(folder, Lock()):
            try:
                cache = StoredCache.open(folder)
            except (InvalidRequest, Unavailable):
                cache = None
            if cache is None:
                if spec.cache.make is None or self._make is None:
                    raise NotFound(
                        f"There is no cache of activations called '{name}'.",
                        "Say in the job how to make it." if self._make else "Caches have to be made beforehand here.",
                    )
                self._make(caching_spec(spec, spec.cache.make, sources, folder), report)
                cache = StoredCache.open(folder)
        missing = [source for source in sources if source not in cache.sources]
        if missing:
            raise InvalidRequest(
                f"The cache '{name}' has no activations of {', '.join(missing)}.",
                f"It has {', '.join(cache.sources)}. Give the job's cache another name.",
            )
        return cache


def caching_spec(spec: JobSpec, make: CacheMaking, sources: Sequence[str], folder: Path) -> "CachingSpec":
    """How the cache of some sources of a job is made; random ones are written beside it first."""
    from core.autointerp.caching.specification import CachingSpec

    folders: Mapping[str, str] = make.set_folders
    if any(is_random(source) for source in sources):
        from core.autointerp.jobs.random_sae import random_sets

        folders = random_sets(
            spec.model, sources, make.set_folders, folder.with_suffix(f"{folder.suffix}.saes"), spec.seed
        )
    return CachingSpec(
        model=spec.model,
        source_sets=tuple(dict.fromkeys(split_source(source)[1] for source in sources)),
        texts=make.texts,
        n_tokens=make.n_tokens,
        folder=str(folder),
        windows=make.windows,
        reservoirs=make.reservoirs,
        wanted=SourceFilter(include=tuple(f"^{re.escape(source)}$" for source in sources)),
        set_folders=folders,
        threshold=make.threshold,
        latents_per_range=make.latents_per_range,
        device=make.device,
        dtype=make.dtype,
    )


class CachedFeatures:
    """The latents of a job, read from its caches; see `core.autointerp.jobs.work.Features`.

    Args:
        spec: The job.
        cache: Activations of its sources.
        random: Those of a random SAE, if there is one.
        tokenizer: The model's.
    """

    def __init__(
        self, spec: JobSpec, cache: StoredCache, random: StoredCache | None, tokenizer: PromptTokenizer
    ) -> None:
        self._spec = spec
        self._cache = cache
        self._random = random
        self._tokenizer = tokenizer
        self._thread = ThreadPoolExecutor(1, "records")
        self._readers: OrderedDict[tuple[str, int], ExemplarReader] = OrderedDict()
        self._records: OrderedDict[FeatureName, FeatureRecord | str] = OrderedDict()
        self._similar: SimilarFeatures | None = None

    def n_latents(self, source: str) -> int:
        """Latents of a source."""
        return self._of(source).n_latents(source)

    def alive(self, source: str) -> Collection[int]:
        """Those that fire. Reads every range of the source."""
        cache = self._of(source)
        found: list[int] = []
        for start in cache.starts(source):
            reservoir = cache.range_of(source, start).reservoir
            found += (np.flatnonzero(reservoir.fired_tokens > 0) + start).tolist()
        return found

    async def record(self, name: FeatureName) -> FeatureRecord | str:
        """A latent's examples, or why there are none."""
        return await asyncio.get_running_loop().run_in_executor(self._thread, self.read, name)

    def read(self, name: FeatureName) -> FeatureRecord | str:
        """The same in this thread; for one thread at a time."""
        if name not in self._records:
            self._records[name] = self._read(name)
            if len(self._records) > _RECORDS_KEPT:
                self._records.popitem(last=False)
        return self._records[name]

    async def aclose(self) -> None:
        """Lets go of the thread, after what it does."""
        self._thread.shutdown(wait=False, cancel_futures=True)

    def _read(self, name: FeatureName) -> FeatureRecord | str:
        sampling = self._spec.sampling
        settings = sampling.settings
        known = self._reader(name).exemplars(name.source, name.index, settings.n_silent * _SILENT_PER_WANTED)
        if not known.active:
            return f"{name} never fires in the cache."
        if sampling.sampler == "delphi-legacy":
            record = sample_as_delphi(name, known.active, known.silent, settings)
            return replace(record, top_logits=known.top_logits, bottom_logits=known.bottom_logits)
        silent = self._near(name, settings.n_silent) if sampling.silent == "similar-features" else ()
        try:
            return sample(
                name,
                known.active,
                _filled(silent, known.silent, settings.n_silent),
                settings,
                top_logits=known.top_logits,
                bottom_logits=known.bottom_logits,
            )
        except InvalidRequest as error:
            return error.message

    def _near(self, name: FeatureName, wanted: int) -> Sequence[Example]:
        from core.autointerp.jobs.similar_features import SimilarFeatures

        if self._similar is None:
            make = self._spec.cache.make
            self._similar = SimilarFeatures(self._spec.model, {} if make is None else make.set_folders, self._tokenizer)
        return self._similar.silent_examples(self._of(name.source), name, wanted)

    def _reader(self, name: FeatureName) -> ExemplarReader:
        """Each reader keeps one range; scores trail behind explanations, so a few ranges are in use at once."""
        cache = self._of(name.source)
        starts = cache.starts(name.source)
        key = (name.source, name.index // starts.step)
        if key not in self._readers:
            self._readers[key] = ExemplarReader(cache, self._tokenizer, self._spec.sampling.settings.n_quantiles)
            if len(self._readers) > _READERS_KEPT:
                self._readers.popitem(last=False)
        self._readers.move_to_end(key)
        return self._readers[key]

    def _of(self, source: str) -> StoredCache:
        return self._random if self._random is not None and is_random(source) else self._cache


def _filled(hard: Sequence[Example], random: Sequence[Example], wanted: int) -> Sequence[Example]:
    """Hard examples, and random ones where there are too few of them."""
    return [*hard[:wanted], *random[: max(0, wanted - len(hard))]] if hard else random
