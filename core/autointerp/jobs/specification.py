"""What a job is to do, as values that a file can keep: which latents, explained and scored how, by whom, for how much.

    latents x stages -> units of work       explain/default, score/default/detection, score/-/intruder

A stage is explaining by one step, or scoring one step's explanations by another; scorers of features have no
explanation to read, so they are a stage of their own. A baseline adds stages (`random-explanation`) or latents
(`random-sae`, the sources of an SAE without learned directions beside the true ones).

A specification never holds a provider's key, only which one is meant (`KeyReference`). It is checked when it is made,
so what a file or a request brings is whole or refused.

Deliberately not here: doing any of it (`driver`), and where caches lie (`records`).
"""

import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from random import Random
from typing import Any, Final, Literal, Self

import orjson
from pydantic import TypeAdapter, ValidationError

from core.autointerp.caching.corpus import Texts, WindowShape
from core.autointerp.caching.reservoirs import ReservoirShape
from core.autointerp.providers.ledger import Account, Budget
from core.autointerp.registry import explainer_type, scorer_type
from core.autointerp.sampling import SamplerSettings
from core.autointerp.seeds import derive_seed
from core.autointerp.tasks import Provider
from core.errors import InvalidRequest

Baseline = Literal["random-explanation", "random-sae"]
Sampler = Literal["rayscope", "delphi-legacy"]
Silent = Literal["random", "similar-features"]

NO_EXPLAINER: Final = "-"
RANDOM_EXPLANATION: Final = "random-explanation"
_RANDOM_SET: Final = "random-"
_LABEL: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_SOURCE: Final = re.compile(r"(\d+)-(.+)")
_CALLER: Final = re.compile(r"caller:[0-9a-f]{12}")
_MOST_IN_FLIGHT: Final = 10_000


@dataclass(frozen=True, slots=True)
class Step:
    """One explainer or scorer.

    Attributes:
        type: Its name or alias in the registry; kept as its name.
        parameters: What differs from its defaults.
        label: Tells it from another of the same type; its type's name if nobody says.
    """

    type: str
    parameters: Mapping[str, Any] = field(default_factory=dict[str, Any])
    label: str = ""

    def __post_init__(self) -> None:
        if self.label and not _LABEL.fullmatch(self.label):
            raise InvalidRequest(
                f"'{self.label[:80]}' can not be the label of a step.", "Use letters, digits, dots and dashes."
            )

    def named(self, type_name: str) -> "Step":
        """The same under its type's own name, with a label."""
        return Step(type_name, self.parameters, self.label or type_name)


@dataclass(frozen=True, slots=True)
class AskedModel:
    """Which language model is asked, by whose key.

    Attributes:
        model: Its name, as its provider has it.
        provider: `openrouter` for any address outside, `local` for a model of this cluster.
        base_url: The address outside; None: the provider's own.
        key: `configured` for the cluster's own key, `caller:<fingerprint>` for one that a caller brought; None for
            `local`. Never the key.
    """

    model: str
    provider: Provider = "openrouter"
    base_url: str | None = None
    key: str | None = None

    def __post_init__(self) -> None:
        if self.provider == "local" and (self.base_url is not None or self.key is not None):
            raise InvalidRequest("A model of this cluster has neither an address nor a key.", "Leave both out.")
        if self.key not in (None, "configured") and not _CALLER.fullmatch(self.key):
            raise InvalidRequest("A job keeps which key is meant, never a key.", "Send keys in the header.")

    @property
    def needs_caller(self) -> bool:
        """Whether a caller has to bring the key."""
        return self.key is not None and self.key != "configured"


