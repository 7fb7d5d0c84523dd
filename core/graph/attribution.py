"""Attribution: which rows a graph needs, in which order, and what they become.

    Attribution   the whole graph: Selecting, then Scoring of all, or `core.graph.reranking` instead    -> Effects
    Selecting     logit rows, then the choice of features: the part that needs encoders                 -> Selected
    Scoring       rows of a run of the selected features: may be done elsewhere, in shards              -> Tensor

How many rows go into a step is the driver's choice and changes nothing: rows do not depend on each other, and rankings
come after fixed numbers of rows. What an engine gives for a row may differ by rounding with the rows beside it; the
plans add nothing to that.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from core.graph.effects import Effects, LogitNodes
from core.graph.linearised import Linearised, TargetRows
from core.graph.plan import Progress, check_rows, n_sources, run
from core.graph.reranking import Reranking
from core.graph.selection import Assembly, Selected, select


@dataclass(frozen=True, slots=True)
class Choice:
    """Which features a graph shows.

    Attributes:
        max_features: Most features, K; None shows every active one.
        ranked_every: Features that are chosen from one ranking before the next, which knows their rows, too. In
            circuit-tracer's words it is `update_interval * batch_size`. None, or K and more, ranks once.
    """

    max_features: int | None = None
    ranked_every: int | None = None

    def __post_init__(self) -> None:
        if (self.max_features is not None and self.max_features < 1) or (
            self.ranked_every is not None and self.ranked_every < 1
        ):
            raise ValueError("a graph chooses at least one feature at a time")

    def count(self, n_active: int) -> int:
        """How many of the active features it shows."""
        return n_active if self.max_features is None else min(self.max_features, n_active)

    def ranks_once(self, n_active: int) -> bool:
        """Whether one ranking, or none, decides everything."""
        count = self.count(n_active)
        return count == n_active or self.ranked_every is None or self.ranked_every >= count


class Selecting:
    """Logit rows, then the choice of features."""

    def __init__(self, linearised: Linearised, logits: LogitNodes, targets: TargetRows, max_features: int | None):
        self._linearised = linearised
        self._logits = logits
        self._targets = targets
        self._max_features = max_features
        self._effects: list[Tensor] = []
        self._done = 0
        self._selected: Selected | None = None

    @property
    def linearised(self) -> Linearised:
        """The prompt with all its active features."""
        return self._linearised

    @property
    def urgent(self) -> bool:
        """Always."""
        return True

    @property
    def ready(self) -> int:
        """Logit rows that are left."""
        return len(self._targets) - self._done

    @property
    def progress(self) -> Progress:
        """No row of a feature is part of this."""
        return Progress(0, 0)

    @property
    def result(self) -> Selected | None:
        """The chosen features."""
        return self._selected

    def next(self, most: int) -> TargetRows:
        """The next logit rows."""
        return self._targets[self._done : self._done + most]

    @torch.no_grad()
    def put(self, effects: Tensor) -> None:
        """Takes in logit rows; with the last ones it selects."""
        check_rows(effects, self.ready, self._linearised)
        rows = [*self._effects, effects]
        if len(effects) == self.ready:
            self._selected = select(self._linearised, self._logits, torch.cat(rows), self._max_features)
            rows = []
        self._effects = rows
        self._done += len(effects)


class Scoring:
    """Rows of selected features.

    Args:
        linearised: The prompt with the selected features.
        run: Which of them, by number; None means all.
        into: Where the rows go, `[len(run), sources]`; a tensor of its own unless given.
    """

    def __init__(self, linearised: Linearised, run: range | None = None, into: Tensor | None = None):
        self._linearised = linearised
        self._run = range(len(linearised.features)) if run is None else run
        self._done = 0
        self._effects = torch.empty(0, n_sources(linearised)) if into is None and not self._run else into

    @property
    def linearised(self) -> Linearised:
        """The prompt with the selected features."""
        return self._linearised

    @property
    def urgent(self) -> bool:
        """Never."""
        return False

    @property
    def ready(self) -> int:
        """Rows that are left."""
        return len(self._run) - self._done

    @property
    def progress(self) -> Progress:
        """Rows of the run."""
        return Progress(self._done, len(self._run))

    @property
    def result(self) -> Tensor | None:
        """All rows, `[len(run), sources]` float32."""
        return None if self.ready else self._effects

    def next(self, most: int) -> TargetRows:
        """The next features in node order, so by layer and position."""
        rest = self._run[self._done : self._done + most]
        device = self._linearised.features.layer.device
        return self._linearised.targets(torch.arange(rest.start, rest.stop, device=device))

    @torch.no_grad()
    def put(self, effects: Tensor) -> None:
        """Takes in rows of features."""
        check_rows(effects, self.ready, self._linearised)
        if self._effects is None:
            self._effects = effects.new_empty(len(self._run), effects.shape[1])
        self._effects[self._done : self._done + len(effects)] = effects
        self._done += len(effects)


class Attribution:
    """A whole graph."""

    def __init__(self, linearised: Linearised, logits: LogitNodes, targets: TargetRows, choice: Choice):
        n_active = len(linearised.features)
        self._count = choice.count(n_active)
        self._assembly: Assembly | None = None
        self._phase: Selecting | Scoring | Reranking
        if choice.ranked_every is None or choice.ranks_once(n_active):
            self._phase = Selecting(linearised, logits, targets, choice.max_features)
        else:
            self._phase = Reranking(linearised, logits, targets, self._count, choice.ranked_every)

    @property
    def linearised(self) -> Linearised:
        """The prompt, with the selected features only once they are selected."""
        return self._phase.linearised

    @property
    def urgent(self) -> bool:
        """As long as logit rows are left."""
        return self._phase.urgent

    @property
    def ready(self) -> int:
        """Rows that can be computed now."""
        return self._phase.ready

    @property
    def progress(self) -> Progress:
        """Rows of features."""
        return Progress(self._phase.progress.done, self._count)

    @property
    def result(self) -> Effects | None:
        """The graph."""
        if isinstance(self._phase, Reranking):
            return self._phase.result
        return None if self._assembly is None or self._phase.ready else self._assembly.effects

    def next(self, most: int) -> TargetRows:
        """Logit rows, then those of features."""
        return self._phase.next(most)

    def put(self, effects: Tensor) -> None:
        """Takes in rows."""
        self._phase.put(effects)
        if isinstance(self._phase, Selecting) and self._phase.result is not None:
            selected = self._phase.result
            self._assembly = Assembly(selected)
            every = range(len(selected.linearised.features))
            self._phase = Scoring(selected.linearised, every, self._assembly.rows(every))


def attribute(
    linearised: Linearised,
    logits: LogitNodes,
    targets: TargetRows,
    choice: Choice,
    block_rows: int = 64,
) -> Effects:
    """Computes one graph by itself.

    Args:
        linearised: The prompt.
        logits: What the graph explains.
        targets: The rows of that.
        choice: Which features it shows.
        block_rows: Most rows at once.

    Raises:
        RayscopeError: The effects are not finite.
    """
    return run(Attribution(linearised, logits, targets, choice), block_rows)
