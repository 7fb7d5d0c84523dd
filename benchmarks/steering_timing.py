"""How long different kinds of work take in one process, by turns.

    warm-up, each kind once -> pass 1: A B C -> pass 2: C B A -> ...

Kinds alternate within a pass and passes alternate in direction, so that a machine that grows slower favours none.
"""

import json
import sys
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
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
        passes: How often each kind of work is timed.
        n_tokens: Tokens that a sequence gains.
    """

    folder: Path
    passes: int
    n_tokens: int

    @classmethod
    def read(cls, words: Sequence[str]) -> Self:
        """Reads a command line."""
        folder, passes, n_tokens = words
        return cls(Path(folder), int(passes), int(n_tokens))

    @property
    def words(self) -> list[str]:
        """The command line."""
        return [str(self.folder), str(self.passes), str(self.n_tokens)]


async def time_by_turns(kinds: Mapping[str, Work], order: Order, compared: str) -> dict[str, Any]:
    """Times kinds of work.

    Args:
        kinds: By name.
        order: How often and how much.
        compared: Whose tokens are reported.

    Returns:
        `ms`, median milliseconds by kind, and `written`, the tokens of `compared` on the prompts that all engines share.

    Raises:
        RuntimeError: Some sequence has not gained the tokens that were ordered.
    """
    written = {name: await _run(work, COMPARED, order) for name, work in kinds.items()}
    took_ms: dict[str, list[float]] = {name: [] for name in kinds}
    number = COMPARED
    for one in range(order.passes):
        names = list(kinds) if one % 2 == 0 else list(reversed(kinds))
        for name in names:
            number += 1
            began_s = time.perf_counter()
            await _run(kinds[name], number, order)
            took_ms[name].append((time.perf_counter() - began_s) * 1000)
    return {
        "ms": {name: round(median(times), 3) for name, times in took_ms.items()},
        "written": written[compared],
    }


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
