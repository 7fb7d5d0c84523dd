"""Spans of a prompt, pooled where they were computed: only a vector or a number per span leaves the device."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch

from core.errors import InvalidRequest
from core.questions import DirectionAnswer, DirectionQuestion, MessageMeansAnswer, MessageMeansQuestion
from core.readings.reader import Needs, Row

_SMALLEST_NORM = 1e-12


def _check(spans: Sequence[tuple[int, int]], length: int) -> None:
    wrong = [span for span in spans if not 0 <= span[0] <= span[1] <= length]
    if wrong:
        raise InvalidRequest(f"The span {wrong[0]} does not lie in the prompt's {length} tokens.")


def span_means(activation: torch.Tensor, spans: Sequence[tuple[int, int]]) -> torch.Tensor:
    """Mean of `activation` `[pos, d]` over each span, `[spans, d]` in float32; zeros for an empty span."""
    means = torch.zeros(len(spans), activation.shape[-1], dtype=torch.float32, device=activation.device)
    for place, (start, end) in enumerate(spans):
        if end > start:
            means[place] = activation[start:end].float().mean(0)
    return means


@dataclass(slots=True)
class MessageMeansReader:
    """Mean activations."""

    question: MessageMeansQuestion
    needs: Needs = field(init=False)

    def __post_init__(self) -> None:
        _check(self.question.spans, len(self.question.tokens))
        self.needs = Needs(frozenset({self.question.hook_name}))

    def absorb(self, source: str, encoding: torch.Tensor) -> None:
        """Never called: no SAE is involved."""

    def finish(self, row: Row) -> MessageMeansAnswer:
        """One mean per span."""
        means = span_means(row.activation(self.question.hook_name), self.question.spans)
        return MessageMeansAnswer(means.cpu().numpy())


@dataclass(slots=True)
class DirectionReader:
    """Readings along one direction."""

    question: DirectionQuestion
    needs: Needs = field(init=False)

    def __post_init__(self) -> None:
        _check(self.question.spans, len(self.question.tokens))
        self.needs = Needs(frozenset({self.question.hook_name}))

    def absorb(self, source: str, encoding: torch.Tensor) -> None:
        """Never called: no SAE is involved."""

    def finish(self, row: Row) -> DirectionAnswer:
        """One reading per span.

        Raises:
            InvalidRequest: The direction or the centre does not have the activation's width.
        """
        activation = row.activation(self.question.hook_name)
        direction = self._vector("direction", self.question.direction, activation)
        centre = self._vector("centre", self.question.centre or (0.0,) * len(direction), activation)
        values = torch.zeros(len(self.question.spans), dtype=torch.float32, device=activation.device)
        for place, (start, end) in enumerate(self.question.spans):
            if end > start:
                values[place] = self._read(activation[start:end].float(), direction, centre)
        return DirectionAnswer(values.cpu().numpy())

    def _vector(self, name: str, numbers: tuple[float, ...], activation: torch.Tensor) -> torch.Tensor:
        if len(numbers) != activation.shape[-1]:
            raise InvalidRequest(
                f"The {name} has {len(numbers)} numbers but {self.question.hook_name} has width "
                f"{activation.shape[-1]}.",
                "Send a vector of the hook point's width.",
            )
        return torch.tensor(numbers, dtype=torch.float32, device=activation.device)

    def _read(self, span: torch.Tensor, direction: torch.Tensor, centre: torch.Tensor) -> torch.Tensor:
        """The reading of one span `[n, d]`."""
        if self.question.pooling == "mean":
            span = span.mean(0, keepdim=True)
        elif self.question.pooling == "last":
            span = span[-1:]
        shifted = span - centre
        if self.question.normalize:
            shifted = shifted / shifted.norm(dim=-1, keepdim=True).clamp(min=_SMALLEST_NORM)
        return (shifted @ direction).max()
