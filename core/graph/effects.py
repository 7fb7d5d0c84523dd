"""What an attribution engine finds: which nodes a prompt's graph has, and what each does directly to each other.

    rows (targets)      features | logits
    columns (sources)   features | errors, layer by layer | tokens

Only features and logits are targets, and logits are never sources, so the square adjacency matrix of the literature is
mostly zeros. It is kept as this rectangle from attribution to the finished graph. This is the plain value that engines,
pruning and scores share; it computes nothing.
"""

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True, slots=True, eq=False)
class FeatureNodes:
    """Active features, ordered by layer, position and index.

    Attributes:
        layer: `[K]` int64.
        position: `[K]` int64.
        index: `[K]` int64, column of its transcoder.
        activation: `[K]` float32.
    """

    layer: Tensor
    position: Tensor
    index: Tensor
    activation: Tensor

    def __len__(self) -> int:
        return len(self.layer)


@dataclass(frozen=True, slots=True, eq=False)
class LogitNodes:
    """What the graph explains: output tokens, or directions that stand for them, most probable first.

    Attributes:
        token_ids: Vocabulary ids, `[m]`; ids from the vocabulary's size on are custom targets.
        labels: Their texts.
        probabilities: Softmax of the last position, `[m]` float32; a custom target's weight.
    """

    token_ids: tuple[int, ...]
    labels: tuple[str, ...]
    probabilities: Tensor

    def __len__(self) -> int:
        return len(self.token_ids)


@dataclass(frozen=True, slots=True, eq=False)
class Effects:
    """Direct effects between the nodes of one prompt.

    Attributes:
        token_ids: The prompt, `[T]`, BOS included.
        n_layers: Layers of the model, L.
        features: The K features that were selected.
        logits: The m targets at the last position.
        n_active: Features that were active, selected or not.
        weights: `[K + m, K + (L + 1) * T]` float32. Entry `(t, s)` is what source s adds to target t: to a feature's
            pre-activation, or to a logit less the mean logit. Column `K + l * T + p` is layer l's error at position p,
            column `K + L * T + p` the token there.
    """

    token_ids: tuple[int, ...]
    n_layers: int
    features: FeatureNodes
    logits: LogitNodes
    n_active: int
    weights: Tensor

    @property
    def n_positions(self) -> int:
        """Positions of the prompt, T."""
        return len(self.token_ids)
