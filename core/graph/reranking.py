"""Attribution with several rankings: features are chosen a few at a time, by all rows known until then.

    logit rows -> [rank by all rows so far -> rows of the next features] ... -> Effects

This is circuit-tracer's greedy search. A feature may matter through others whose direct effects came later, so this
can find a better set than one ranking, at the price of all columns: until the end, every row tells of every active
feature, chosen or not, and encoder rows are wanted to the last.
"""

import torch
from torch import Tensor

from core.graph.effects import Effects, FeatureNodes, LogitNodes
from core.graph.linearised import Linearised, TargetRows
from core.graph.plan import Progress, check_rows
from core.graph.ranking import most_influential, partial_influence
from core.graph.selection import columns


class Reranking:
    """A whole graph whose features are chosen a few at a time, by all rows known until then."""

    def __init__(self, linearised: Linearised, logits: LogitNodes, targets: TargetRows, count: int, ranked_every: int):
        self._linearised = linearised
        self._logits = logits
        self._targets = targets
        self._count = count
        self._ranked_every = ranked_every
        self._chosen = torch.empty(0, dtype=torch.int64, device=linearised.features.layer.device)
        self._done = 0
        self._effects: Tensor | None = None
        self._result: Effects | None = None

    @property
    def linearised(self) -> Linearised:
        """The prompt with all its active features."""
        return self._linearised

    @property
    def urgent(self) -> bool:
        """As long as logit rows are left."""
        return self._done < len(self._targets)

    @property
    def ready(self) -> int:
        """Rows that are left before the next ranking."""
        return len(self._targets) + len(self._chosen) - self._done

    @property
    def progress(self) -> Progress:
        """Rows of features."""
        return Progress(max(0, self._done - len(self._targets)), self._count)

    @property
    def result(self) -> Effects | None:
        """The graph."""
        return self._result

    def next(self, most: int) -> TargetRows:
        """Logit rows, then features of the latest ranking by layer and position."""
        if self.urgent:
            return self._targets[self._done : self._done + most]
        start = self._done - len(self._targets)
        return self._linearised.targets(self._chosen[start : start + most])

    @torch.no_grad()
    def put(self, effects: Tensor) -> None:
        """Takes in rows; with the last ones of a ranking it ranks again, or ends."""
        check_rows(effects, self.ready, self._linearised)
        if self._effects is None:
            self._effects = effects.new_empty(self._count + len(self._targets), effects.shape[1])
        done = self._done + len(effects)
        self._effects[self._done : done] = effects
        if len(effects) == self.ready:
            if len(self._chosen) < self._count:
                self._chosen = torch.cat([self._chosen, self._rank(self._effects[:done])])
            else:
                self._result = self._finish(self._effects)
                self._effects = None
        self._done = done

    def _rank(self, effects: Tensor) -> Tensor:
        known = self._chosen.to(effects.device)
        layers = self._linearised.features.layer.to(effects.device)
        influence = partial_influence(effects, known, layers, self._logits.probabilities)
        influence[known] = -1.0
        more = most_influential(influence, min(self._ranked_every, self._count - len(known)))
        return more.to(self._chosen.device)

    def _finish(self, effects: Tensor) -> Effects:
        prompt, n_targets = self._linearised, len(self._targets)
        order = torch.argsort(self._chosen)
        chosen = self._chosen[order]
        rows = torch.cat([order + n_targets, torch.arange(n_targets, device=order.device)]).to(effects.device)
        kept = columns(chosen.to(effects.device), len(prompt.features), effects.shape[1])
        found = FeatureNodes(
            prompt.features.layer[chosen],
            prompt.features.position[chosen],
            prompt.features.index[chosen],
            prompt.features.activation[chosen],
        )
        weights = effects[rows[:, None], kept]
        return Effects(prompt.token_ids, prompt.n_layers, found, self._logits, len(prompt.features), weights)
