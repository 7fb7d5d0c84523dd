"""The tables on the device that say, for every row of a step, how it is steered and where it is read.

CUDA graphs replay without Python, so nothing about a request may be decided by Python during a forward pass. Instead
every site's kernel looks the same tables up, row by row, as multi-LoRA kernels do, and the tables change between steps:

    row        -> slot, segment               written each step                 `row_slot`, `row_segment`
    slot       -> phases, prompt, spared      written when a request enters     `phases`, `prompt_lengths`, ...
    slot, site -> up to K operators           likewise                          `vector_rows`, `coefficients`
    operator   -> its two directions          uploaded once per content         `vectors`
    segment    -> site it reads, its sums     written when a reading begins, and by the kernel

All addresses are fixed from the model's loading on. Steps that use no operator carry a row of -1 and coefficients that
change nothing.
"""

import math
from dataclasses import dataclass, field
from typing import Any, Final, Self

import numpy as np
import numpy.typing as npt
import torch

from core.steering.operators import COEFFICIENTS

NOTHING: Final = -1
"""No slot, no segment, no operator."""

IDLE_COEFFICIENTS: Final = (0.0, 0.0, 0.0, -math.inf, math.inf)
"""An operator that changes nothing."""


@dataclass(frozen=True, slots=True)
class TableSizes:
    """How large the tables are.

    Attributes:
        rows: Most tokens of one step.
        slots: Most sequences of one step.
        positions: Most tokens of one sequence.
        sites: Residual sites of the model.
        operators: Operators that one sequence may have at one site.
        vectors: Directions that may be on the device at once.
        segments: Spans that may be summed at once.
        width: Numbers of an activation.
    """

    rows: int
    slots: int
    positions: int
    sites: int
    operators: int
    vectors: int
    segments: int
    width: int


@dataclass(slots=True, eq=False)
class Tables:
    """See the module. `[rows]` and the like refer to `TableSizes`.

    Attributes:
        sizes: How large they are.
        positions: `[rows]` int64, absolute position of each row. vLLM's own buffer, which it writes before each step.
        row_slot: `[rows]` int32.
        row_segment: `[rows]` int32.
        phases: `[slots]` int32, bits `PROMPT` and `GENERATED`.
        prompt_lengths: `[slots]` int32, of the original prompt: a sequence resumed after preemption keeps it.
        spared: `[slots, ceil(positions / 8)]` uint8, bit `p % 8` of byte `p // 8` spares prompt position `p`.
        vector_rows: `[slots, sites, operators, 2]` int32, rows of `vectors` that are read and written.
        coefficients: `[slots, sites, operators, 5]` float32.
        vectors: `[vectors, width]` float32.
        segment_site: `[segments]` int32.
        sums: `[segments, 2, width]` float32, activations before and after steering.
        version: Counts the steps, so that what was derived from a step's rows is known to be stale.
        content: Counts the changes of slots and vectors, likewise.
    """

    sizes: TableSizes
    positions: torch.Tensor
    row_slot: torch.Tensor
    row_segment: torch.Tensor
    phases: torch.Tensor
    prompt_lengths: torch.Tensor
    spared: torch.Tensor
    vector_rows: torch.Tensor
    coefficients: torch.Tensor
    vectors: torch.Tensor
    segment_site: torch.Tensor
    sums: torch.Tensor
    version: int = field(default=0, init=False)
    content: int = field(default=0, init=False)

    @classmethod
    def allocate(cls, sizes: TableSizes, positions: torch.Tensor) -> Self:
        """Empty tables beside the buffer of positions, on its device."""

        def full(shape: tuple[int, ...], value: float, dtype: torch.dtype) -> torch.Tensor:
            return torch.full(shape, value, dtype=dtype, device=positions.device)

        per_site = (sizes.slots, sizes.sites, sizes.operators)
        coefficients = full((*per_site, COEFFICIENTS), 0.0, torch.float32)
        coefficients[:] = torch.tensor(IDLE_COEFFICIENTS)
        return cls(
            sizes=sizes,
            positions=positions,
            row_slot=full((sizes.rows,), NOTHING, torch.int32),
            row_segment=full((sizes.rows,), NOTHING, torch.int32),
            phases=full((sizes.slots,), 0, torch.int32),
            prompt_lengths=full((sizes.slots,), 0, torch.int32),
            spared=full((sizes.slots, -(-sizes.positions // 8)), 0, torch.uint8),
            vector_rows=full((*per_site, 2), NOTHING, torch.int32),
            coefficients=coefficients,
            vectors=full((sizes.vectors, sizes.width), 0.0, torch.float32),
            segment_site=full((sizes.segments,), NOTHING, torch.int32),
            sums=full((sizes.segments, 2, sizes.width), 0.0, torch.float32),
        )

    def write_slot(self, slot: int, entry: "SlotEntry") -> None:
        """Gives a slot to a sequence."""
        self.phases[slot] = entry.phases
        self.prompt_lengths[slot] = entry.prompt_length
        send(entry.spared, self.spared[slot])
        send(entry.vector_rows, self.vector_rows[slot])
        send(entry.coefficients, self.coefficients[slot])
        self.content += 1

    def write_vector(self, row: int, content: bytes) -> None:
        """Stores a direction, float32 bytes."""
        self.vectors[row] = torch.frombuffer(bytearray(content), dtype=torch.float32)
        self.content += 1

    def write_rows(self, slots: npt.NDArray[np.int32], segments: npt.NDArray[np.int32]) -> None:
        """Says whose the first rows of the coming step are."""
        send(slots, self.row_slot[: len(slots)])
        send(segments, self.row_segment[: len(segments)])
        self.version += 1

    def begin_segments(self, rows: list[int], site: int) -> None:
        """Empties sums and binds them to a site."""
        index = torch.tensor(rows, device=self.sums.device)
        self.sums[index] = 0.0
        self.segment_site[index] = site


@dataclass(frozen=True, slots=True, eq=False)
class SlotEntry:
    """A sequence's part of the tables, ready to be copied. Shapes as in `Tables`, without the slot."""

    phases: int
    prompt_length: int
    spared: npt.NDArray[np.uint8]
    vector_rows: npt.NDArray[np.int32]
    coefficients: npt.NDArray[np.float32]


def send(array: npt.NDArray[Any], target: torch.Tensor) -> None:
    """Copies to the device without waiting for it: from fresh pinned memory, in the order of the current stream."""
    source = torch.from_numpy(array)
    if target.is_cuda:
        source = source.pin_memory()
    target.copy_(source, non_blocking=target.is_cuda)
