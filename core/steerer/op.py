"""The operation at every residual site: reads the site's activations, then changes them in place.

    hidden, residual, site  ->  hidden += what the tables say for each row       (the activation is hidden + residual)

It is registered with torch as `rayscope::steer`, so that graph capture records it and torch.compile passes it through
unopened. vLLM adds `residual` to `hidden` only inside the next layer's norm, so the change goes into `hidden` and
`residual` is never written. Under tensor parallelism both are whole and equal on every rank, and so is the change.

Two forms: one Triton kernel per site (`kernel`), and `steer_rows` in plain torch for machines without Triton, which
takes its mathematics from `core.steering.operators`. Rows that nothing steers are not written at all, so they stay
what they are to the last bit.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import torch

from core.steerer.request import GENERATED, PROMPT
from core.steering.operators import change

if TYPE_CHECKING:
    from core.steerer.tables import Tables

NAMESPACE: Final = "rayscope"
SteerRows = Callable[[torch.Tensor, torch.Tensor | None, int], None]


def register(steer: SteerRows) -> torch.library.Library:
    """Makes `steer` the operation of this process, which has one model.

    Returns:
        The registration; it lasts as long as this object.
    """
    library = torch.library.Library(NAMESPACE, "FRAGMENT")
    library.define("steer(Tensor(a!) hidden, Tensor? residual, int site) -> ()")
    library.impl("steer", steer, "CompositeExplicitAutograd")
    torch.library.register_fake(f"{NAMESPACE}::steer", lambda hidden, residual, site: None, lib=library)
    return library


def steered(tables: "Tables", n_rows: int) -> torch.Tensor:
    """Which rows of the step are steered, `[n_rows]` bool."""
    slots = tables.row_slot[:n_rows].long()
    positions = tables.positions[:n_rows]
    slot = slots.clamp_min(0)
    in_prompt = positions < tables.prompt_lengths[slot]
    phase = torch.where(in_prompt, PROMPT, GENERATED)
    position = torch.where(in_prompt, positions, 0)
    spared = in_prompt & (((tables.spared[slot, position // 8].long() >> (position % 8)) & 1) != 0)
    return (slots >= 0) & ((tables.phases[slot] & phase) != 0) & ~spared


@dataclass(frozen=True, slots=True, eq=False)
class _Step:
    """What all sites of one step share: its steered rows, its read rows, and where there is anything to do."""

    version: int
    rows: torch.Tensor
    slots: torch.Tensor
    sites: frozenset[int]
    read_rows: torch.Tensor
    segments: torch.Tensor
    read_sites: frozenset[int]


class TorchSteering:
    """The operation in plain torch; see the module."""

    def __init__(self, tables: "Tables") -> None:
        self._tables = tables
        self._step: _Step | None = None

    def __call__(self, hidden: torch.Tensor, residual: torch.Tensor | None, site: int) -> None:
        """Steers and reads the rows `[rows, width]` of one site."""
        step = self._step
        if step is None or step.version != self._tables.version:
            step = self._step = self._look_up()
        reads = site in step.read_sites
        if reads:
            self._add(step, hidden, residual, site, after=False)
        if site in step.sites:
            self._change(step, hidden, residual, site)
        if reads:
            self._add(step, hidden, residual, site, after=True)

    def _look_up(self) -> _Step:
        tables = self._tables
        rows = steered(tables, tables.sizes.rows).nonzero().squeeze(1)
        slots = tables.row_slot[rows].long()
        busy = (tables.vector_rows[slots.unique(), :, 0, 0] >= 0).any(0).nonzero().squeeze(1)
        read_rows = (tables.row_segment >= 0).nonzero().squeeze(1)
        segments = tables.row_segment[read_rows].long()
        read_sites = frozenset(tables.segment_site[segments].tolist())
        return _Step(tables.version, rows, slots, frozenset(busy.tolist()), read_rows, segments, read_sites)

    def _change(self, step: _Step, hidden: torch.Tensor, residual: torch.Tensor | None, site: int) -> None:
        tables = self._tables
        vector_rows = tables.vector_rows[step.slots, site].long()
        chosen = (vector_rows[:, 0, 0] >= 0).nonzero().squeeze(1)
        rows, vector_rows = step.rows[chosen], vector_rows[chosen]
        coefficients = tables.coefficients[step.slots[chosen], site]
        before = _activation(hidden, residual, rows)
        x = before
        for number in range(int((vector_rows[:, :, 0] >= 0).any(0).sum())):
            read, write = vector_rows[:, number].clamp_min(0).unbind(-1)
            x = x + change(x, tables.vectors[read], tables.vectors[write], coefficients[:, number])
        hidden[rows] = (hidden[rows].float() + (x - before)).to(hidden.dtype)

    def _add(self, step: _Step, hidden: torch.Tensor, residual: torch.Tensor | None, site: int, *, after: bool) -> None:
        here = self._tables.segment_site[step.segments] == site
        activations = _activation(hidden, residual, step.read_rows[here])
        self._tables.sums[:, int(after)].index_add_(0, step.segments[here], activations)


def _activation(hidden: torch.Tensor, residual: torch.Tensor | None, rows: torch.Tensor) -> torch.Tensor:
    """The activations of some rows, float32."""
    x = hidden[rows].float()
    return x if residual is None else x + residual[rows].float()
