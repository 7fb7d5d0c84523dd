"""What is asked of explainers and scorers, as values: to be done in this process or by a replica elsewhere.

    ExplainTask, ScoreTask -> Workers -> Explanation, Score

A task says everything: which type with which parameters, about which record, by which language model, at whose cost.
Who has the endpoints, gates, ledger, reply cache and embedder does it (`core.autointerp.workshop`).
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

from core.autointerp.examples import FeatureRecord
from core.autointerp.providers.keys import ProviderKey
from core.autointerp.providers.ledger import Account
from core.autointerp.results import Explanation, Score
from core.deadline import Deadline

Provider = Literal["openrouter", "local"]


@dataclass(frozen=True, slots=True)
class ModelChoice:
    """Which language model is asked.

    Attributes:
        model: Its name, as its provider has it.
        provider: `openrouter` for any address outside, `local` for a model of this cluster.
        base_url: The address outside; None: OpenRouter's.
        key: The provider's key, which no representation shows; None for `local`.
    """

    model: str
    provider: Provider = "openrouter"
    base_url: str | None = None
    key: ProviderKey | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True)
class Payer:
    """On whose behalf a model is asked.

    Attributes:
        owner: Whose turn it is where calls wait: a job, or a request's key.
        accounts: What is charged.
        force: Whether to ask anew what was answered before.
    """

    owner: str = ""
    accounts: tuple[Account, ...] = ()
    force: bool = False


@dataclass(frozen=True, slots=True)
class ExplainTask:
    """A feature to be explained.

    Attributes:
        type: The explainer's name or alias (`core.autointerp.registry`).
        parameters: Its parameters by name; what is left out has its default.
        record: The feature.
        choice: Who is asked.
        payer: Who pays.
    """

    type: str
    parameters: Mapping[str, Any]
    record: FeatureRecord
    choice: ModelChoice
    payer: Payer = Payer()


@dataclass(frozen=True, slots=True)
class ScoreTask:
    """An explanation, or a feature, to be scored.

    Attributes:
        type: The scorer's name or alias.
        parameters: Its parameters by name.
        record: The feature.
        explanation: In words; empty for a scorer of features.
        choice: Who is asked; None for a scorer that asks nobody.
        payer: Who pays.
    """

    type: str
    parameters: Mapping[str, Any]
    record: FeatureRecord
    explanation: str = ""
    choice: ModelChoice | None = None
    payer: Payer = Payer()


class Workers(Protocol):
    """Do tasks, many at once."""

    async def explain(self, task: ExplainTask, deadline: Deadline) -> Explanation:
        """An explanation.

        Raises:
            RayscopeError: The task can not be done; the type says why.
        """
        ...

    async def score(self, task: ScoreTask, deadline: Deadline) -> Score:
        """A score.

        Raises:
            RayscopeError: The task can not be done; the type says why.
        """
        ...
