"""What is left of an attribution graph after pruning: the plain value that travels from pruning to the document.

    nodes, numbered      features | errors, layer by layer | tokens | logits
    links, by target     starts[t] .. starts[t + 1] are the links into node t, sources ascending

NumPy only, so that who writes documents needs no torch; eight bytes a link, so that a million links are 8 MB. It can
not be pruned again at other thresholds: that starts from `effects.Effects`, which whoever offers it must keep.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Numbers = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True, eq=False)
class PrunedGraph:
    """Kept nodes and links of one prompt: f features, e errors, all T tokens, all m logits.

    Attributes:
        token_ids: The prompt, `[T]`, BOS included.
        n_layers: Layers of the model, L.
        n_active: Features that were active, selected or not.
        n_selected: Features that effects were computed for.
        node_threshold: Share of the influence over nodes that was kept.
        edge_threshold: Share of the influence over links that was kept.
        replacement_score: Of the graph before pruning, see `scores`; None if nothing flows.
        completeness_score: The same.
        layer: Of features and errors, `[f + e]`.
        position: Of features and errors, `[f + e]`.
        index: Of features, `[f]`.
        activation: Of features, `[f]`, finite.
        influence: Of features, errors and tokens, `[f + e + T]`: the share of all influence that flows through the
            node and those with more. Small means important.
        logit_ids: Vocabulary ids, `[m]`, most probable first.
        logit_labels: Their texts.
        logit_probabilities: `[m]`.
        starts: `[f + e + T + m + 1]`: where the links into each node begin.
        sources: Node number of each link's source, int32.
        weights: Direct effect of each link, signed, finite, never 0.
    """

    token_ids: tuple[int, ...]
    n_layers: int
    n_active: int
    n_selected: int
    node_threshold: float
    edge_threshold: float
    replacement_score: float | None
    completeness_score: float | None
    layer: Numbers
    position: Numbers
    index: Numbers
    activation: Floats
    influence: Floats
    logit_ids: tuple[int, ...]
    logit_labels: tuple[str, ...]
    logit_probabilities: Floats
    starts: Numbers
    sources: npt.NDArray[np.int32]
    weights: Floats

    @property
    def n_nodes(self) -> int:
        """Kept nodes."""
        return len(self.starts) - 1

    @property
    def n_links(self) -> int:
        """Kept links."""
        return len(self.sources)

    @property
    def targets(self) -> npt.NDArray[np.int32]:
        """Node number of each link's target, int32."""
        return np.repeat(np.arange(self.n_nodes, dtype=np.int32), np.diff(self.starts))
