"""Admission: which graphs are in progress on a device, which wait, and how many rows a step has room for.

Memory is promised before it is used. A graph enters when what it will hold fits next to what others hold, with room for
a block of any of them; until then it waits, first come, first served, so that a large one is not overtaken for ever.
What the promises leave is for the blocks of a step.

How many rows a graph has in a block is settled when it comes, from the limits and its own cost alone. Products round
differently with other numbers of rows; so blocks do not depend on who else is there, and neither do results.

Arithmetic on one event loop, like `core.leases`: no clock, no waiting, and no graph, only its cost.
"""

from collections.abc import Hashable
from dataclasses import dataclass
from typing import Final, Generic, TypeVar

from core.errors import Overloaded, TooLarge
from core.graph.cost import GraphCost
from core.leases import readable_bytes

Key = TypeVar("Key", bound=Hashable)

RETRY_FLOOR_S: Final = 1.0


@dataclass(frozen=True, slots=True)
class SchedulerLimits:
    """How much is done at once and how much may wait.

    Attributes:
        block_rows: Most rows of a block: of one graph in one product. Changes speed and memory; results within
            rounding only.
        step_rows: Rows of all graphs together that a step has room for. Changes speed and memory.
        max_running: Most graphs in progress.
        max_queue: Most graphs that wait; 0 refuses a graph unless nothing is in progress.
        budget_bytes: Memory for graphs in progress and for a step; None does not count.
    """

    block_rows: int = 64
    step_rows: int = 128
    max_running: int = 16
    max_queue: int = 32
    budget_bytes: int | None = None

    def __post_init__(self) -> None:
        if min(self.block_rows, self.step_rows, self.max_running) < 1 or self.max_queue < 0:
            raise ValueError("a block, a step and the device need room for at least one row and one graph")


@dataclass(frozen=True, slots=True)
class Admitted:
    """A graph that was taken on.

    Attributes:
        cost: What it takes.
        block_rows: Rows of a block of it.
    """

    cost: GraphCost
    block_rows: int

    @property
    def block_bytes(self) -> int:
        """Memory of a block."""
        return self.block_rows * self.cost.row_bytes


class Admission(Generic[Key]):
    """Who is in progress and who waits.

    Attributes:
        running: The graphs in progress.
        waiting: Those that wait, in the order they came.
    """

    def __init__(self, limits: SchedulerLimits) -> None:
        self._limits = limits
        self.running: dict[Key, Admitted] = {}
        self.waiting: dict[Key, Admitted] = {}

    @property
    def held_bytes(self) -> int:
        """Memory promised to graphs in progress."""
        return sum(graph.cost.held_bytes for graph in self.running.values())

    @property
    def busy(self) -> bool:
        """Whether a graph would be refused now, however small."""
        if self._limits.max_queue == 0:
            return bool(self.running or self.waiting)
        return len(self.waiting) >= self._limits.max_queue

    def enter(self, key: Key, cost: GraphCost, queue_time_s: float, block_rows: int | None = None) -> Admitted:
        """Takes a graph on; `promote` says when it begins.

        Args:
            key: Its name here.
            cost: What it takes.
            queue_time_s: Seconds until a retry has a fair chance.
            block_rows: Most rows of a block of it; it has no more than the limits and memory allow.

        Raises:
            TooLarge: It would not fit if it were alone.
            Overloaded: As many graphs wait as may.
        """
        rows = min(self._limits.block_rows, max(1, block_rows or self._limits.block_rows))
        budget = self._limits.budget_bytes
        if budget is not None:
            least = cost.held_bytes + cost.row_bytes
            if least > budget:
                raise TooLarge(
                    f"the graph takes {readable_bytes(least)}; {readable_bytes(budget)} are set aside for graphs",
                    "ask for fewer feature nodes, or send a shorter prompt",
                )
            rows = min(rows, (budget - cost.held_bytes) // max(1, cost.row_bytes))
        if self.busy:
            raise Overloaded(
                f"{len(self.running)} graphs are in progress and {len(self.waiting)} wait; "
                f"{self._limits.max_queue} may wait",
                "retry after the given time",
                max(RETRY_FLOOR_S, queue_time_s),
            )
        self.waiting[key] = Admitted(cost, rows)
        return self.waiting[key]

    def promote(self) -> list[Key]:
        """Those that begin now, because there is room; the first that has none holds up the others."""
        begun: list[Key] = []
        while self.waiting:
            key, graph = next(iter(self.waiting.items()))
            if not self._fits(graph):
                break
            self.running[key] = self.waiting.pop(key)
            begun.append(key)
        return begun

    def leave(self, key: Key) -> None:
        """Forgets a graph, wherever it is."""
        self.running.pop(key, None)
        self.waiting.pop(key, None)

    def step_rows(self) -> int:
        """Rows that a step has room for now. A single block fits even where it has more."""
        budget, most = self._limits.budget_bytes, self._limits.step_rows
        if budget is None:
            return most
        largest = max((graph.cost.row_bytes for graph in self.running.values()), default=0)
        return max(1, min(most, (budget - self.held_bytes) // max(1, largest)))

    def _fits(self, graph: Admitted) -> bool:
        if not self.running:
            return True  # alone it was found to fit when it came
        if len(self.running) >= self._limits.max_running:
            return False
        largest = max(other.block_bytes for other in (*self.running.values(), graph))
        needed = self.held_bytes + graph.cost.held_bytes + largest
        return self._limits.budget_bytes is None or needed <= self._limits.budget_bytes
