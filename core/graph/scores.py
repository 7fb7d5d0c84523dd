"""How much of a prediction an attribution graph explains, before anything is pruned from it.

Both scores follow Ameisen et al. 2025 ("Circuit Tracing", section on evaluating graphs). They are computed where the
weights are: a viewer sees the pruned graph only, and cannot.
"""

from dataclasses import dataclass

from torch import Tensor

from core.graph.effects import Effects


@dataclass(frozen=True, slots=True)
class GraphScores:
    """Shares from 0 to 1; None where nothing flows, so that there is nothing to explain.

    Attributes:
        replacement: Of what flows from the logits to where it began, the share that began at tokens rather than errors.
        completeness: Over all nodes, weighted by what flows through them, the mean share of their input that is not
            errors. A node without input counts as complete.
    """

    replacement: float | None
    completeness: float | None


def graph_scores(effects: Effects, influence: Tensor) -> GraphScores:
    """The scores of an unpruned graph.

    A node's share of errors times its flow, summed over nodes, is what flows into errors. So completeness needs no
    second look at the weights: it is one minus the errors' part of all that flows.

    Args:
        effects: The graph.
        influence: What flows through each source, `[K + (L + 1) * T]`: `rectangle.Rectangle.of(effects).influence()`.
    """
    n_errors = effects.n_layers * effects.n_positions
    _, errors, tokens = influence.split([len(effects.features), n_errors, effects.n_positions])
    into_errors, into_tokens = errors.sum().item(), tokens.sum().item()
    flow = influence.sum().item() + effects.logits.probabilities.double().sum().item()
    ends = into_errors + into_tokens
    return GraphScores(
        replacement=into_tokens / ends if ends > 0 else None,
        completeness=1 - into_errors / flow if flow > 0 else None,
    )
