"""How long a computation takes in this process: one prompt after another, and in batches.

Used where there is no server: the limit, and interp-engine.
"""

import json
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch

from benchmarks.computation import Computation, token_ids
from benchmarks.load import percentile
from benchmarks.workload import ROUTES, Route
from benchmarks.world import read_prompts

BATCHES = (1, 8, 16, 32)
_WARM_UP_CALLS = 2
_CALLS_AT_LEAST = 3


def latencies_ms(call: Callable[[int], Any], seconds: float) -> list[float]:
    """Calls `call(0)`, `call(1)`, ... for `seconds` and returns how long each took, ascending."""
    for number in range(_WARM_UP_CALLS):
        call(number)
    took_ms: list[float] = []
    until_s = time.perf_counter() + seconds
    while time.perf_counter() < until_s or len(took_ms) < _CALLS_AT_LEAST:
        began_s = time.perf_counter()
        call(_WARM_UP_CALLS + len(took_ms))
        took_ms.append((time.perf_counter() - began_s) * 1000)
    return sorted(took_ms)


def time_routes(
    computation: Computation, tokenizer: Any, routes: Sequence[str], seconds: float, *, whole: bool
) -> dict[str, Any]:
    """Median latency and throughput of every route at every batch size.

    Returns:
        By route, by batch size as a string: `p50_ms` of one call, `per_s` prompts. Tokenising is not included.
    """
    ids = token_ids(tokenizer, read_prompts())
    return {name: _time_route(computation, ROUTES[name], ids, seconds, whole=whole) for name in routes}


def _time_route(
    computation: Computation, route: Route, ids: torch.Tensor, seconds: float, *, whole: bool
) -> dict[str, dict[str, float]]:
    found: dict[str, dict[str, float]] = {}
    for batch in BATCHES:

        def call(number: int, batch: int = batch) -> Any:
            chosen = [(number * batch + row) % len(ids) for row in range(batch)]
            return computation.answer(route, ids[chosen], chosen, whole=whole)

        took_ms = latencies_ms(call, seconds)
        p50_ms = percentile(took_ms, 50)
        found[str(batch)] = {"p50_ms": round(p50_ms, 3), "per_s": round(batch * 1000 / p50_ms, 3)}
    return found


def report(measure: Callable[[list[str], float], dict[str, Any]]) -> None:
    """Runs a measurement asked for on the command line, `SECONDS ROUTE...`, and prints it as one line of JSON."""
    seconds, *routes = sys.argv[1:]
    result = measure(routes, float(seconds))
    print(json.dumps(result))
