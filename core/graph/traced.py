"""A graph between its tracing and its attribution: the value that travels from one process to the other.

    Tracer: model, encoders  --Traced-->  Attributor: value and output weights only

It holds what is specific to the prompt, on the CPU: the frozen prompt with the selected features and their encoder
rows, and the targets' rows. Tens of megabytes; it can be attributed anywhere, in shards, and as often as needed.
"""

from dataclasses import dataclass

from torch import Tensor

from core.graph.effects import LogitNodes
from core.graph.frozen import FrozenPrompt
from core.graph.linear.weights import LinearWeights
from core.graph.replay import Replay
from core.graph.selection import Selected


@dataclass(frozen=True, slots=True, eq=False)
class Traced:
    """A prompt whose features have been selected.

    Attributes:
        prompt: With the K selected features and their encoder rows.
        logits: The m targets.
        effects: The targets' rows, `[m, K + (L + 1) * T]` float32.
        n_active: Features that were active, selected or not.
    """

    prompt: FrozenPrompt
    logits: LogitNodes
    effects: Tensor
    n_active: int

    def selected(self, weights: LinearWeights) -> Selected:
        """The same on the device of a model's weights, ready for replay."""
        replay = Replay(weights, self.prompt)
        return Selected(replay, self.logits, self.effects.to(weights.device), self.n_active)
