"""The model itself, without any SAE: residual stream and attention."""

from dataclasses import dataclass, field

import torch

from core.errors import InvalidRequest
from core.questions import AttentionAnswer, AttentionQuestion, ResidualAnswer, ResidualQuestion
from core.readings.reader import Needs, Row


def _residual(layer: int) -> str:
    return f"blocks.{layer}.hook_resid_post"


@dataclass(slots=True)
class ResidualReader:
    """The residual stream at the last token."""

    question: ResidualQuestion
    needs: Needs = field(init=False)

    def __post_init__(self) -> None:
        self.needs = Needs(frozenset(_residual(layer) for layer in self.question.layers))

    def absorb(self, source: str, encoding: torch.Tensor) -> None:
        """Never called: no SAE is involved."""

    def finish(self, row: Row) -> ResidualAnswer:
        """One row per layer."""
        rows = [row.activation(_residual(layer))[-1] for layer in self.question.layers]
        values = torch.stack(rows)
        dtype = str(values.dtype).removeprefix("torch.")
        return ResidualAnswer(self.question.layers, values.float().cpu().numpy(), dtype, str(values.device))


@dataclass(slots=True)
class AttentionReader:
    """The strongest attention links of one head."""

    question: AttentionQuestion
    needs: Needs = field(init=False)

    def __post_init__(self) -> None:
        self.needs = Needs(attention_layers=frozenset({self.question.layer}))

    def absorb(self, source: str, encoding: torch.Tensor) -> None:
        """Never called: no SAE is involved."""

    def finish(self, row: Row) -> AttentionAnswer:
        """Per query the `top` strongest keys that reach `floor`; a lone token attends to nothing worth showing.

        Raises:
            InvalidRequest: The layer has no such head.
        """
        heads = row.attention(self.question.layer).pattern[row.number]
        if not 0 <= self.question.head < len(heads):
            raise InvalidRequest(f"Invalid head: {self.question.head}. Must be in [0, {len(heads)}).")
        pattern = heads[self.question.head, : row.length, : row.length].float()
        if row.length < 2:
            pattern = pattern[:0, :0]
        kept = torch.zeros_like(pattern, dtype=torch.bool)
        strongest = torch.topk(pattern, min(self.question.top, pattern.shape[-1]), dim=-1).indices
        kept.scatter_(1, strongest, True)
        queries, keys = (kept & (pattern >= self.question.floor)).nonzero(as_tuple=True)
        inner = pattern[1:, 1:]
        return AttentionAnswer(
            queries.cpu().numpy(),
            keys.cpu().numpy(),
            pattern[queries, keys].cpu().numpy(),
            float(inner.max()) if inner.numel() else 0.0,
        )
