"""Work: does one unit of a job with whatever workers there are, and says what came of it.

    unit -> record (or why there is none) -> explanation to score, if it reads one -> task -> workers -> outcome
                                                                                        error -> outcome, halt

An error is about the latent, the provider, or the money, and means another thing each time: a failed unit, one that is
tried again, or a job that has to stop until somebody acts. It is never a score.

Deliberately not here: which unit is next (`driver`), and keeping what came of it (`store`).
"""

import asyncio
import logging
from collections.abc import Collection
from dataclasses import dataclass, replace
from random import Random
from typing import Any, Final, Protocol

from core.autointerp.baselines import random_explanation
from core.autointerp.examples import FeatureName, FeatureRecord
from core.autointerp.jobs.choices import AskedModel
from core.autointerp.jobs.history import History
from core.autointerp.jobs.keys import KeyRing
from core.autointerp.jobs.results import explanation_result, score_result
from core.autointerp.jobs.specification import JobSpec
from core.autointerp.jobs.units import (
    ATTEMPTS,
    NO_EXPLANATION,
    Done,
    Failed,
    GivenBack,
    JobStatus,
    Outcome,
    Skipped,
    Unit,
    account_of,
)
from core.autointerp.providers.ledger import Account
from core.autointerp.seeds import derive_seed
from core.autointerp.tasks import ExplainTask, ModelChoice, Payer, ScoreTask, Workers
from core.deadline import Deadline
from core.errors import (
    BudgetReached,
    DeadlineExceeded,
    InvalidRequest,
    Overloaded,
    PromptTooLong,
    ProviderAuth,
    ProviderBusy,
    ProviderCredits,
    ProviderRejected,
    RayscopeError,
    Refused,
    Unavailable,
)

_LOG = logging.getLogger("ray.serve")
_CANDIDATES: Final = 32
_ABOUT_THE_LATENT: Final = (InvalidRequest, ProviderRejected, PromptTooLong, Refused)


class Features(Protocol):
    """The latents that a job is about."""

    def n_latents(self, source: str) -> int:
        """Latents of a source."""
        ...

    def alive(self, source: str) -> Collection[int]:
        """Those that fire."""
        ...

    async def record(self, name: FeatureName) -> FeatureRecord | str:
        """A latent's examples, or why there are none."""
        ...

    async def aclose(self) -> None:
        """Lets go of what was opened."""
        ...


@dataclass(frozen=True, slots=True)
class Halt:
    """Why a job can not go on for now.

    Attributes:
        status: How it stands from now on; None: it goes on after `hold_s`.
        reason: Why.
        hold_s: Seconds for which it begins nothing.
    """

    status: JobStatus | None
    reason: str
    hold_s: float = 0.0