@dataclass(frozen=True, slots=True)
class LatentChoice:
    """Which latents of each source.

    Attributes:
        kind: `all`; a `range` from `start` to before `stop`; the `list` in `indices`; `random`: `count` of all.
        start: First latent of a range.
        stop: The one after its last; None: to the end.
        indices: A list.
        count: Latents at most, of each source; None: as many as there are.
        seed: Gives another draw.
        alive_only: Whether to leave out latents that never fire in the cache. Those that are left in are skipped when
            their turn comes, with the reason.
    """

    kind: Literal["all", "range", "list", "random"] = "all"
    start: int = 0
    stop: int | None = None
    indices: tuple[int, ...] = ()
    count: int | None = None
    seed: int = 0
    alive_only: bool = True

    def __post_init__(self) -> None:
        if self.kind == "list" and not self.indices:
            raise InvalidRequest("The list of latents is empty.", "Name at least one in `indices`.")
        if self.kind == "random" and self.count is None:
            raise InvalidRequest("It is not said how many random latents are wanted.", "Set `count`.")
        if self.start < 0 or (self.count is not None and self.count < 1) or any(index < 0 for index in self.indices):
            raise InvalidRequest("Latents are counted from 0, and a count from 1.")
        if self.stop is not None and self.stop <= self.start:
            raise InvalidRequest(f"The range from {self.start} to {self.stop} is empty.")

    def of(self, source: str, n_latents: int, alive: Collection[int]) -> list[int]:
        """The latents of a source, ascending; the random ones too.

        Args:
            source: Its id, which random choices depend on.
            n_latents: How many it has.
            alive: Those that fire.

        Raises:
            InvalidRequest: The list names a latent that it has not.
        """
        match self.kind:
            case "list":
                wrong = next((index for index in self.indices if index >= n_latents), None)
                if wrong is not None:
                    raise InvalidRequest(f"{source} has no latent {wrong}.", f"It has 0 to {n_latents - 1}.")
                found = sorted(set(self.indices))
            case "range":
                found = list(range(self.start, min(n_latents, self.stop or n_latents)))
            case "all" | "random":
                found = list(range(n_latents))
        if self.alive_only:
            firing = set(alive)
            found = [index for index in found if index in firing]
        if self.count is None or len(found) <= self.count:
            return found
        if self.kind == "random":
            return sorted(Random(derive_seed("latents", source, self.seed)).sample(found, self.count))
        return found[: self.count]


@dataclass(frozen=True, slots=True)
class Sampling:
    """How a latent's examples are chosen.

    Attributes:
        settings: How many of which kind.
        sampler: Ours, or delphi's own choice for comparing numbers.
        silent: Silent examples at random, or those where latents with similar decoder rows fire.
    """

    settings: SamplerSettings = field(default_factory=SamplerSettings)
    sampler: Sampler = "rayscope"
    silent: Silent = "random"


@dataclass(frozen=True, slots=True)
class CacheMaking:
    """How a cache is made that is not there yet.

    Attributes:
        texts: The corpus.
        n_tokens: Tokens to read.
        windows: How texts are cut.
        reservoirs: What is remembered of each latent.
        set_folders: Source sets that lie in local folders.
        threshold: Activations above it are kept.
        latents_per_range: Latents distilled together.
        device: Torch device.
        dtype: Of the model's weights.
    """

    texts: Texts
    n_tokens: int
    windows: WindowShape = field(default_factory=WindowShape)
    reservoirs: ReservoirShape = field(default_factory=ReservoirShape)
    set_folders: Mapping[str, str] = field(default_factory=dict[str, str])
    threshold: float = 0.0
    latents_per_range: int = 2048
    device: str = "cpu"
    dtype: str = "auto"


@dataclass(frozen=True, slots=True)
class CacheChoice:
    """Where examples come from.

    Attributes:
        name: Folder of the cache, below those that the jobs' host keeps.
        make: How to make it; None: it must be there.
    """

    name: str
    make: CacheMaking | None = None

    def __post_init__(self) -> None:
        if not _LABEL.fullmatch(self.name):
            raise InvalidRequest(
                f"'{self.name[:80]}' can not be the name of a cache.", "Use letters, digits, dots and dashes."
            )


