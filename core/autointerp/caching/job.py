"""A caching job in one process: from a specification to a folder with records, reservoirs and a manifest.

    texts -> token parts --record_part--> records      one forward pass per batch for all sources
    records, by latent range --distil_range--> reservoirs

Stopped anywhere and started again with the same specification it makes what is missing and nothing else, and the
result has the same bytes as an undisturbed run. A finished cache is told so without loading the model.
"""

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np

from core.autointerp.caching.corpus import Texts, TokenPart, WindowShape, documents, token_parts
from core.autointerp.caching.logits import token_effects
from core.autointerp.caching.manifest import Manifest
from core.autointerp.caching.parts import read_tensors
from core.autointerp.caching.recording import Recorder, RecordingLimits
from core.autointerp.caching.reservoirs import ReservoirShape
from core.autointerp.caching.stages import distil_range, part_name, range_name, record_part, tokens_path
from core.catalogue.catalogue import SourceFilter, find_model, find_sources, weights_location
from core.catalogue.sources import Source
from core.clock import SYSTEM_CLOCK, Clock
from core.engine.model import EagerModel
from core.errors import InvalidRequest
from core.prompts import PromptTokenizer
from core.saes.encoder import LoadedSae
from core.saes.loading import load_sae


@dataclass(frozen=True, slots=True)
class CachingSpec:
    """What is to be cached, and where.

    Attributes:
        model: Any name of the model.
        source_sets: Its source sets.
        texts: The corpus.
        n_tokens: Tokens to read, BOS tokens included; a shorter corpus is read to its end.
        folder: Where the cache goes; it need not exist.
        windows: How texts are cut.
        reservoirs: What is remembered of each latent.
        wanted: Which sources of the sets.
        set_folders: Sets that lie in local folders.
        threshold: Activations above it are kept, at least 0.
        n_effects: Tokens kept of each latent's strongest and weakest logits.
        latents_per_range: Latents distilled together, which bounds memory then.
        device: Torch device.
        dtype: Of the model's weights; "auto": as they are stored.
        sae_dtype: Of the SAEs' weights.
        limits: What bounds memory while recording.
    """

    model: str
    source_sets: tuple[str, ...]
    texts: Texts
    n_tokens: int
    folder: str
    windows: WindowShape = field(default_factory=WindowShape)
    reservoirs: ReservoirShape = field(default_factory=ReservoirShape)
    wanted: SourceFilter = field(default_factory=SourceFilter)
    set_folders: Mapping[str, str] = field(default_factory=dict[str, str])
    threshold: float = 0.0
    n_effects: int = 10
    latents_per_range: int = 2048
    device: str = "cpu"
    dtype: str = "auto"
    sae_dtype: str = "float32"
    limits: RecordingLimits = field(default_factory=RecordingLimits)

    def __post_init__(self) -> None:
        self.reservoirs.windows_of(self.windows.context_tokens)
        if not self.threshold >= 0:
            raise InvalidRequest(f"The threshold is {self.threshold}.", "Use 0 or a positive number.")
        if self.n_windows < 1:
            raise InvalidRequest(
                f"{self.n_tokens} tokens are less than one window of {self.windows.context_tokens}.",
                "Ask for more tokens or shorter windows.",
            )

    @property
    def n_windows(self) -> int:
        """Windows to read at most."""
        return self.n_tokens // self.windows.context_tokens


@dataclass(frozen=True, slots=True)
class CachingProgress:
    """How far a job has come.

    Attributes:
        stage: What is done now: windows are recorded or latents distilled.
        done: Windows or latents done, those of earlier runs included.
        of: How many there are; of windows at most.
        tokens_per_s: Tokens recorded per second by this run; None before the first part.
        eta_s: Seconds that the stage still takes at this run's rate; None while unknown.
    """

    stage: Literal["recording", "distilling"]
    done: int
    of: int
    tokens_per_s: float | None = None
    eta_s: float | None = None


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


class _Loaded:
    """What the device holds, loaded when first needed."""

    def __init__(self, spec: CachingSpec, sources: list[Source], tokenizer: PromptTokenizer) -> None:
        self._spec = spec
        self._sources = sources
        self._tokenizer = tokenizer

    @cached_property
    def model(self) -> EagerModel:
        weights = weights_location(find_model(self._spec.model).weights)
        return EagerModel.load(weights, device=self._spec.device, dtype=self._spec.dtype)

    @cached_property
    def saes(self) -> dict[str, LoadedSae]:
        loaded = {source.id: load_sae(source, dtype=self._spec.sae_dtype) for source in self._sources}
        for sae in loaded.values():
            sae.sae.to(self._spec.device)
        return loaded

    @cached_property
    def recorder(self) -> Recorder:
        bos = self._tokenizer.bos_id
        return Recorder(
            self.model,
            list(self.saes.values()),
            threshold=self._spec.threshold,
            silent_tokens=() if bos is None else (bos,),
            limits=self._spec.limits,
        )


