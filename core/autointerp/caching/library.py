"""The finished caches below some folders: which features examples are known of, and those examples.

    folders --look--> caches by (model, source) --open--> ExemplarReader --> Exemplars of one feature

Caches come while a server runs, so the folders are looked through again and again, cheaply: a manifest that has not
changed is not read again, and nothing below a cache is entered. A cache whose job still runs is not one yet. Of two
caches of one source the one over more tokens is read, then the one that was finished later.

Opening waits for the first request; so many readers are remembered, each with the tokens of its cache and one range of
latents. Any number of threads may ask at once.

Deliberately not here: making caches (`job`), and removing them.
"""

import os
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from threading import Lock

from core.autointerp.caching.exemplars import ExemplarReader, Exemplars
from core.autointerp.caching.manifest import FILE_NAME, Manifest
from core.autointerp.caching.stored import StoredCache
from core.autointerp.examples import FeatureName
from core.catalogue.catalogue import find_model, weights_location
from core.clock import SYSTEM_CLOCK, Clock
from core.errors import NotFound, RayscopeError, Unavailable
from core.prompts import PromptTokenizer

_Stamp = tuple[int, int, int]


@dataclass(frozen=True, slots=True)
class CachedSource:
    """A source that examples are known of.

    Attributes:
        model: Model id.
        source: Source id.
        n_latents: Its latents.
        n_tokens: Tokens of the corpus.
        folder: The cache.
    """

    model: str
    source: str
    n_latents: int
    n_tokens: int
    folder: Path


@dataclass(frozen=True, slots=True)
class _Seen:
    """A folder with a manifest.

    Attributes:
        stamp: The manifest's file number, size and time of change, by which a change is noticed.
        cache: What it says, finished or not; None if it is damaged.
        finished: Whether the job has finished.
    """

    stamp: _Stamp
    cache: StoredCache | None
    finished: bool


@dataclass(frozen=True, slots=True)
class _Found:
    """A cache with its place and time."""

    folder: Path
    stamp: _Stamp
    cache: StoredCache
    finished: bool

    @property
    def rank(self) -> tuple[bool, int, int, str]:
        """What the better cache of a source has more of."""
        return self.finished, self.cache.n_windows * self.cache.context_tokens, self.stamp[2], str(self.folder)


def catalogue_tokenizer(model: str) -> PromptTokenizer:
    """The tokenizer of a model by its id."""
    return PromptTokenizer.load(weights_location(find_model(model).weights))


