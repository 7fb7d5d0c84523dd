"""The operation at every residual site: reads the site's activations, then changes them in place.

    hidden, residual, site  ->  hidden += what the tables say for each row       (the activation is hidden + residual)

It is registered with torch as `rayscope::steer`, so that graph capture records it and torch.compile passes it through
unopened. vLLM adds `residual` to `hidden` only inside the next layer's norm, so the change goes into `hidden` and
`residual` is never written. Under tensor parallelism both are whole and equal on every rank, and so is the change.

Two forms: one Triton kernel per site (`kernel`), and `steer_rows` in plain torch for machines without Triton, which
takes its mathematics from `core.steering.operators`. Rows that nothing steers are not written at all, so they stay
what they are to the last bit.
"""

from collections.abc import Callable, Mapping
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


def _steered(tables: "Tables") -> tuple[torch.Tensor, torch.Tensor]:
    """The rows of the step that are steered, and their slots."""
    rows = (tables.row_slot >= 0).nonzero().squeeze(1)
    slots, positions = tables.row_slot[rows].long(), tables.positions[rows]
    in_prompt = positions < tables.prompt_lengths[slots]
    phase = torch.where(in_prompt, PROMPT, GENERATED)
    position = torch.where(in_prompt, positions, 0)
    spared = in_prompt & (((tables.spared[slots, position // 8].long() >> (position % 8)) & 1) != 0)
    chosen = ((tables.phases[slots] & phase) != 0) & ~spared
    return rows[chosen], slots[chosen]


@dataclass(frozen=True, slots=True, eq=False)
class _Operators:
    """What is done at one site: to which rows, and each row's operators in order, as `change` takes them."""

    rows: torch.Tensor
    stages: tuple[tuple[torch.Tensor, torch.Tensor, torch.Tensor], ...]


@dataclass(frozen=True, slots=True, eq=False)
class _Step:
    """What all sites of one step share: what is done where, and what is read."""

    version: int
    content: int
    rows: torch.Tensor
    slots: torch.Tensor
    operators: Mapping[int, _Operators]
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
            step = self._step = self._look_up(step)
        reads = site in step.read_sites
        if reads:
            self._add(step, hidden, residual, site, after=False)
        if site in step.operators:
            _apply(step.operators[site], hidden, residual)
        if reads:
            self._add(step, hidden, residual, site, after=True)

    def _look_up(self, before: _Step | None) -> _Step:
        tables = self._tables
        rows, slots = _steered(tables)
        # From one decoding step to the next hardly anything changes.
        same = (
            before is not None
            and before.content == tables.content
            and torch.equal(before.rows, rows)
            and torch.equal(before.slots, slots)
        )
        operators = before.operators if before is not None and same else self._operators(rows, slots)
        read_rows = (tables.row_segment >= 0).nonzero().squeeze(1)
        segments = tables.row_segment[read_rows].long()
        read_sites = frozenset(tables.segment_site[segments].tolist())
        return _Step(tables.version, tables.content, rows, slots, operators, read_rows, segments, read_sites)

    def _operators(self, rows: torch.Tensor, slots: torch.Tensor) -> dict[int, _Operators]:
        """What is done at each site that has anything to do."""
        tables = self._tables
        busy = (tables.vector_rows[slots.unique(), :, 0, 0] >= 0).any(0).nonzero().squeeze(1)
        found: dict[int, _Operators] = {}
        for site in busy.tolist():
            vector_rows = tables.vector_rows[slots, site].long()
            chosen = (vector_rows[:, 0, 0] >= 0).nonzero().squeeze(1)
            used = vector_rows[chosen]
            coefficients = tables.coefficients[slots[chosen], site]
            numbers = range(int((used[:, :, 0] >= 0).any(0).sum()))
            vectors = [tables.vectors[used[:, number].clamp_min(0)] for number in numbers]
            stages = [(both[:, 0], both[:, 1], coefficients[:, n]) for n, both in zip(numbers, vectors, strict=True)]
            found[site] = _Operators(rows[chosen], tuple(stages))
        return found

    def _add(self, step: _Step, hidden: torch.Tensor, residual: torch.Tensor | None, site: int, *, after: bool) -> None:
        here = self._tables.segment_site[step.segments] == site
        activations = _activation(hidden, residual, step.read_rows[here])
        self._tables.sums[:, int(after)].index_add_(0, step.segments[here], activations)


def _apply(operators: _Operators, hidden: torch.Tensor, residual: torch.Tensor | None) -> None:
    own = hidden[operators.rows].float()
    before = own if residual is None else own + residual[operators.rows].float()
    x = before
    for read, write, coefficients in operators.stages:
        x = x + change(x, read, write, coefficients)
    hidden[operators.rows] = (own + (x - before)).to(hidden.dtype)


def _activation(hidden: torch.Tensor, residual: torch.Tensor | None, rows: torch.Tensor) -> torch.Tensor:
    """The activations of some rows, float32."""
    x = hidden[rows].float()
    return x if residual is None else x + residual[rows].float()
