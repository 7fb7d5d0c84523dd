"""What the stages of a graph tell whoever composes them: how far they are, and where their results lie.

    Tracer  --Handed(Traced)-->  Attributor  --Handed(PrunedGraph), Handed(Effects)-->  Publisher  --> Published

Results stay in the object store; only these small values pass through the pipeline.
"""

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Handed:
    """A result that lies in the object store.

    Attributes:
        reference: Where; awaiting it gives the value.
        n_bytes: About how large it is.
    """

    reference: Any
    n_bytes: int


@dataclass(frozen=True, slots=True)
class TracedGraph:
    """The tracer is done.

    Attributes:
        value: A `Traced`, or `Effects` if the whole graph was attributed.
        runs: Its features in runs of about equal work, for attributors that share the rows; empty if no row is left.
    """

    value: Handed
    runs: tuple[range, ...]


@dataclass(frozen=True, slots=True)
class PartialGraph:
    """A graph some of whose rows are not there yet."""

    pruned: Handed


@dataclass(frozen=True, slots=True)
class AttributedGraph:
    """The attributor is done.

    Attributes:
        pruned: A `PrunedGraph`.
        effects: The `Effects` that it was pruned from, for other thresholds.
        n_rows: Features whose rows were computed, K.
    """

    pruned: Handed
    effects: Handed
    n_rows: int
