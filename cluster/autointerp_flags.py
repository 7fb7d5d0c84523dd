"""The flags of `rayscope autointerp run` as values, and what they ask for: sources, a cache of activations, a job.

    RunFlags -> sources_of -> caching_of (what is read and kept)
                           -> job_of (what is explained and scored, and how)

Names are delphi's where it has one for the same thing. Where its default would not do for the demo, which is small and
whose dictionaries are noisy when they fire weakly, the demo has its own.

Deliberately not here: doing it (`autointerp_run`, `autointerp_follow`).
"""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final, Literal

from core.autointerp.caching.corpus import DatasetTexts, DemoTexts, FileTexts, Texts, WindowShape
from core.autointerp.caching.reservoirs import ReservoirShape
from core.autointerp.jobs.choices import AskedModel, CacheChoice, CacheMaking, LatentChoice, Sampling, Step
from core.autointerp.jobs.specification import Baseline, JobSpec
from core.autointerp.providers.ledger import Budget
from core.autointerp.registry import scorer_type
from core.autointerp.sampling import SamplerSettings
from core.catalogue.catalogue import find_model, find_sources
from core.catalogue.sources import Source
from core.demo import DEMO_MODEL_ID
from core.demo.oracle import ORACLE_MODEL
from core.errors import InvalidRequest, NotFound

CACHE: Final = "cache"
"""Name of the cache of a run that has its own folder."""
_DELPHI_DATASET: Final = "EleutherAI/SmolLM2-135M-10B"
_DELPHI_SPLIT: Final = "train[:1%]"
_DEMO_TOKENS: Final = 100_000
_DELPHI_TOKENS: Final = 10_000_000
_DEMO_THRESHOLD: Final = 2.0
_SHORTEST_DOCUMENT: Final = 20
_LAYER: Final = re.compile(r"(?:.*\.)?(?:layers?|blocks|h)[._](\d+)(?:\..*)?")
_RANGE: Final = re.compile(r"(\d+)-(\d+)")
_LIST: Final = re.compile(r"\d+(?:,\d+)*")
_NONE: Final = "none"


@dataclass(frozen=True, slots=True)
class RunFlags:
    """What was asked for; see the command's help. What is None has a default that depends on the model."""

    model: str
    sae_set: str
    hookpoints: tuple[str, ...] = ()
    latents: str | None = None
    max_latents: int | None = None
    explainer_model: str | None = None
    explainer_provider: str | None = None
    base_url: str | None = None
    scorer_model: str | None = None
    explainers: tuple[str, ...] = ("default",)
    scorers: tuple[str, ...] = ("fuzz", "detection")
    fuzz_type: str = "default"
    texts: tuple[str, ...] = ()
    dataset_repo: str | None = None
    dataset_split: str = _DELPHI_SPLIT
    dataset_name: str | None = None
    dataset_column: str = "text"
    n_tokens: int | None = None
    cache_ctx_len: int = 256
    example_ctx_len: int = 32
    activation_threshold: float | None = None
    device: str = "cpu"
    min_examples: int = 20
    n_examples_train: int = 40
    n_examples_test: int = 50
    n_non_activating: int = 50
    non_activating_source: str = "random"
    n_quantiles: int = 10
    train_type: str = "quantiles"
    ratio_top: float = 0.2
    sampler: str = "rayscope"
    num_examples_per_scorer_prompt: int = 5
    log_probs: bool = False
    random: bool = False
    random_explanations: bool = False
    pipeline_num_proc: int = 16
    budget_usd: float | None = None
    max_tokens_total: int | None = None
    force: bool = False
    seed: int = 22

    @property
    def is_demo(self) -> bool:
        """Whether it is about the model that Rayscope ships."""
        return self.model == DEMO_MODEL_ID

    @property
    def set_folders(self) -> dict[str, str]:
        """The set, if it lies in a folder; its name is then the folder's."""
        return {Path(self.sae_set).name: self.sae_set} if Path(self.sae_set).is_dir() else {}

    @property
    def set_name(self) -> str:
        """The set's id."""
        return next(iter(self.set_folders), self.sae_set)


