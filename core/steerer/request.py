"""A request's steering and readings as they travel to vLLM's workers, inside `SamplingParams.extra_args`.

Small on purpose, because every rank of every step's scheduler output may carry it: numbers and vector digests, never
vectors (`vectors` brings those once) and no feature names. Everything a worker must know comes along, so that no call
per request is needed and nothing has to be cleaned up when a client leaves.

Deliberately not checked here: the engine that writes it refuses what it cannot serve before anything is sent.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any, Final, Self

from core.steering.operators import Operator
from core.steering.specification import Floats, Positions

EXTRA_KEY: Final = "rayscope"
"""The entry of `extra_args` that is ours."""

PROMPT: Final = 1
GENERATED: Final = 2
PHASES: Final[Mapping[Positions, int]] = {"prompt": PROMPT, "generated": GENERATED, "all": PROMPT | GENERATED}


def digest_of(vector: Floats) -> str:
    """Names a vector by its content."""
    return blake2b(vector.tobytes(), digest_size=16).hexdigest()


@dataclass(frozen=True, slots=True)
class Step:
    """One operator at one residual site.

    Attributes:
        site: Residual site, see `core.steering.specification`.
        read: Digest of the direction that is measured.
        write: Digest of the direction that is written.
        coefficients: As in `core.steering.operators.Operator`.
    """

    site: int
    read: str
    write: str
    coefficients: tuple[float, ...]

    @classmethod
    def of(cls, site: int, operator: Operator) -> Self:
        """The step of an operator."""
        coefficients = tuple(float(number) for number in operator.coefficients)
        return cls(site, digest_of(operator.read), digest_of(operator.write), coefficients)


@dataclass(frozen=True, slots=True)
class Program:
    """How one sequence is steered.

    Attributes:
        steps: In the order in which they apply.
        positions: Which positions are steered.
        spared: Positions of the prompt that are left alone, ascending.
    """

    steps: tuple[Step, ...]
    positions: Positions = "all"
    spared: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Span:
    """Positions `start .. stop - 1` of a sequence, whose activations are summed into row `row` of the workers' sums."""

    start: int
    stop: int
    row: int


@dataclass(frozen=True, slots=True)
class Reading:
    """Which activations of a sequence are summed.

    Attributes:
        key: Unique among all readings of the engine's life: a resumed sequence is told from a new one by it.
        site: Residual site that is read, before and after steering.
        spans: Disjoint.
    """

    key: int
    site: int
    spans: tuple[Span, ...]


def pack(program: Program | None, reading: Reading | None) -> dict[str, Any] | None:
    """Writes `extra_args`; None where the model is left alone and nothing is read."""
    packed: dict[str, Any] = {}
    if program is not None:
        steps = [[step.site, step.read, step.write, *step.coefficients] for step in program.steps]
        packed["program"] = [steps, program.positions, list(program.spared)]
    if reading is not None:
        spans = [[span.start, span.stop, span.row] for span in reading.spans]
        packed["reading"] = [reading.key, reading.site, spans]
    return {EXTRA_KEY: packed} if packed else None


def unpack(extra_args: Mapping[str, Any] | None) -> tuple[Program | None, Reading | None]:
    """Reads what `pack` wrote."""
    packed = (extra_args or {}).get(EXTRA_KEY, {})
    program = reading = None
    if "program" in packed:
        steps, positions, spared = packed["program"]
        program = Program(
            tuple(Step(site, read, write, tuple(numbers)) for site, read, write, *numbers in steps),
            positions,
            tuple(spared),
        )
    if "reading" in packed:
        key, site, spans = packed["reading"]
        reading = Reading(key, site, tuple(Span(*span) for span in spans))
    return program, reading
