"""Configuration in delphi's names, of today and of its early versions, as our settings.

    SamplerConfig, ConstructorConfig, CacheConfig     delphi 0.1.3, also as `sampler_cfg`, ... of its run_config.json
    ExperimentConfig, FeatureConfig, FeatureCache     its early versions; LatentCache is what FeatureCache became

    {"ExperimentConfig": {"n_examples_train": 40, "n_random": 100}} -> DelphiSettings(sampler=..., ...)

What is left out keeps our default. What ours does not need is named in `unused`, so that whoever reads a configuration
can say so; what would be done otherwise here than it says, and any name that delphi never had, is refused.

Deliberately not here: names of explainers and scorers (aliases of `core.autointerp.registry`), and which model, SAEs
and language model a run has.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Literal, TypeVar

from core.autointerp.caching.corpus import DatasetTexts, WindowShape
from core.autointerp.caching.recording import RecordingLimits
from core.autointerp.caching.reservoirs import ReservoirShape
from core.autointerp.sampling import SamplerSettings
from core.errors import InvalidRequest

NegativeSource = Literal["random", "similar_features", "similar_texts"]

Made = TypeVar("Made")


@dataclass(frozen=True, slots=True)
class DelphiSettings:
    """What a configuration comes to.

    Attributes:
        sampler: Which examples are shown and judged.
        windows: How texts are cut.
        reservoirs: Exemplar windows.
        recording: What bounds memory.
        texts: The corpus; None if the configuration names none.
        n_tokens: Tokens to cache; None if it does not say.
        negatives: Where silent examples come from.
        unused: Settings that make no difference here, as `section.name`.
    """

    sampler: SamplerSettings
    windows: WindowShape
    reservoirs: ReservoirShape
    recording: RecordingLimits
    texts: DatasetTexts | None = None
    n_tokens: int | None = None
    negatives: NegativeSource = "random"
    unused: tuple[str, ...] = ()


@dataclass(slots=True)
class _Found:
    """What has been read, by our names."""

    sampler: dict[str, Any] = field(default_factory=dict[str, Any])
    windows: dict[str, Any] = field(default_factory=dict[str, Any])
    reservoirs: dict[str, Any] = field(default_factory=dict[str, Any])
    texts: dict[str, Any] = field(default_factory=dict[str, Any])
    whole: dict[str, Any] = field(default_factory=dict[str, Any])
    batch_size: int | None = None
    neighbours: tuple[str, Any] | None = None
    unused: list[str] = field(default_factory=list[str])


Take = Callable[[_Found, str, Any], None]


def read_settings(configuration: Mapping[str, Mapping[str, Any]]) -> DelphiSettings:
    """Reads sections of a configuration.

    Args:
        configuration: Settings by name, by section.

    Raises:
        InvalidRequest: A section or a setting is not delphi's, two sections contradict each other, or a setting can not
            be met.
    """
    found = _Found()
    given: dict[str, tuple[str, Any]] = {}
    for section, settings in configuration.items():
        known = _SECTIONS.get(_SECTION_NAMES.get(section, section))
        if known is None:
            names = ", ".join([*_SECTIONS, *_SECTION_NAMES])
            raise InvalidRequest(f"delphi has no section {section}.", f"It has {names}.")
        for name, value in settings.items():
            if name not in known:
                raise InvalidRequest(f"{section} of delphi has no setting {name}.", f"It has {', '.join(known)}.")
            if known[name] is not _unused:
                other, before = given.setdefault(name, (section, value))
                if before != value:
                    raise InvalidRequest(f"{name} is {before!r} in {other} and {value!r} in {section}.")
            known[name](found, f"{section}.{name}", value)
    return _settings(found)


def _settings(found: _Found) -> DelphiSettings:
    if found.neighbours is not None:
        place, kind = found.neighbours
        if found.whole.get("negatives") != "similar_features":
            found.unused.append(place)
        elif kind != "decoder_similarity":
            raise InvalidRequest(f"{place} can be decoder_similarity only, got {kind!r}.")
    windows = _made(WindowShape, found.windows)
    recording = RecordingLimits()
    if found.batch_size is not None:
        recording = RecordingLimits(batch_tokens=found.batch_size * windows.context_tokens)
    return DelphiSettings(
        sampler=_made(SamplerSettings, found.sampler),
        windows=windows,
        reservoirs=_made(ReservoirShape, found.reservoirs),
        recording=recording,
        texts=_made(DatasetTexts, found.texts) if "repo" in found.texts else None,
        unused=tuple(found.unused),
        **found.whole,
    )


def _made(type_: Callable[..., Made], settings: Mapping[str, Any]) -> Made:
    try:
        return type_(**settings)
    except ValueError as error:
        raise InvalidRequest(f"A setting of delphi can not be met: {error}.") from None


def _into(part: Literal["sampler", "windows", "reservoirs", "whole"], name: str, type_: Any = int) -> Take:
    def take(found: _Found, place: str, value: Any) -> None:
        if isinstance(value, bool) or not isinstance(value, type_):
            raise InvalidRequest(f"{place} is a number, got {value!r}.", "Use a whole one, but for shares.")
        getattr(found, part)[name] = value

    return take


def _text(name: str) -> Take:
    def take(found: _Found, place: str, value: Any) -> None:
        if not isinstance(value, str):
            raise InvalidRequest(f"{place} is a text, got {value!r}.")
        if value:  # delphi's empty name stands for none
            found.texts[name] = value

    return take


def _one_of(part: Literal["sampler", "whole"], name: str, values: Mapping[str, str]) -> Take:
    def take(found: _Found, place: str, value: Any) -> None:
        if value not in values:
            raise InvalidRequest(f"{place} is one of {', '.join(values)}, got {value!r}.")
        getattr(found, part)[name] = values[value]

    return take


def _always(*values: str) -> Take:
    """For what is so here, whatever else could be asked."""

    def take(found: _Found, place: str, value: Any) -> None:
        if value not in values:
            raise InvalidRequest(f"{place} can be {' or '.join(values)} only, got {value!r}.")

    return take


def _batch_size(found: _Found, place: str, value: Any) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise InvalidRequest(f"{place} is a positive number of windows, got {value!r}.")
    found.batch_size = value


def _neighbours(found: _Found, place: str, value: Any) -> None:
    found.neighbours = (place, value)


def _unused(found: _Found, place: str, _: Any) -> None:
    found.unused.append(place)


_SAMPLER: Final[Mapping[str, Take]] = {
    "n_examples_train": _into("sampler", "n_train"),
    "n_examples_test": _into("sampler", "n_test"),
    "n_quantiles": _into("sampler", "n_quantiles"),
    "train_type": _one_of("sampler", "train_type", {name: name for name in ("top", "random", "quantiles", "mix")}),
    "test_type": _always("quantiles", "even"),  # two names of one thing: as many of each quantile
    "ratio_top": _into("sampler", "ratio_top", int | float),
}
_SOURCES: Final = {"random": "random", "neighbours": "similar_features", "FAISS": "similar_texts"}
_CONSTRUCTOR: Final[Mapping[str, Take]] = {
    "example_ctx_len": _into("reservoirs", "window_tokens"),
    "min_examples": _into("sampler", "min_examples"),
    "n_non_activating": _into("sampler", "n_silent"),
    "non_activating_source": _one_of("whole", "negatives", _SOURCES),
    "center_examples": _unused,
    "neighbours_type": _neighbours,
    "faiss_embedding_model": _unused,
    "faiss_embedding_cache_dir": _unused,
    "faiss_embedding_cache_enabled": _unused,
}
_CACHE: Final[Mapping[str, Take]] = {
    "dataset_repo": _text("repo"),
    "dataset_split": _text("split"),
    "dataset_name": _text("name"),
    "dataset_column": _text("column"),
    "dataset_row": _text("column"),
    "batch_size": _batch_size,
    "cache_ctx_len": _into("windows", "context_tokens"),
    "ctx_len": _into("windows", "context_tokens"),
    "n_tokens": _into("whole", "n_tokens"),
    "n_splits": _unused,
}
_FEATURES: Final[Mapping[str, Take]] = {
    "width": _unused,
    "min_examples": _into("sampler", "min_examples"),
    "max_examples": _unused,
    "n_splits": _unused,
}
_EXPERIMENT: Final[Mapping[str, Take]] = {
    **_SAMPLER,
    "example_ctx_len": _into("reservoirs", "window_tokens"),
    "n_random": _into("sampler", "n_silent"),
    "max_examples": _unused,
    "batch_size": _unused,  # of the scorers there
}
_SECTIONS: Final[Mapping[str, Mapping[str, Take]]] = {
    "SamplerConfig": _SAMPLER,
    "ConstructorConfig": _CONSTRUCTOR,
    "CacheConfig": _CACHE,
    "ExperimentConfig": _EXPERIMENT,
    "FeatureConfig": _FEATURES,
}
_SECTION_NAMES: Final[Mapping[str, str]] = {
    "sampler_cfg": "SamplerConfig",
    "constructor_cfg": "ConstructorConfig",
    "cache_cfg": "CacheConfig",
    "FeatureCache": "CacheConfig",
    "LatentCache": "CacheConfig",
    "LatentConfig": "FeatureConfig",
}