def cache_activations(
    spec: CachingSpec,
    report: Callable[[CachingProgress], None] = lambda _: None,
    *,
    check_sums: bool = False,
    clock: Clock = SYSTEM_CLOCK,
) -> CachingResult:
    """Caches what is not cached yet.

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
    sources = find_sources(spec.model, spec.source_sets, spec.set_folders, spec.wanted)
    if not sources:
        raise InvalidRequest("No source is left to cache.", "Loosen the filter on source ids.")
    manifest = Manifest.open(Path(spec.folder), _described(spec, sources))
    if check_sums:
        manifest.forget(manifest.damaged())
    tokenizer = PromptTokenizer.load(weights_location(find_model(spec.model).weights))
    loaded = _Loaded(spec, sources, tokenizer)
    _record(spec, manifest, tokenizer, loaded, report, clock)
    _distil(spec, manifest, sources, loaded, report, clock)
    parts = manifest.units("part")
    return CachingResult(
        sum(part.counts["windows"] for part in parts),
        {source.id: sum(part.counts[f"records/{source.id}"] for part in parts) for source in sources},
        {
            source.id: sum(unit.counts["alive"] for unit in manifest.units(f"reservoir/{source.id}"))
            for source in sources
        },
    )


def _record(
    spec: CachingSpec,
    manifest: Manifest,
    tokenizer: PromptTokenizer,
    loaded: _Loaded,
    report: Callable[[CachingProgress], None],
    clock: Clock,
) -> None:
    done = made = 0
    started_s: float | None = None
    rate: float | None = None
    for part in token_parts(documents(spec.texts), tokenizer, spec.windows, spec.n_windows):
        if part_name(part.number) in manifest:
            _check_same(manifest, part)
        else:
            recorder = loaded.recorder
            started_s = clock.monotonic() if started_s is None else started_s
            manifest.add(record_part(recorder, part, manifest.folder))
            made += part.tokens.size
            rate = made / max(clock.monotonic() - started_s, 1e-9)
        done += len(part.tokens)
        left = (spec.n_windows - done) * spec.windows.context_tokens
        report(CachingProgress("recording", done, spec.n_windows, rate, None if rate is None else left / rate))
    if not done:
        raise InvalidRequest("The corpus is shorter than one window.", "Use more text or shorter windows.")


def _distil(
    spec: CachingSpec,
    manifest: Manifest,
    sources: list[Source],
    loaded: _Loaded,
    report: Callable[[CachingProgress], None],
    clock: Clock,
) -> None:
    done = made = 0
    total = sum(source.d_sae for source in sources)
    started_s = clock.monotonic()
    for source in sources:
        for start in range(0, source.d_sae, spec.latents_per_range):
            latents = range(start, min(start + spec.latents_per_range, source.d_sae))
            if range_name(source.id, start) not in manifest:
                effects = token_effects(
                    loaded.model, loaded.saes[source.id], latents.start, latents.stop, spec.n_effects
                )
                manifest.add(
                    distil_range(
                        manifest.folder,
                        manifest.units("part"),
                        source.id,
                        latents,
                        context_tokens=spec.windows.context_tokens,
                        shape=spec.reservoirs,
                        effects=effects,
                    )
                )
                made += len(latents)
            done += len(latents)
            each_s = (clock.monotonic() - started_s) / made if made else None
            left_s = None if each_s is None else (total - done) * each_s
            report(CachingProgress("distilling", done, total, eta_s=left_s))


def _check_same(manifest: Manifest, part: TokenPart) -> None:
    """Refuses to go on over other texts: half of the cache would be about one corpus and half about another."""
    stored = read_tensors(manifest.folder, tokens_path(part.number))["tokens"]
    if not np.array_equal(stored, part.tokens):
        raise InvalidRequest(
            f"The texts have changed since part {part.number} was cached.",
            "Cache the changed texts into another folder.",
        )


def _described(spec: CachingSpec, sources: list[Source]) -> dict[str, Any]:
    """What decides the bytes of a cache."""
    return {
        "model": find_model(spec.model).id,
        "sources": {
            source.id: {"hook_name": source.hook_name, "n_latents": source.d_sae, "layer": source.layer}
            for source in sources
        },
        "texts": {"kind": type(spec.texts).__name__, **asdict(spec.texts)},
        "n_tokens": spec.n_tokens,
        "windows": asdict(spec.windows),
        "reservoirs": asdict(spec.reservoirs),
        "threshold": spec.threshold,
        "n_effects": spec.n_effects,
        "latents_per_range": spec.latents_per_range,
        "dtype": spec.dtype,
        "sae_dtype": spec.sae_dtype,
    }
