"""What a job is to do, as values that a file can keep: which latents, explained and scored how, by whom, for how much.

    latents x stages -> units of work       explain/default, score/default/detection, score/-/intruder

A stage is explaining by one step, or scoring one step's explanations by another; scorers of features have no
explanation to read, so they are a stage of their own. A baseline adds stages (`random-explanation`) or latents
(`random-sae`, the sources of an SAE without learned directions beside the true ones).

A specification never holds a provider's key, only which one is meant (`KeyReference`). It is checked when it is made,
so what a file or a request brings is whole or refused.

Deliberately not here: doing any of it (`driver`), and where caches lie (`records`).
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final, Literal, Self

import orjson
from pydantic import TypeAdapter, ValidationError

from core.autointerp.jobs.choices import AskedModel, CacheChoice, LatentChoice, Sampling, Step
from core.autointerp.jobs.sources import random_source, split_source
from core.autointerp.providers.ledger import Account, Budget
from core.autointerp.registry import explainer_type, scorer_type
from core.errors import InvalidRequest

Baseline = Literal["random-explanation", "random-sae"]

NO_EXPLAINER: Final = "-"
RANDOM_EXPLANATION: Final = "random-explanation"
_MOST_IN_FLIGHT: Final = 10_000


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
    latents: LatentChoice = field(default_factory=LatentChoice)
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
        for source in self.sources:
            split_source(source)  # refuses what is none
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


_ADAPTER: Final = TypeAdapter(JobSpec)
