"""How long different kinds of work take in one process, by turns.

    warm-up, each kind once -> pass 1: A B C -> pass 2: C B A -> ...

Kinds alternate within a pass and passes alternate in direction, so that a machine that grows slower favours none.
"""

import json
import sys
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from statistics import median
from typing import Any, Self

from benchmarks.steering_cases import COMPARED

Tokens = Sequence[Sequence[int]]
Work = Callable[[int], Awaitable[Tokens]]
"""Writes on the prompts of a number and returns what it wrote."""


@dataclass(frozen=True, slots=True)
class Order:
    """What a process is told to do, in the order of its command line.

    Attributes:
        folder: The model.
        passes: How often each kind of work has its turn.
        seconds: How long a turn lasts at least: short work is done several times in one.
        n_tokens: Tokens that a sequence gains.
    """

    folder: Path
    passes: int
    seconds: float
    n_tokens: int

    @classmethod
    def read(cls, words: Sequence[str]) -> Self:
        """Reads a command line."""
        folder, passes, seconds, n_tokens = words
        return cls(Path(folder), int(passes), float(seconds), int(n_tokens))

    @property
    def words(self) -> list[str]:
        """The command line."""
        return [str(self.folder), str(self.passes), str(self.seconds), str(self.n_tokens)]


async def time_by_turns(kinds: Mapping[str, Work], order: Order, compared: str) -> dict[str, Any]:
    """Times kinds of work.

    Args:
        kinds: By name.
        order: How often and how much.
        compared: Whose tokens are reported.

    Returns:
        `ms`, median milliseconds by kind, and `written`, the tokens of `compared` on the prompts that engines share.

    Raises:
        RuntimeError: Some sequence has not gained the tokens that were ordered.
    """
    written = {name: await _run(work, COMPARED, order) for name, work in kinds.items()}
    took_ms: dict[str, list[float]] = {name: [] for name in kinds}
    numbers = count(COMPARED + 1)
    for one in range(order.passes):
        for name in kinds if one % 2 == 0 else reversed(kinds):
            took_ms[name] += await _turn(kinds[name], numbers, order)
    return {
        "ms": {name: round(median(times), 3) for name, times in took_ms.items()},
        "written": written[compared],
    }


async def _turn(work: Work, numbers: Iterator[int], order: Order) -> list[float]:
    began_s = ended_s = time.perf_counter()
    took_ms: list[float] = []
    while not took_ms or ended_s - began_s < order.seconds:
        started_s = ended_s
        await _run(work, next(numbers), order)
        ended_s = time.perf_counter()
        took_ms.append((ended_s - started_s) * 1000)
    return took_ms


async def _run(work: Work, number: int, order: Order) -> Tokens:
    written = await work(number)
    if any(len(tokens) != order.n_tokens for tokens in written):
        raise RuntimeError(f"asked for {order.n_tokens} tokens, got {[len(tokens) for tokens in written]}")
    return [list(tokens) for tokens in written]


def read_order() -> Order:
    """The order on this process's command line."""
    return Order.read(sys.argv[1:])


def report(result: Mapping[str, Any]) -> None:
    """Hands a result to the process that ordered it."""
    print(json.dumps(result), flush=True)
