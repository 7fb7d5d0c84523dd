"""The attributor: rows of graphs that were traced elsewhere.

    Traced --row scheduler: several graphs by turns--> rows --assemble--> Effects

It holds value and output weights only, so it takes a small part of a device. Rows of one graph may be computed in
several attributors and put together in one. Graphs are best pruned in the same process (`core.graph.pruning`), because
the effects are the largest value on the way and their move the most expensive one.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from torch import Tensor

from core.deadline import Deadline
from core.device import DeviceExecutor
from core.graph.admission import SchedulerLimits
from core.graph.attribution import Scoring
from core.graph.cost import CostModel, GraphCost, GraphSize
from core.graph.effects import Effects
from core.graph.linear.weights import LinearWeights
from core.graph.linearised import Linearised, TargetRows
from core.graph.plan import Progress
from core.graph.replay import Replay, replay_rows
from core.graph.scheduler import RowScheduler
from core.graph.selection import Assembly, Selected, assemble
from core.graph.traced import Traced
from core.graph.transcoders.transcoder import TranscoderShape

Part = tuple[range, Tensor]
"""A run of features, and its rows `[len(run), K + (L + 1) * T]`."""


@dataclass(frozen=True, slots=True, eq=False)
class GrowingGraph:
    """A graph in progress.

    Attributes:
        selected: Its features and the targets' rows.
        assembly: Its rows so far. Features whose rows are not there yet have no links in, so pruning what there is of
            the graph leaves them out.
    """

    selected: Selected
    assembly: Assembly


class GraphAttributor:
    """Computes rows with one model's weights. Lives on one event loop.

    Args:
        weights: The model's linear map, with the skip matrices of the transcoders.
        shape: Of the transcoders.
        device: The device's thread.
        limits: How much at once.
    """

    def __init__(
        self, weights: LinearWeights, shape: TranscoderShape, device: DeviceExecutor, limits: SchedulerLimits
    ) -> None:
        self._weights = weights
        self._cost = CostModel.of(shape, weights.dtype.itemsize)
        self._device = device
        self._scheduler = RowScheduler(_rows, device, limits)

    async def rows(
        self,
        traced: Traced,
        run: range,
        batch_size: int,
        deadline: Deadline,
        report: Callable[[Progress], None] | None = None,
    ) -> Tensor:
        """Rows of a run of a graph's features, `[len(run), K + (L + 1) * T]` float32, on the device.

        Args:
            traced: The graph.
            run: Which features.
            batch_size: Most rows at once.
            deadline: When nobody waits any more.
            report: Is told of rows that are done.

        Raises:
            TooLarge: The graph does not fit.
            Overloaded: Too many graphs wait.
            DeadlineExceeded: The deadline passed.
        """
        selected = await self._device.run(traced.selected, self._weights)
        cost = self._predict(selected, run)
        plan = Scoring(selected.linearised, run)
        del selected  # the scheduler alone holds it from now on
        return await self._scheduler.submit(plan, cost, deadline, report, batch_size)

    async def assemble(self, traced: Traced, parts: Sequence[Part]) -> Effects:
        """The graph, from rows that were computed in several attributors."""
        return await self._device.run(self._assembled, traced, parts)

    async def begin(self, traced: Traced) -> GrowingGraph:
        """A graph whose rows will all be computed here."""
        return await self._device.run(self._begun, traced)

    async def grow(
        self,
        graph: GrowingGraph,
        run: range,
        batch_size: int,
        deadline: Deadline,
        report: Callable[[Progress], None] | None = None,
    ) -> None:
        """Computes rows in place. Arguments and errors as `rows`."""
        selected, assembly = graph.selected, graph.assembly
        plan = Scoring(selected.linearised, run, assembly.rows(run))
        await self._scheduler.submit(plan, self._predict(selected, run), deadline, report, batch_size)
        assembly.take(run)

    def queue_time_s(self) -> float:
        """Seconds until all that was taken on is done, as measured."""
        return self._scheduler.queue_time_s()

    @property
    def held_bytes(self) -> int:
        """Memory promised to graphs in progress."""
        return self._scheduler.held_bytes

    def check(self) -> None:
        """Do nothing while rows can be computed.

        Raises:
            Unavailable: The scheduler or the device has stopped.
        """
        self._scheduler.check()

    async def aclose(self) -> None:
        """Fails what is in progress."""
        await self._scheduler.aclose()

    def _predict(self, selected: Selected, run: range) -> GraphCost:
        linearised = selected.linearised
        size = GraphSize(
            n_layers=linearised.n_layers,
            n_tokens=len(linearised.token_ids),
            d_model=self._weights.d_model,
            n_held=len(linearised.features),
            n_features=len(run),
            n_logits=len(selected.logits),
        )
        return self._cost.predict(size)

    def _assembled(self, traced: Traced, parts: Sequence[Part]) -> Effects:
        return assemble(traced.selected(self._weights), parts)

    def _begun(self, traced: Traced) -> GrowingGraph:
        selected = traced.selected(self._weights)
        return GrowingGraph(selected, Assembly(selected))


def _rows(work: list[tuple[Linearised, TargetRows]]) -> Sequence[Tensor]:
    return replay_rows([(one, targets) for one, targets in work if isinstance(one, Replay)])
