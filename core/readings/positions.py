"""Features of one SAE position by position: all that are active, or the strongest few."""

from dataclasses import dataclass, field

import torch

from core.questions import (
    ActiveFeaturesAnswer,
    ActiveFeaturesQuestion,
    MatrixAnswer,
    TopPerTokenAnswer,
    TopPerTokenQuestion,
)
from core.readings.reader import Needs, Row
from core.saes.encoder import LoadedSae


@dataclass(slots=True)
class ActiveFeaturesReader:
    """Non-zero activations."""

    question: ActiveFeaturesQuestion
    sae: LoadedSae
    needs: Needs = field(init=False)
    _answer: ActiveFeaturesAnswer | None = field(default=None, init=False)

    def __post_init__(self) -> None:
        self.needs = Needs(frozenset({self.sae.hook_name}), encodings=(self.question.source,))

    def absorb(self, source: str, encoding: torch.Tensor) -> None:
        """Picks the non-zero entries."""
        first = self.question.first_position
        positions, indexes = encoding[first:].nonzero(as_tuple=True)
        values = encoding[first:][positions, indexes].float()
        self._answer = ActiveFeaturesAnswer(
            (positions + first).cpu().numpy(), indexes.cpu().numpy(), values.cpu().numpy()
        )

    def finish(self, row: Row) -> ActiveFeaturesAnswer | None:
        """What was picked."""
        return self._answer


@dataclass(slots=True)
class TopPerTokenReader:
    """The strongest features at each position."""

    question: TopPerTokenQuestion
    sae: LoadedSae
    needs: Needs = field(init=False)
    _answer: TopPerTokenAnswer | None = field(default=None, init=False)

    def __post_init__(self) -> None:
        self.needs = Needs(frozenset({self.sae.hook_name}), encodings=(self.question.source,))

    def absorb(self, source: str, encoding: torch.Tensor) -> None:
        """Takes the top `k` of each position; at least one, at most all."""
        k = max(1, min(self.question.k, encoding.shape[-1]))
        best = torch.topk(encoding, k, dim=-1)
        self._answer = TopPerTokenAnswer(best.indices.cpu().numpy(), best.values.float().cpu().numpy())

    def finish(self, row: Row) -> TopPerTokenAnswer | None:
        """What was taken."""
        return self._answer


@dataclass(slots=True)
class PredictionSimilarityReader:
    """Cosine similarity of predicted codes, centred over positions."""

    sae: LoadedSae
    needs: Needs = field(init=False)

    def __post_init__(self) -> None:
        self.needs = Needs(frozenset({self.sae.hook_name}))

    def absorb(self, source: str, encoding: torch.Tensor) -> None:
        """Never called: predictions are computed in `finish`."""

    def finish(self, row: Row) -> MatrixAnswer:
        """`S = X X^T` with rows of `X` the centred, normalised predictions; the first position is left out."""
        predicted = self.sae.predict(row.activation(self.sae.hook_name)).float()
        centred = predicted - predicted.mean(0, keepdim=True)
        unit = torch.nn.functional.normalize(centred, dim=-1)
        return MatrixAnswer((unit @ unit.T)[1:, 1:].cpu().numpy())
