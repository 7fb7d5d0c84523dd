"""The strongest features of many SAEs over a prompt."""

from dataclasses import dataclass, field

import torch

from core.errors import InvalidRequest
from core.questions import Attribution, TopFeaturesAnswer, TopFeaturesQuestion
from core.readings.reader import Needs, Row, Saes, layer_of
from core.saes.attribution import direct_feature_attribution
from core.saes.encoder import LoadedSae
from core.saes.selection import Ranked, rank


@dataclass(slots=True)
class TopFeaturesReader:
    """Keeps the running best over the sources, whatever order they arrive in."""

    question: TopFeaturesQuestion
    saes: Saes
    needs: Needs = field(init=False)
    _best: Ranked | None = field(default=None, init=False)

    def __post_init__(self) -> None:
        saes = [self.saes[source] for source in self.question.sources]
        layers = frozenset(layer_of(sae.hook_name) for sae in saes if sae.source in self.question.dfa_sources)
        whole = tuple(sae.source for sae in saes if not self._by_columns(sae))
        self.needs = Needs(frozenset(sae.hook_name for sae in saes), layers, whole)

    def absorb(self, source: str, encoding: torch.Tensor) -> None:
        """Ranks one source's features against the best so far."""
        chosen = self._filtered(self.saes[source])
        if chosen is None:
            self._rank(source, encoding, None)
        else:
            self._rank(source, encoding[:, chosen], torch.tensor(chosen, dtype=torch.long))

    def finish(self, row: Row) -> TopFeaturesAnswer:
        """The best features, with DFA for those of attention sources."""
        for source in self.question.sources:
            sae = self.saes[source]
            chosen = self._filtered(sae)
            if self._by_columns(sae) and chosen is not None:
                columns = sae.encode_columns(row.activation(sae.hook_name), chosen)
                self._rank(source, columns, torch.tensor(chosen, dtype=torch.long))
        best = self._best
        if best is None:
            raise InvalidRequest("No source was selected.", "Name at least one source of the set.")
        sources = tuple(self.question.sources[number] for number in best.sources.tolist())
        indexes = best.indexes.cpu().numpy()
        values = best.values.cpu().numpy()
        attributions: dict[int, Attribution] = {}
        for place, source in enumerate(sources):
            if source in self.question.dfa_sources:
                sae = self.saes[source]
                target = int(values[place].argmax())
                dfa = direct_feature_attribution(
                    sae,
                    int(indexes[place]),
                    row.attention(layer_of(sae.hook_name)),
                    row.number,
                    row.length,
                    target,
                )
                attributions[place] = Attribution(dfa.float().cpu().numpy(), target)
        return TopFeaturesAnswer(sources, indexes, values, best.keys.cpu().numpy(), attributions)

    def _rank(self, source: str, features: torch.Tensor, indexes: torch.Tensor | None) -> None:
        if self.question.silent_positions:
            features[list(self.question.silent_positions)] = 0
        number = self.question.sources.index(source)
        ranked = rank(features, number, self.question.k, list(self.question.sort_positions), indexes)
        self._best = ranked if self._best is None else self._best.merge(ranked, self.question.k)

    def _filtered(self, sae: LoadedSae) -> list[int] | None:
        """The features of `sae` that take part, ascending; None: all."""
        if self.question.feature_filter is None:
            return None
        return sorted({index for index in self.question.feature_filter if index < sae.d_sae})

    def _by_columns(self, sae: LoadedSae) -> bool:
        return self.question.feature_filter is not None and sae.elementwise
