"""What a graph will cost: bytes and work, predicted before anything touches the device.

    held bytes   a * n * d  +  (L + 1) * T * d * 4  +  (K + m) * (K + (L + 1) * T) * 4      as long as it is in progress
                 +  c * s * d
    row bytes    b * T * d  +  8 * (n + (L + 1) * T)  +  8 * c                              more for every row of a step
    work         (K + m) * L * T                                                            over throughput: seconds

d is the width of the residual stream, n the features whose vectors are held, K those of the graph, m its targets, L
layers, T tokens. Where decoder rows of s bytes per number are gathered for scoring, they are `c = 3 w + 8 T` at most, w
features writing to one layer (`cells`). Features are taken to be spread evenly over layers: w is n / L, or n for the
last layer of cross-layer transcoders. Seconds follow from work by what was measured on the device (`core.throughput`),
whose unit is then rows times layers times tokens.

Deliberately not here: guessing n before the prompt was traced, which is a matter of the transcoders served.
"""

from dataclasses import dataclass
from typing import Final, Self

from core.graph.transcoders.transcoder import TranscoderShape

_FLOAT_BYTES: Final = 4
_STEP_COPIES: Final = 7


@dataclass(frozen=True, slots=True)
class GraphSize:
    """The numbers that a graph's cost depends on.

    Attributes:
        n_layers: Layers of the model, L.
        n_tokens: Tokens of the prompt, T.
        d_model: Width of the residual stream, d.
        n_held: Features whose vectors are in memory: all active ones before the selection, K after it.
        n_features: Features of the graph, K.
        n_logits: Targets, m.
        reranked: Whether features are ranked several times, so that rows keep a column for each that is held.
    """

    n_layers: int
    n_tokens: int
    d_model: int
    n_held: int
    n_features: int
    n_logits: int
    reranked: bool = False


@dataclass(frozen=True, slots=True)
class GraphCost:
    """What one graph takes of a device.

    Attributes:
        held_bytes: Memory from admission to the end.
        row_bytes: Further memory for every row of it in a step.
        row_work: Work of a row: layers times tokens.
        rows: Rows in all.
    """

    held_bytes: int
    row_bytes: int
    row_work: int
    rows: int


@dataclass(frozen=True, slots=True)
class CostModel:
    """Constants of an engine and a transcoder set.

    Attributes:
        feature_bytes: a: bytes of a feature's vectors for each of d numbers.
        step_bytes: b: bytes of a row's working memory for each token and each of d numbers, over all layers together.
            An engine that keeps something of every layer has L in it.
        item_bytes: s: bytes of a number in held vectors.
        widest: w: share of held features that write to the layer to which most of them write; None where no decoder
            rows are gathered.
    """

    feature_bytes: float
    step_bytes: float
    item_bytes: int = 0
    widest: float | None = None

    @classmethod
    def of(cls, shape: TranscoderShape, item_bytes: int, *, keeps_layers: bool = False) -> Self:
        """Encoder and decoder rows as they are stored, and the gradient in float32 with what is computed from it.

        Args:
            shape: The transcoders; a cross-layer decoder writes to half of the layers on average.
            item_bytes: Bytes of a number in held vectors.
            keeps_layers: Whether the engine keeps the gradient of every layer, as autograd does.
        """
        decoder_rows = (shape.n_layers + 1) / 2 if shape.cross_layer else 1.0
        copies = _STEP_COPIES * (shape.n_layers if keeps_layers else 1)
        widest = 1.0 if shape.cross_layer else 1 / shape.n_layers
        return cls(
            feature_bytes=item_bytes * (1.0 + decoder_rows),
            step_bytes=float(copies * _FLOAT_BYTES),
            item_bytes=item_bytes,
            widest=None if keeps_layers else widest,
        )

    def predict(self, size: GraphSize) -> GraphCost:
        """The cost of a graph; see the module."""
        others = (size.n_layers + 1) * size.n_tokens
        rows = size.n_features + size.n_logits
        columns = (size.n_held if size.reranked else size.n_features) + others
        logit_rows = size.n_logits * (size.n_held + others)
        held = self.feature_bytes * size.n_held * size.d_model
        held += _FLOAT_BYTES * (others * size.d_model + rows * columns + logit_rows)
        gathered = self._gathered(size)
        row = self.step_bytes * size.n_tokens * size.d_model + 2 * _FLOAT_BYTES * (size.n_held + others + gathered)
        return GraphCost(
            held_bytes=int(held + gathered * self.item_bytes * size.d_model),
            row_bytes=int(row),
            row_work=size.n_layers * size.n_tokens,
            rows=rows,
        )

    def _gathered(self, size: GraphSize) -> float:
        """Decoder rows that are gathered to score those of one layer, at most."""
        return 0.0 if self.widest is None else 3 * self.widest * size.n_held + 8 * size.n_tokens
