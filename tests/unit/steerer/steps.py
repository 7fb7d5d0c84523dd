"""Random steps of a worker, and what steering must make of them, worked out in float64 without any table."""

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import torch

from core.steerer.request import Program, Reading, Span, Step, digest_of, pack
from core.steerer.roster import Roster
from core.steerer.tables import Tables, TableSizes
from core.steering.operators import Operator
from core.steering.specification import Floats, Method, Positions

SIZES = TableSizes(rows=40, slots=5, positions=64, sites=3, operators=3, vectors=16, segments=8, width=24)
Steering = Callable[[torch.Tensor, torch.Tensor | None, int], None]


@dataclass
class Sequence:
    """A sequence of a step: rows `start .. start + count - 1` of its positions."""

    prompt_length: int
    start: int
    count: int
    operators: list[tuple[int, Operator]] = field(default_factory=list)
    positions: Positions = "all"
    spared: tuple[int, ...] = ()

    def steers(self, position: int) -> bool:
        if position >= self.prompt_length:
            return self.positions != "prompt"
        return self.positions != "generated" and position not in self.spared


class Worker:
    """Tables and a roster without vLLM."""

    def __init__(self) -> None:
        self.positions = torch.zeros(SIZES.rows, dtype=torch.int64)
        self.tables = Tables.allocate(SIZES, self.positions)
        self.roster = Roster(self.tables, range(SIZES.sites))
        self._rows: dict[str, int] = {}

    def store(self, operator: Operator) -> None:
        for vector in (operator.read, operator.write):
            digest = digest_of(vector)
            if digest not in self._rows:
                self._rows[digest] = len(self._rows)
                self.roster.put_vector(self._rows[digest], digest, vector.tobytes())

    def admit(self, name: str, sequence: Sequence, reading: Reading | None = None) -> None:
        for _, operator in sequence.operators:
            self.store(operator)
        steps = tuple(Step.of(site, operator) for site, operator in sequence.operators)
        program = Program(steps, sequence.positions, sequence.spared) if steps else None
        self.roster.admit(name, sequence.prompt_length, pack(program, reading))

    def lay_out(self, step: dict[str, Sequence]) -> int:
        """Announces a step; returns its rows."""
        row = 0
        for sequence in step.values():
            stop = row + sequence.count
            self.positions[row:stop] = torch.arange(sequence.start, sequence.start + sequence.count)
            row = stop
        parts = step.values()
        self.roster.lay_out(list(step), [s.count for s in parts], [s.start for s in parts])
        return row


def operators(rng: np.random.Generator, width: int = SIZES.width) -> list[Operator]:
    """One of each method."""
    return [
        Operator.of(method, rng.standard_normal(width).astype(np.float32), coefficient, at_least=at_least)
        for method, coefficient, at_least in (
            (Method.SIMPLE_ADDITIVE, 1.7, None),
            (Method.ORTHOGONAL_DECOMP, -2.5, None),
            (Method.PROJECTION_CAP, 0.4, -0.3),
            (Method.ABLATION, 0.0, None),
        )
    ]


def random_step(rng: np.random.Generator) -> dict[str, Sequence]:
    """Steered and unsteered sequences, prefill and decode, more often than not across the end of the prompt."""
    pool = operators(rng)
    step: dict[str, Sequence] = {}
    for number in range(5):
        prompt_length = int(rng.integers(2, 12))
        start = int(rng.integers(0, 10))
        chosen = [
            (int(rng.integers(SIZES.sites)), pool[int(rng.integers(len(pool)))]) for _ in range(int(rng.integers(0, 4)))
        ]
        step[f"s{number}"] = Sequence(
            prompt_length,
            start,
            int(rng.integers(1, 7)),
            chosen,
            ("all", "prompt", "generated")[int(rng.integers(3))],
            tuple(sorted({int(p) for p in rng.integers(0, prompt_length, 2)})) if rng.random() < 0.5 else (),
        )
    return step


def expected(step: dict[str, Sequence], x: Floats, site: int) -> np.ndarray:
    """Activations `[rows, width]` after the site, float64."""
    result = x.astype(np.float64)
    row = 0
    for sequence in step.values():
        for position in range(sequence.start, sequence.start + sequence.count):
            for at, operator in sequence.operators:
                if at == site and sequence.steers(position):
                    add, scale, clamp, low, high = (float(number) for number in operator.coefficients)
                    along = float(result[row] @ operator.read.astype(np.float64))
                    factor = add + scale * along + clamp * (min(max(along, low), high) - along)
                    result[row] = result[row] + factor * operator.write
            row += 1
    return result


def check_against_float64(build: Callable[[Tables], Steering], seeds: range) -> None:
    """Many random steps, with and without a residual."""
    for seed in seeds:
        rng = np.random.default_rng(seed)
        worker = Worker()
        steering = build(worker.tables)
        step = random_step(rng)
        for name, sequence in step.items():
            worker.admit(name, sequence)
        rows = worker.lay_out(step)
        hidden, residual = (
            torch.from_numpy(rng.standard_normal((rows + 3, SIZES.width)).astype(np.float32)) for _ in range(2)
        )
        for site in range(SIZES.sites):
            for rest in (residual, None):
                before = hidden if rest is None else hidden + rest
                written = hidden.clone()
                steering(written, rest, site)
                found = written if rest is None else written + rest
                wanted = expected(step, before[:rows].numpy(), site)
                np.testing.assert_allclose(found[:rows].numpy(), wanted, atol=2e-5)
                untouched = np.all(wanted == before[:rows].numpy(), axis=1)
                assert torch.equal(written[:rows][untouched], hidden[:rows][untouched])
                assert torch.equal(written[rows:], hidden[rows:])


def check_readings(build: Callable[[Tables], Steering]) -> None:
    """Sums before and after steering, and nothing twice when positions are computed anew."""
    rng = np.random.default_rng(1)
    worker = Worker()
    steering = build(worker.tables)
    pool = operators(rng)
    read = Sequence(6, 0, 6, [(1, pool[0])])
    worker.admit("read", read, Reading(7, 1, (Span(0, 2, 3), Span(3, 8, 5))))
    total = {(row, when): np.zeros(SIZES.width) for row in (3, 5) for when in (0, 1)}
    seen: set[int] = set()
    for start, count in ((0, 4), (4, 2), (6, 1), (0, 7), (7, 1), (8, 1)):  # the fourth computes everything anew
        part = Sequence(6, start, count, read.operators)
        step = {"other": Sequence(3, 0, 2), "read": part}
        rows = worker.lay_out(step)
        hidden = torch.from_numpy(rng.standard_normal((rows, SIZES.width)).astype(np.float32))
        before, after = hidden.numpy().copy(), expected(step, hidden.numpy(), 1)
        for site in range(SIZES.sites):
            steering(hidden.clone() if site != 1 else hidden, None, site)
        for offset in range(count):
            position = start + offset
            row = 3 if position < 2 else 5 if 3 <= position < 8 else None
            if row is not None and position not in seen:
                total[row, 0] += before[2 + offset]
                total[row, 1] += after[2 + offset]
            seen.add(position)
    for (row, when), wanted in total.items():
        np.testing.assert_allclose(worker.tables.sums[row, when].numpy(), wanted, atol=1e-4)
    assert not worker.tables.sums[[0, 1, 2, 4, 6, 7]].any()
