"""The operation of `op` as one Triton kernel per site: a program per row, which ends at once where nothing is to do.

It reads every decision from the tables, so a captured graph that replays it serves whatever the tables say by then.
There is no autotuning: all ranks must run the same arithmetic. Sums of readings are added atomically, in an order that
may differ from run to run in their last bits; steering has no such freedom.
"""

from typing import TYPE_CHECKING, Any

import torch
import triton
import triton.language as tl

if TYPE_CHECKING:
    from core.steerer.tables import Tables

_ROW_PER_WARP = 1024


class TritonSteering:
    """The operation on a GPU; see the module."""

    def __init__(self, tables: "Tables") -> None:
        self._tables = tables
        self._block = triton.next_power_of_2(tables.sizes.width)
        self._warps = min(16, max(4, self._block // _ROW_PER_WARP))

    def __call__(self, hidden: torch.Tensor, residual: torch.Tensor | None, site: int) -> None:
        """Steers and reads the rows `[rows, width]` of one site."""
        tables, sizes = self._tables, self._tables.sizes
        launch: Any = _steer_row[(hidden.shape[0],)]
        launch(
            hidden,
            hidden if residual is None else residual,
            hidden.stride(0),
            0 if residual is None else residual.stride(0),
            tables.positions,
            tables.row_slot,
            tables.row_segment,
            tables.phases,
            tables.prompt_lengths,
            tables.spared,
            tables.vector_rows,
            tables.coefficients,
            tables.vectors,
            tables.segment_site,
            tables.sums,
            site,
            SITES=sizes.sites,
            OPERATORS=sizes.operators,
            WIDTH=sizes.width,
            SPARED_BYTES=tables.spared.shape[1],
            HAS_RESIDUAL=residual is not None,
            BLOCK=self._block,
            num_warps=self._warps,
        )


@triton.jit(do_not_specialize=["site"])
def _steer_row(  # noqa: PLR0913, PLR0917 - a kernel's arguments are its memory, and it is one loop
    hidden: Any,
    residual: Any,
    hidden_stride: Any,
    residual_stride: Any,
    positions: Any,
    row_slot: Any,
    row_segment: Any,
    phases: Any,
    prompt_lengths: Any,
    spared: Any,
    vector_rows: Any,
    coefficients: Any,
    vectors: Any,
    segment_site: Any,
    sums: Any,
    site: Any,
    SITES: tl.constexpr,
    OPERATORS: tl.constexpr,
    WIDTH: tl.constexpr,
    SPARED_BYTES: tl.constexpr,
    HAS_RESIDUAL: tl.constexpr,
    BLOCK: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64)
    segment = tl.load(row_segment + row).to(tl.int64)
    reads = (segment >= 0) & (tl.load(segment_site + tl.maximum(segment, 0)) == site)

    slot = tl.load(row_slot + row).to(tl.int64)
    own = tl.maximum(slot, 0)
    position = tl.load(positions + row)
    in_prompt = position < tl.load(prompt_lengths + own)
    bits = tl.load(spared + own * SPARED_BYTES + position // 8, mask=in_prompt, other=0).to(tl.int64)
    is_spared = in_prompt & (((bits >> (position % 8)) & 1) != 0)
    phase = tl.where(in_prompt, 1, 2)
    first = (own * SITES + site) * OPERATORS
    has_operator = tl.load(vector_rows + first * 2) >= 0
    writes = (slot >= 0) & ((tl.load(phases + own) & phase) != 0) & (is_spared == 0) & has_operator

    if reads | writes:
        columns = tl.arange(0, BLOCK)
        inside = columns < WIDTH
        place = hidden + row * hidden_stride + columns
        own_part = tl.load(place, mask=inside, other=0.0).to(tl.float32)
        x = own_part
        if HAS_RESIDUAL:
            x += tl.load(residual + row * residual_stride + columns, mask=inside, other=0.0).to(tl.float32)
        sum_place = sums + tl.maximum(segment, 0) * 2 * WIDTH + columns
        if reads:
            tl.atomic_add(sum_place, x, mask=inside)
        if writes:
            before = x
            for number in range(OPERATORS):
                operator = first + number
                read_row = tl.load(vector_rows + operator * 2).to(tl.int64)
                if read_row >= 0:
                    write_row = tl.load(vector_rows + operator * 2 + 1).to(tl.int64)
                    read = tl.load(vectors + read_row * WIDTH + columns, mask=inside, other=0.0)
                    write = tl.load(vectors + write_row * WIDTH + columns, mask=inside, other=0.0)
                    numbers = coefficients + operator * 5
                    along = tl.sum(x * read, 0)
                    bounded = tl.minimum(tl.maximum(along, tl.load(numbers + 3)), tl.load(numbers + 4))
                    factor = tl.load(numbers) + tl.load(numbers + 1) * along
                    factor += tl.load(numbers + 2) * (bounded - along)
                    x += factor * write
            stored = (own_part + (x - before)).to(hidden.dtype.element_ty)
            tl.store(place, stored, mask=inside)
            x = before - own_part + stored.to(tl.float32)
        if reads:
            tl.atomic_add(sum_place + WIDTH, x, mask=inside)