def sources_of(flags: RunFlags) -> list[Source]:
    """The sources that are named: all of the set, or those at hook points.

    A hook point is a source id, a layer, or a name that has the layer in it, such as `layers.5` or
    `blocks.5.hook_resid_post`.

    Raises:
        NotFound: The model has no such set, or the set nothing at a hook point.
    """
    found = find_sources(flags.model, (flags.set_name,), flags.set_folders)
    if not flags.hookpoints:
        return found
    for hookpoint in flags.hookpoints:
        if not any(_is_at(source, hookpoint) for source in found):
            known = ", ".join(source.id for source in found)
            raise NotFound(f"{flags.set_name} has nothing at hook point '{hookpoint}'.", f"It has {known}.")
    return [source for source in found if any(_is_at(source, hookpoint) for hookpoint in flags.hookpoints)]


def _is_at(source: Source, hookpoint: str) -> bool:
    if hookpoint in (source.id, source.hook_name, str(source.layer)):
        return True
    layer = _LAYER.fullmatch(hookpoint)
    return layer is not None and "hook_" not in hookpoint and int(layer[1]) == source.layer


def making_of(flags: RunFlags) -> CacheMaking:
    """How activations are cached."""
    n_tokens = flags.n_tokens or (_DEMO_TOKENS if flags.is_demo else _DELPHI_TOKENS)
    threshold = flags.activation_threshold
    if threshold is None:
        threshold = _DEMO_THRESHOLD if flags.is_demo else 0.0
    # Test and train examples are distinct, and come from as many octaves as a feature has: rarely all sixteen.
    wanted = flags.n_examples_train + flags.n_examples_test
    reservoirs = ReservoirShape(
        window_tokens=flags.example_ctx_len,
        top=max(40, flags.n_examples_train),
        per_octave=max(12, math.ceil(wanted / 4)),
    )
    return CacheMaking(
        texts=_texts(flags, n_tokens),
        n_tokens=n_tokens,
        windows=WindowShape(flags.cache_ctx_len, windows_per_part=64),
        reservoirs=reservoirs,
        set_folders=flags.set_folders,
        threshold=threshold,
        device=flags.device,
    )