class Work:
    """Does the units of one job.

    Args:
        job_id: The job.
        spec: What it is to do, as it is now.
        features: Its latents.
        workers: Do tasks.
        history: Has the explanations that are scored.
        keys: Callers' keys.
    """

    def __init__(
        self,
        job_id: str,
        spec: JobSpec,
        features: Features,
        workers: Workers,
        history: History,
        keys: KeyRing,
    ) -> None:
        self.spec = spec
        self.features = features
        self._job_id = job_id
        self._workers = workers
        self._history = history
        self._keys = keys
        self._explained: dict[tuple[str, str], dict[int, int]] = {}

    async def do(self, unit: Unit, deadline: Deadline) -> tuple[Outcome, Halt | None]:
        """What came of a unit, and whether the job has to stop."""
        try:
            return await self._do(unit, deadline), None
        except RayscopeError as error:
            return _ended_by(unit, error)
        except Exception as error:
            _LOG.exception("job %s: unit %d failed", unit.job, unit.number)
            return Failed(unit, "internal", f"It failed in a way nobody foresaw: {type(error).__name__}.", True), None

    async def _do(self, unit: Unit, deadline: Deadline) -> Outcome:
        name = FeatureName(self.spec.model, unit.source, unit.latent)
        record = await self.features.record(name)
        if isinstance(record, str):
            return Skipped(unit, "no_examples", record)
        step = self.spec.step(unit.stage)
        if unit.stage.kind == "explain":
            choice = self._choice(self.spec.asked)
            assert choice is not None  # the specification was checked
            task = ExplainTask(step.type, step.parameters, record, choice, self._payer())
            explanation = await self._workers.explain(task, deadline)
            result = explanation_result(explanation)
            if explanation.status == "ok":
                return Done(unit, result, explanation.usage)
            said = "No answer had the form asked for."
            return Failed(unit, explanation.status, said, False, result, explanation.usage)
        found = await self._explanation(unit, name)
        if found is None:
            return Skipped(unit, NO_EXPLANATION, "There is no explanation to score.")
        text, more = found
        model = self.spec.model_for(unit.stage)
        score = await self._workers.score(
            ScoreTask(step.type, step.parameters, record, text, self._choice(model), self._payer()), deadline
        )
        return Done(unit, score_result(score) | more, score.usage)

    async def _explanation(self, unit: Unit, name: FeatureName) -> tuple[str, dict[str, Any]] | None:
        """What to score and what to say about it; None if there is nothing."""
        if unit.needs is None:
            return "", {}
        if unit.stage.random:
            return await asyncio.to_thread(self._anothers, unit, name)
        texts = await asyncio.to_thread(self._history.explanations, self._job_id, [unit.needs])
        text = texts.get(unit.needs)
        return None if text is None else (text, {})

    def _anothers(self, unit: Unit, name: FeatureName) -> tuple[str, dict[str, Any]] | None:
        """The explanation of another latent of the source; of many, one of a few that the seed names."""
        place = (unit.source, unit.stage.explainer)
        if place not in self._explained:
            self._explained[place] = self._history.explained(self._job_id, *place)
        made = self._explained[place]
        draw = Random(derive_seed("random-explanation", name, self.spec.seed))
        chosen = draw.sample(sorted(made), min(_CANDIDATES, len(made)))
        units = {made[latent]: latent for latent in {*chosen, *({unit.latent} & made.keys())}}
        texts = self._history.explanations(self._job_id, list(units))
        explanations = {replace(name, index=units[number]): text for number, text in texts.items()}
        found = random_explanation(explanations, name, self.spec.seed)
        return None if found is None else (found[1], {"explanation_of": found[0].index})

    def forget_explained(self) -> None:
        """Looks anew for what was explained: more may have been."""
        self._explained = {}

    def _choice(self, asked: AskedModel | None) -> ModelChoice | None:
        if asked is None:
            return None
        key = self._keys.key_for(asked) if asked.needs_caller else None
        if asked.needs_caller and key is None:
            raise Unavailable("The key that this job was given is not here any more.", "Resume it with the key.")
        return ModelChoice(asked.model, asked.provider, asked.base_url, key)

    def _payer(self) -> Payer:
        account = account_of(self._job_id)
        return Payer(account, (Account(account, self.spec.budget), *self.spec.accounts), self.spec.force)


def _ended_by(unit: Unit, error: RayscopeError) -> tuple[Outcome, Halt | None]:
    match error:
        case BudgetReached():
            return GivenBack(unit), Halt("paused_budget", error.text)
        case ProviderCredits() | ProviderAuth():
            return GivenBack(unit), Halt("paused_credits", error.text)
        case Overloaded() if not isinstance(error, ProviderBusy):  # nobody has begun
            return GivenBack(unit), Halt(None, error.text, error.retry_after_s)
        case Unavailable() | DeadlineExceeded() if unit.attempt < ATTEMPTS:
            return GivenBack(unit, counted=True), None
        case _:
            retryable = type(error) not in _ABOUT_THE_LATENT
            return Failed(unit, error.code, error.text, retryable), None
