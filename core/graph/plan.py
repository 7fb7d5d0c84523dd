"""A plan: which rows one piece of attribution wants next. It computes none itself.

A plan has no threads and no clock. Whoever drives it asks for some of the next rows and puts their effects in, in that
order: `run` alone, or `core.graph.scheduler` with rows of several plans in one step. What is `next` changes by `put`
only, and by a `put` that fails not at all, so a step that failed can be repeated. Driving a plan is device work.

Deliberately not here: the plans (`core.graph.attribution`, `core.graph.reranking`).
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, TypeVar

from torch import Tensor

from core.errors import RayscopeError
from core.graph.linearised import Linearised, TargetRows

Result = TypeVar("Result")
Result_co = TypeVar("Result_co", covariant=True)


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a graph has come: rows of features that are done, of so many."""

    done: int
    total: int


class Plan(Protocol[Result_co]):
    """What a driver needs of a plan."""

    @property
    def linearised(self) -> Linearised:
        """The prompt whose rows are wanted next."""
        ...

    @property
    def urgent(self) -> bool:
        """Whether what is wanted next decides what comes after it."""
        ...

    @property
    def ready(self) -> int:
        """Rows that can be computed now; above 0 until there is a result."""
        ...

    @property
    def progress(self) -> Progress:
        """How far it has come."""
        ...

    @property
    def result(self) -> Result_co | None:
        """What it was for; None before all rows are in."""
        ...

    def next(self, most: int) -> TargetRows:
        """The first rows of those that are ready, at least one and `most` at most."""
        ...

    def put(self, effects: Tensor) -> None:
        """Takes in the effects on the first rows of those that are ready, `[rows, sources]`.

        Raises:
            RayscopeError: They do not fit, or can not be ranked.
        """
        ...


def run(plan: Plan[Result], block_rows: int, report: Callable[[Progress], None] | None = None) -> Result:
    """Drives a plan to its end, `block_rows` rows at once, and reports how far it is after each block."""
    while (result := plan.result) is None:
        plan.put(plan.linearised.rows(plan.next(block_rows)))
        if report is not None:
            report(plan.progress)
    return result


def n_sources(linearised: Linearised) -> int:
    """Columns of a row: features, errors and tokens."""
    return len(linearised.features) + (linearised.n_layers + 1) * len(linearised.token_ids)


def check_rows(effects: Tensor, ready: int, linearised: Linearised) -> None:
    """Refuses effects that can not be those of the first rows of a plan.

    Args:
        effects: What came.
        ready: Rows that the plan can take.
        linearised: Whose rows they are.

    Raises:
        RayscopeError: They are too many, or have other sources.
    """
    if not 1 <= len(effects) <= ready or effects.shape[1:] != (n_sources(linearised),):
        raise RayscopeError(f"{ready} rows of {n_sources(linearised)} sources were wanted; {tuple(effects.shape)} came")