def _texts(flags: RunFlags, n_tokens: int) -> Texts:
    if flags.texts:
        return FileTexts(flags.texts, flags.dataset_column)
    if flags.is_demo and flags.dataset_repo is None:
        return DemoTexts(n_tokens // _SHORTEST_DOCUMENT + 100, flags.seed)
    return DatasetTexts(
        flags.dataset_repo or _DELPHI_DATASET, flags.dataset_split, flags.dataset_name, flags.dataset_column
    )


def job_of(flags: RunFlags, sources: Sequence[Source], cache: CacheChoice) -> JobSpec:
    """The job.

    Args:
        flags: What was asked for.
        sources: The sources that are named.
        cache: Where its examples come from.

    Raises:
        InvalidRequest: A flag makes no sense, or not with another.
        NotFound: There is no such explainer or scorer.
    """
    asked = asked_model(flags, flags.explainer_model)
    return JobSpec(
        model=flags.model if Path(flags.model).is_dir() else find_model(flags.model).id,
        sources=tuple(source.id for source in sources),
        cache=cache,
        asked=asked,
        judge=None if flags.scorer_model is None else asked_model(flags, flags.scorer_model),
        explainers=tuple(Step(name) for name in flags.explainers if name != _NONE),
        scorers=tuple(_scorer(name, flags) for name in flags.scorers if name != _NONE),
        latents=_latents(flags),
        sampling=_sampling(flags),
        baselines=_baselines(flags),
        budget=Budget(flags.budget_usd, flags.max_tokens_total),
        concurrency=flags.pipeline_num_proc,
        force=flags.force,
        seed=flags.seed,
    )


def asked_model(flags: RunFlags, name: str | None) -> AskedModel:
    """The language model of this name, by the provider that the flags name.

    Raises:
        InvalidRequest: No model is named, or no such provider.
    """
    if name is None and not flags.is_demo:
        raise InvalidRequest("No model to explain with was named.", "Name one with --explainer_model.")
    model = name or ORACLE_MODEL
    provider = flags.explainer_provider or ("local" if model == ORACLE_MODEL or flags.base_url else "openrouter")
    match provider:
        case "openrouter":
            return AskedModel(model, "openrouter", flags.base_url, "configured")
        case "local" | "offline" if flags.base_url is not None:
            return AskedModel(model, "openrouter", flags.base_url, "configured")  # any address is one outside
        case "local" | "offline":
            return AskedModel(model, "local")
        case _:
            raise InvalidRequest(f"There is no provider '{provider}'.", "There are openrouter and local.")


def _scorer(name: str, flags: RunFlags) -> Step:
    if name == "fuzz" and flags.fuzz_type == "active":
        name = "fuzz-active"
    known = scorer_type(name).parameters
    wanted: dict[str, Any] = {
        "examples_per_prompt": flags.num_examples_per_scorer_prompt,
        "log_probabilities": flags.log_probs,
    }
    fields = known.model_fields
    differing = {key: value for key, value in wanted.items() if key in fields and fields[key].default != value}
    return Step(name, differing)


def _latents(flags: RunFlags) -> LatentChoice:
    count = flags.max_latents
    which = flags.latents or ("random" if flags.is_demo else "first")
    if which == "first" or (which == "random" and count is None):
        return LatentChoice("all", count=count)
    if which == "random":
        return LatentChoice("random", count=count, seed=flags.seed)
    if ends := _RANGE.fullmatch(which):
        return LatentChoice("range", start=int(ends[1]), stop=int(ends[2]) + 1, count=count)
    if _LIST.fullmatch(which):
        indices = tuple(int(index) for index in which.split(","))
        return LatentChoice("list", indices=indices, count=count, alive_only=False)
    raise InvalidRequest(
        f"'{which}' does not say which features.", "Say first, random, a range (0-99) or a list (1,5,88)."
    )


def _sampling(flags: RunFlags) -> Sampling:
    if flags.train_type not in ("top", "random", "quantiles", "mix"):
        raise InvalidRequest(f"There is no train type '{flags.train_type}'.", "There are top, random, quantiles, mix.")
    silent: dict[str, Literal["random", "similar-features"]] = {
        "random": "random",
        "neighbours": "similar-features",
        "similar-features": "similar-features",
    }
    if flags.non_activating_source not in silent:
        raise InvalidRequest(
            f"There is no source '{flags.non_activating_source}' of non-activating examples.",
            "There are random and neighbours.",
        )
    if flags.sampler not in ("rayscope", "delphi-legacy"):
        raise InvalidRequest(f"There is no sampler '{flags.sampler}'.", "There are rayscope and delphi-legacy.")
    try:
        settings = SamplerSettings(
            n_train=flags.n_examples_train,
            n_test=flags.n_examples_test,
            n_silent=flags.n_non_activating,
            n_quantiles=flags.n_quantiles,
            train_type=flags.train_type,
            ratio_top=flags.ratio_top,
            min_examples=flags.min_examples,
            seed=flags.seed,
        )
    except ValueError as error:
        raise InvalidRequest(f"The examples can not be chosen so: {error}.") from None
    sampler: Literal["rayscope", "delphi-legacy"] = "rayscope" if flags.sampler == "rayscope" else "delphi-legacy"
    return Sampling(settings, sampler, silent[flags.non_activating_source])


def _baselines(flags: RunFlags) -> tuple[Baseline, ...]:
    found: list[Baseline] = []
    if flags.random_explanations:
        found.append("random-explanation")
    if flags.random:
        found.append("random-sae")
    return tuple(found)


def lasting(spec: JobSpec) -> JobSpec:
    """What of a job may not change when it is gone on with: all but how fast and for how much."""
    return replace(spec, concurrency=1, budget=Budget(), priority=0, deadline_s=None, alike_failures=1)
