"""One feature or one direction over a prompt."""

from dataclasses import dataclass, field

import numpy as np
import torch

from core.errors import InvalidRequest
from core.questions import Attribution, FeatureAnswer, FeatureQuestion, VectorQuestion
from core.readings.reader import Needs, Row, layer_of
from core.saes.attribution import direct_feature_attribution
from core.saes.encoder import LoadedSae


@dataclass(slots=True)
class FeatureReader:
    """Activation of one feature. Encodes one column only, where the architecture allows it."""

    question: FeatureQuestion
    sae: LoadedSae
    needs: Needs = field(init=False)
    _column: torch.Tensor | None = field(default=None, init=False)

    def __post_init__(self) -> None:
        self.sae.check_index(self.question.index)
        layers = frozenset({layer_of(self.sae.hook_name)}) if self.question.dfa else frozenset[int]()
        encodings = () if self.sae.elementwise else (self.question.source,)
        self.needs = Needs(frozenset({self.sae.hook_name}), layers, encodings)

    def absorb(self, source: str, encoding: torch.Tensor) -> None:
        """Takes the feature's column."""
        self._column = encoding[:, self.question.index].clone()

    def finish(self, row: Row) -> FeatureAnswer:
        """Values without the dropped position, and DFA of the strongest one.

        DFA is computed in full-prompt positions; then the dropped position is cut off and the target shifted, so that
        values and attribution line up.
        """
        column = self._column
        if column is None:
            column = self.sae.encode_columns(row.activation(self.sae.hook_name), [self.question.index])[:, 0]
        values = column.float().cpu().numpy().copy()
        values[list(self.question.silent_positions)] = 0.0
        offset = int(self.question.drop_first)
        values = values[offset:]
        if not self.question.dfa or not len(values):
            return FeatureAnswer(values)
        target = int(np.argmax(values))
        attention = row.attention(layer_of(self.sae.hook_name))
        dfa = direct_feature_attribution(
            self.sae, self.question.index, attention, row.number, row.length, target + offset
        )
        return FeatureAnswer(values, Attribution(dfa[offset:].float().cpu().numpy(), target))


@dataclass(slots=True)
class VectorReader:
    """Projection on a direction, in the activation's precision and without normalising it."""

    question: VectorQuestion
    needs: Needs = field(init=False)

    def __post_init__(self) -> None:
        self.needs = Needs(frozenset({self.question.hook_name}))

    def absorb(self, source: str, encoding: torch.Tensor) -> None:
        """Never called: no SAE is involved."""

    def finish(self, row: Row) -> FeatureAnswer:
        """The dot product at each position.

        Raises:
            InvalidRequest: The vector does not have the activation's width.
        """
        activation = row.activation(self.question.hook_name)
        if len(self.question.vector) != activation.shape[-1]:
            raise InvalidRequest(
                f"The vector has {len(self.question.vector)} numbers but {self.question.hook_name} has width "
                f"{activation.shape[-1]}.",
                "Send a vector of the hook point's width.",
            )
        vector = torch.tensor(self.question.vector, dtype=activation.dtype, device=activation.device)
        return FeatureAnswer((activation @ vector).float().cpu().numpy())