class ActivationCaches:
    """All finished caches below some folders.

    Args:
        folders: Each a cache, or a folder with caches at any depth; it need not exist yet.
        tokenizer_of: Gives the tokenizer of a model id. A model that was cached from a local folder is known by that
            folder's name alone, so its tokenizer has to come from whoever configured it.
        n_quantiles: In how many parts a feature's range is cut.
        max_readers: Readers remembered.
        refresh_s: Seconds for which what was seen in the folders is believed; a source that is missing is looked for
            at once.
        clock: Measures that.
    """

    def __init__(
        self,
        folders: Sequence[Path | str],
        *,
        tokenizer_of: Callable[[str], PromptTokenizer] = catalogue_tokenizer,
        n_quantiles: int = 10,
        max_readers: int = 8,
        refresh_s: float = 5.0,
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        self._folders = [Path(folder) for folder in folders]
        self._tokenizer_of = tokenizer_of
        self._n_quantiles = n_quantiles
        self._max_readers = max_readers
        self._refresh_s = refresh_s
        self._clock = clock
        self._seen: dict[Path, _Seen] = {}
        self._looked_s: float | None = None
        self._looking = Lock()
        self._readers: OrderedDict[tuple[Path, _Stamp, str], ExemplarReader] = OrderedDict()
        self._tokenizers: dict[str, PromptTokenizer] = {}
        self._opening = Lock()

    def sources(self) -> tuple[CachedSource, ...]:
        """Every source of a finished cache, by model and source."""
        best: dict[tuple[str, str], CachedSource] = {}
        for found in self._all():
            if found.finished:
                cache = found.cache
                n_tokens = cache.n_windows * cache.context_tokens
                for source in cache.sources:
                    best[cache.model, source] = CachedSource(
                        cache.model, source, cache.n_latents(source), n_tokens, found.folder
                    )
        return tuple(best[key] for key in sorted(best))

    def cache(self, model: str, source: str) -> StoredCache:
        """The cache of a source.

        Args:
            model: Any name of the model.
            source: Source id.

        Raises:
            NotFound: No cache of it was made; the hint lists those that were.
            Unavailable: One is being made.
        """
        return self._found(model, source).cache

    def reader(self, model: str, source: str) -> ExemplarReader:
        """The examples of a source, quickest when features are asked for in order. Raises as `cache` does."""
        found = self._found(model, source)
        key = (found.folder, found.stamp, source)
        with self._opening:
            reader = self._readers.get(key)
            if reader is None:
                reader = ExemplarReader(found.cache, self._tokenizer(found.cache.model), self._n_quantiles)
                self._readers[key] = reader
            self._readers.move_to_end(key)
            while len(self._readers) > self._max_readers:
                self._readers.popitem(last=False)
        return reader

    def exemplars(self, name: FeatureName, n_silent: int = 100) -> Exemplars:
        """A feature's examples. Reads files, so not for an event loop.

        Raises:
            NotFound: No cache of its source was made.
            Unavailable: One is being made.
            InvalidRequest: There is no such latent.
        """
        return self.reader(name.model, name.source).exemplars(name.source, name.index, n_silent)

    def _found(self, model: str, source: str) -> _Found:
        ids = {model, find_model(model).id}
        for fresh in (False, True):
            of_source = [
                found for found in self._all(fresh=fresh) if found.cache.model in ids and source in found.cache.sources
            ]
            if of_source and of_source[-1].finished:
                return of_source[-1]
        if of_source:
            raise Unavailable(
                f"The activations of source '{source}' of {model} are still being cached.",
                "Ask again when the caching job has finished.",
            )
        known = ", ".join(f"{cached.model}/{cached.source}" for cached in self.sources())
        raise NotFound(
            f"No activations of source '{source}' of {model} are cached.",
            f"Run a caching job for it, or send activations. Cached are {known}."
            if known
            else "Nothing is cached yet: run a caching job, or send activations.",
        )

    def _all(self, *, fresh: bool = False) -> list[_Found]:
        """All caches that can be read, the best last."""
        with self._looking:
            now_s = self._clock.monotonic()
            if fresh or self._looked_s is None or now_s - self._looked_s >= self._refresh_s:
                self._seen = dict(self._look())
                self._looked_s = now_s
                self._forget_readers()
            readable = [
                _Found(folder, seen.stamp, seen.cache, seen.finished)
                for folder, seen in self._seen.items()
                if seen.cache is not None
            ]
        return sorted(readable, key=lambda found: found.rank)

    def _look(self) -> Iterator[tuple[Path, _Seen]]:
        for root in self._folders:
            for folder in _cache_folders(root):
                try:
                    status = (folder / FILE_NAME).stat()
                except OSError:
                    continue  # removed meanwhile
                stamp = (status.st_ino, status.st_size, status.st_mtime_ns)
                before = self._seen.get(folder)
                yield folder, before if before is not None and before.stamp == stamp else _read(folder, stamp)

    def _forget_readers(self) -> None:
        """Lets go of the readers of caches that were removed or made anew."""
        present = {(folder, seen.stamp) for folder, seen in self._seen.items()}
        with self._opening:
            for key in [key for key in self._readers if key[:2] not in present]:
                del self._readers[key]

    def _tokenizer(self, model: str) -> PromptTokenizer:
        tokenizer = self._tokenizers.get(model)
        if tokenizer is None:
            tokenizer = self._tokenizers[model] = self._tokenizer_of(model)
        return tokenizer


def _cache_folders(root: Path) -> Iterator[Path]:
    for name, below, files in os.walk(root):
        if FILE_NAME in files:
            below.clear()
            yield Path(name)


def _read(folder: Path, stamp: _Stamp) -> _Seen:
    try:
        cache = StoredCache(Manifest.read(folder))
    except (RayscopeError, OSError, KeyError, TypeError):
        return _Seen(stamp, None, finished=False)
    return _Seen(stamp, cache, cache.is_finished)