@dataclass(frozen=True, slots=True)
class Stage:
    """One kind of work on a latent.

    Attributes:
        kind: Explaining or scoring.
        explainer: Label of the step whose explanation is made or read; `-` where none is.
        scorer: Label of the step that scores.
        random: Whether another latent's explanation is scored.
    """

    kind: Literal["explain", "score"]
    explainer: str
    scorer: str = ""
    random: bool = False

    def __str__(self) -> str:
        parts = (self.kind, self.explainer, self.scorer, RANDOM_EXPLANATION if self.random else "")
        return "/".join(part for part in parts if part)

    @classmethod
    def read(cls, text: str) -> Self:
        """What `str` wrote."""
        kind, explainer, *rest = text.split("/")
        return cls("explain" if kind == "explain" else "score", explainer, rest[0] if rest else "", len(rest) > 1)

    @property
    def explaining(self) -> "Stage | None":
        """The stage that makes the explanation that this one reads; None if it reads none."""
        return None if self.kind == "explain" or self.explainer == NO_EXPLAINER else Stage("explain", self.explainer)


@dataclass(frozen=True, slots=True)
class JobSpec:
    """What a job is to do.

    Attributes:
        model: The model whose latents are explained.
        sources: Source ids, such as `7-res-jb`.
        cache: Where examples come from.
        asked: Who explains, and judges if `judge` is None; None if no step asks a language model.
        judge: Who judges.
        explainers: How latents are explained.
        scorers: How explanations, and latents, are scored.
        latents: Which latents of each source.
        sampling: How examples are chosen.
        baselines: What scores are to be compared with.
        budget: What it may cost in all.
        accounts: Who else is charged, such as the key of the caller, each with a budget of its own.
        deadline_s: Seconds since 1970 after which nothing is begun any more; None: none.
        concurrency: Units worked on at once.
        priority: Jobs with a higher one go first.
        force: Whether to ask anew what was answered before.
        seed: Of baselines.
        alike_failures: So many failures of the same kind in a row, with no success before them, pause the job.
    """

    model: str
    sources: tuple[str, ...]
    cache: CacheChoice
    asked: AskedModel | None = None
    judge: AskedModel | None = None
    explainers: tuple[Step, ...] = ()
    scorers: tuple[Step, ...] = ()
    latents: LatentChoice = LatentChoice()
    sampling: Sampling = field(default_factory=Sampling)
    baselines: tuple[Baseline, ...] = ()
    budget: Budget = field(default_factory=Budget)
    accounts: tuple[Account, ...] = ()
    deadline_s: float | None = None
    concurrency: int = 64
    priority: int = 0
    force: bool = False
    seed: int = 0
    alike_failures: int = 10

    def __post_init__(self) -> None:
        explainers = tuple(step.named(explainer_type(step.type).name) for step in self.explainers)
        scorers = tuple(step.named(scorer_type(step.type).name) for step in self.scorers)
        object.__setattr__(self, "explainers", explainers)  # frozen, and alike whichever alias was used
        object.__setattr__(self, "scorers", scorers)
        if not self.sources or len(set(self.sources)) < len(self.sources):
            raise InvalidRequest("A job needs sources, and each of them once.")
        unlike = next((source for source in self.sources if not _SOURCE.fullmatch(source)), None)
        if unlike is not None:
            raise InvalidRequest(f"'{unlike[:80]}' is no source id.", "Source ids look like 7-res-jb.")
        for steps in (explainers, scorers):
            labels = [step.label for step in steps]
            twice = next((label for label in labels if labels.count(label) > 1), None)
            if twice is not None:
                raise InvalidRequest(f"Two steps are called {twice}.", "Give each a label of its own.")
        if not list(self.stages()):
            raise InvalidRequest("The job has nothing to do.", "Name an explainer, or a scorer of features.")
        self._check_needs()
        if not 1 <= self.concurrency <= _MOST_IN_FLIGHT or self.alike_failures < 1:
            raise InvalidRequest(f"concurrency lies between 1 and {_MOST_IN_FLIGHT}, alike_failures is at least 1.")
        if min(self.budget.usd or 0.0, self.budget.tokens or 0) < 0:
            raise InvalidRequest("A budget is not negative.")

    def stages(self) -> Iterator[Stage]:
        """All stages of a latent, those that explain first."""
        for explainer in self.explainers:
            yield Stage("explain", explainer.label)
        for scorer in self.scorers:
            if "explanation" not in scorer_type(scorer.type).needs:
                yield Stage("score", NO_EXPLAINER, scorer.label)
                continue
            for explainer in self.explainers:
                yield Stage("score", explainer.label, scorer.label)
                if RANDOM_EXPLANATION in self.baselines:
                    yield Stage("score", explainer.label, scorer.label, random=True)

    def step(self, stage: Stage) -> Step:
        """The step that a stage is about."""
        steps, label = (self.explainers, stage.explainer) if stage.kind == "explain" else (self.scorers, stage.scorer)
        return next(step for step in steps if step.label == label)

    def model_for(self, stage: Stage) -> AskedModel | None:
        """The language model that a stage asks; None if it asks none."""
        type_name = self.step(stage).type
        needs = explainer_type(type_name).needs if stage.kind == "explain" else scorer_type(type_name).needs
        if "language_model" not in needs:
            return None
        return self.asked if stage.kind == "explain" else self.judge or self.asked

    def all_sources(self) -> tuple[str, ...]:
        """The sources, and beside each its random one if they are wanted."""
        if "random-sae" not in self.baselines:
            return self.sources
        return (*self.sources, *(random_source(source) for source in self.sources))

    def dumped(self) -> bytes:
        """As JSON; the same specification is the same bytes."""
        return orjson.dumps(_ADAPTER.dump_python(self, mode="json"), option=orjson.OPT_SORT_KEYS)

    @classmethod
    def loaded(cls, content: bytes) -> Self:
        """What `dumped` wrote.

        Raises:
            InvalidRequest: It is none.
        """
        try:
            return _ADAPTER.validate_json(content)  # pyright: ignore[reportReturnType] - the adapter is of this class
        except ValidationError as error:
            first = error.errors(include_url=False, include_input=False)[0]
            place = ".".join(str(part) for part in first["loc"])
            raise InvalidRequest(f"The job's specification can not be read: {place}: {first['msg']}") from None

    def _check_needs(self) -> None:
        missing = next((str(stage) for stage in self.stages() if self._asks_nobody(stage)), None)
        if missing is not None:
            raise InvalidRequest(f"{missing} asks a language model, and the job names none.", "Name a model.")

    def _asks_nobody(self, stage: Stage) -> bool:
        name = self.step(stage).type
        needs = explainer_type(name).needs if stage.kind == "explain" else scorer_type(name).needs
        return "language_model" in needs and self.model_for(stage) is None


def split_source(source: str) -> tuple[int, str]:
    """Layer and source set of a source id.

    Raises:
        InvalidRequest: It is none.
    """
    match = _SOURCE.fullmatch(source)
    if match is None:
        raise InvalidRequest(f"'{source[:80]}' is no source id.", "Source ids look like 7-res-jb.")
    return int(match[1]), match[2]


def random_source(source: str) -> str:
    """The source with random directions beside a true one."""
    layer, source_set = split_source(source)
    return f"{layer}-{_RANDOM_SET}{source_set}"


def is_random(source: str) -> bool:
    """Whether a source is such a one."""
    return split_source(source)[1].startswith(_RANDOM_SET)


def true_source(source: str) -> str:
    """The true source beside a random one; itself if it is true."""
    layer, source_set = split_source(source)
    return f"{layer}-{source_set.removeprefix(_RANDOM_SET)}"


_ADAPTER: Final = TypeAdapter(JobSpec)
