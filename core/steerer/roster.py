"""The roster of a worker: which sequences are steered or read, and where their rows are in the coming step.

It is the one writer of the tables, between steps, on the thread that runs the model. Every rank keeps its own and all
agree, because all see the same scheduler output in the same order.

A sequence is on the roster from its first step until vLLM reports it finished or aborted. It takes a slot of the tables
when it is first laid out, and loses it only to a sequence that needs one while it is preempted itself.

Nothing here raises for a request: an exception in a worker would end the engine for everybody. What cannot be served,
and should have been refused before it came here, is left unsteered and counted in `faults`.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from core.steerer.request import PHASES, Program, Reading, unpack
from core.steerer.tables import IDLE_COEFFICIENTS, NOTHING, SlotEntry, Tables


@dataclass(slots=True, eq=False)
class _Sequence:
    entry: SlotEntry | None
    reading: Reading | None


class Roster:
    """See the module.

    Args:
        tables: The tables to write.
        sites: Sites at which the model is hooked.

    Attributes:
        faults: Requests that could not be steered as asked.
    """

    def __init__(self, tables: Tables, sites: Iterable[int]) -> None:
        sizes = tables.sizes
        self._tables = tables
        self._sites = frozenset(sites)
        self._sequences: dict[str, _Sequence] = {}
        self._slots: dict[str, int] = {}  # least recently used first
        self._free = list(range(sizes.slots))
        self._vector_rows: dict[str, int] = {}
        self._digests: dict[int, str] = {}
        self._read_up_to: dict[int, int] = {}
        self._row_slot = np.full(sizes.rows, NOTHING, dtype=np.int32)
        self._row_segment = np.full(sizes.rows, NOTHING, dtype=np.int32)
        self._filled = 0
        self.faults = 0

    @property
    def sequences(self) -> tuple[str, ...]:
        """Who is on the roster."""
        return tuple(self._sequences)

    def put_vector(self, row: int, digest: str, content: bytes) -> None:
        """Stores a direction, float32 bytes, in place of what the row held."""
        before = self._digests.get(row)
        if before is not None and self._vector_rows.get(before) == row:
            del self._vector_rows[before]
        self._tables.write_vector(row, content)
        self._vector_rows[digest] = row
        self._digests[row] = digest

    def admit(self, name: str, prompt_length: int, extra_args: Mapping[str, Any] | None) -> None:
        """Notes a sequence that vLLM begins or resumes; those that ask nothing of us are passed over."""
        try:
            program, reading = unpack(extra_args)
            entry = None if program is None else self._entry(program, prompt_length)
            if reading is not None:
                self._begin(reading)
        except (LookupError, TypeError, ValueError):
            self.faults += 1
            return
        if entry is not None or reading is not None:
            self._sequences[name] = _Sequence(entry, reading)

    def release(self, name: str) -> None:
        """Forgets a sequence."""
        if self._sequences.pop(name, None) is not None and name in self._slots:
            self._free.append(self._slots.pop(name))

    def lay_out(self, names: Sequence[str], counts: Sequence[int], starts: Sequence[int]) -> None:
        """Writes whose the rows of the coming step are.

        Args:
            names: Sequences in the order of their rows.
            counts: Rows of each.
            starts: Absolute position of each one's first row.
        """
        if not self._sequences and not self._filled:
            return
        filled, self._filled = self._filled, 0
        self._row_slot[:filled] = NOTHING
        self._row_segment[:filled] = NOTHING
        row = 0
        for name, count_, start in zip(names, counts, starts, strict=False):
            count = int(count_)
            sequence = self._sequences.get(name)
            if sequence is not None:
                if sequence.entry is not None:
                    self._row_slot[row : row + count] = self._slot(name, sequence.entry, names)
                if sequence.reading is not None:
                    self._mark(sequence.reading, self._row_segment[row : row + count], int(start))
                self._filled = row + count
            row += count
        end = max(filled, self._filled)
        if end:
            self._tables.write_rows(self._row_slot[:end], self._row_segment[:end])

    def finish_reading(self, key: int) -> None:
        """Forgets how far a reading went."""
        self._read_up_to.pop(key, None)

    def _entry(self, program: Program, prompt_length: int) -> SlotEntry:
        sizes = self._tables.sizes
        spared = np.zeros(-(-sizes.positions // 8) * 8, dtype=np.uint8)
        spared[list(program.spared)] = 1
        vector_rows = np.full((sizes.sites, sizes.operators, 2), NOTHING, dtype=np.int32)
        coefficients = np.full((*vector_rows.shape[:2], len(IDLE_COEFFICIENTS)), IDLE_COEFFICIENTS, dtype=np.float32)
        used = dict.fromkeys(self._sites, 0)
        for step in program.steps:
            at = step.site, used[step.site]
            vector_rows[at] = self._vector_rows[step.read], self._vector_rows[step.write]
            coefficients[at] = step.coefficients
            used[step.site] += 1
        return SlotEntry(
            PHASES[program.positions], prompt_length, np.packbits(spared, bitorder="little"), vector_rows, coefficients
        )

    def _begin(self, reading: Reading) -> None:
        if reading.key not in self._read_up_to:
            self._tables.begin_segments([span.row for span in reading.spans], reading.site)
            self._read_up_to[reading.key] = 0

    def _mark(self, reading: Reading, segments: npt.NDArray[np.int32], start: int) -> None:
        """Adds positions beyond the farthest one read, so that what preemption computes anew counts once."""
        stop = start + len(segments)
        begin = self._read_up_to.get(reading.key, stop)
        for span in reading.spans:
            first, last = max(span.start, begin), min(span.stop, stop)
            if first < last:
                segments[first - start : last - start] = span.row
        if stop > begin:
            self._read_up_to[reading.key] = stop

    def _slot(self, name: str, entry: SlotEntry, in_step: Sequence[str]) -> int:
        slot = self._slots.pop(name, None)
        if slot is None:
            slot = self._free.pop() if self._free else self._take_slot(frozenset(in_step))
            self._tables.write_slot(slot, entry)
        self._slots[name] = slot
        return slot

    def _take_slot(self, in_step: frozenset[str]) -> int:
        idle = next(name for name in self._slots if name not in in_step)
        return self._slots.pop(idle)
