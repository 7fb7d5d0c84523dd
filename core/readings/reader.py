"""What every reader offers to the batch that feeds it.

    reader_for(question) -> needs -> forward pass -> absorb(source, encoding)* -> finish(row) -> answer

A reader declares what it needs before the pass, so that one pass and one encoding per SAE serve all questions of a
batch. It never keeps a whole encoding: what it wants from a source it takes in `absorb`.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch

from core.engine.attention import AttentionReading
from core.engine.capture import Capture
from core.saes.encoder import LoadedSae

Saes = Mapping[str, LoadedSae]


@dataclass(frozen=True, slots=True)
class Needs:
    """What a reader has to be given.

    Attributes:
        hook_names: Activations that `finish` reads.
        attention_layers: Layers whose attention `finish` reads.
        encodings: Sources to be encoded completely and passed to `absorb`.
    """

    hook_names: frozenset[str] = frozenset()
    attention_layers: frozenset[int] = frozenset()
    encodings: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Row:
    """One prompt's part of a forward pass."""

    capture: Capture = field(repr=False)
    number: int
    length: int

    def activation(self, hook_name: str) -> torch.Tensor:
        """The prompt's activations at a hook point, padding cut off: `[pos, d]`."""
        return self.capture.activations[hook_name][self.number, : self.length]

    def attention(self, layer: int) -> AttentionReading:
        """The whole batch's attention at a layer."""
        return self.capture.attention[layer]


class Reader(Protocol):
    """Reads the answer to one question."""

    needs: Needs

    def absorb(self, source: str, encoding: torch.Tensor) -> None:
        """Takes what it wants from the encoding `[pos, d_sae]` of one of its sources."""
        ...

    def finish(self, row: Row) -> Any:
        """The answer."""
        ...


def layer_of(hook_name: str) -> int:
    """The block that a hook point belongs to: 7 for `blocks.7.attn.hook_z`."""
    return int(hook_name.split(".")[1])
