"""What is written in `make bench-steering`: 16 sequences, each of them steered in a way of its own.

Neighbours differ in method, layer and direction, so that rows of a batch have nothing in common that an engine could
use. Prompts are random tokens and never come twice, so that no cache of prefixes can answer; only number 0 is the
same for every engine, and what they write then is compared.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np

from core.generation.requests import Continuation, Sampling
from core.steering.operators import Intervention, Operator
from core.steering.specification import Floats, HookPlace, Method, Push, Steering, VectorDirection

PROMPT_TOKENS = 32
SEQUENCES = 16
COMPARED = 0
"""Number of the prompts that every engine writes on."""

_COMPARED_TOKENS = 8
_FIRST_PLAIN_TOKEN = 3  # those before are special
# Far enough to be seen in what is written: a coefficient, a factor and a bound, for directions of length 1.
_PUSHES = ((Method.SIMPLE_ADDITIVE, 4.0), (Method.ORTHOGONAL_DECOMP, -3.0), (Method.PROJECTION_CAP, -4.0))

Prompt = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Shape:
    """What of a model the workload depends on."""

    n_layers: int
    width: int
    vocabulary: int

    @classmethod
    def read(cls, folder: Path) -> Self:
        """Reads it off a model's `config.json`."""
        config = json.loads((folder / "config.json").read_text())
        return cls(config["num_hidden_layers"], config["hidden_size"], config["vocab_size"])


@dataclass(frozen=True, slots=True, eq=False)
class Way:
    """How one sequence is steered: one direction `[d]` of length 1, written where block `layer` returns."""

    method: Method
    layer: int
    direction: Floats
    coefficient: float

    @property
    def place(self) -> HookPlace:
        """Where it is written."""
        return HookPlace(self.layer, "resid_post")

    @property
    def steering(self) -> Steering:
        """As a request has it."""
        return Steering((Push(VectorDirection(self.place, self.direction), self.coefficient),), self.method)

    @property
    def interventions(self) -> tuple[Intervention, ...]:
        """As an engine applies it."""
        return (Intervention(self.place, Operator.of(self.method, self.direction, self.coefficient)),)


def ways(shape: Shape) -> list[Way]:
    """The 16 ways of steering."""
    random = np.random.default_rng(0)
    found: list[Way] = []
    for number in range(SEQUENCES):
        method, coefficient = _PUSHES[number % len(_PUSHES)]
        direction = random.standard_normal(shape.width)
        direction /= np.linalg.norm(direction)
        found.append(Way(method, number % shape.n_layers, direction.astype(np.float32), coefficient))
    return found


def prompts(shape: Shape, number: int) -> list[Prompt]:
    """The 16 prompts of pass `number`."""
    random = np.random.default_rng([1, number])
    drawn = random.integers(_FIRST_PLAIN_TOKEN, shape.vocabulary, (SEQUENCES, PROMPT_TOKENS))
    return [tuple(row) for row in drawn.tolist()]


def continuation(prompt: Prompt, way: Way | None, n_tokens: int) -> Continuation:
    """Exactly `n_tokens` tokens, the likeliest ones, behind a prompt; no way leaves the model alone."""
    return Continuation(prompt, Sampling(n_tokens, temperature=0.0), None if way is None else way.steering)


def agreement(written: Sequence[Sequence[int]], expected: Sequence[Sequence[int]]) -> float:
    """Share of sequences that begin with the same tokens."""
    same = [a[:_COMPARED_TOKENS] == b[:_COMPARED_TOKENS] for a, b in zip(written, expected, strict=True)]
    return sum(same) / len(same)
