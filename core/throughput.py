"""Throughput: how fast the device has been lately, from which queue times and `Retry-After` follow.

Deliberately not here: any clock. Who runs the step says how long it took.
"""

from typing import Final

_DECAY: Final = 0.8


class Throughput:
    """Tokens per second over recent steps.

    Both sums decay step by step, so a step weighs as much as the time it took and a tiny one cannot swing the
    rate.
    """

    def __init__(self) -> None:
        self._tokens = 0.0
        self._seconds = 0.0

    def record(self, tokens: int, seconds: float) -> None:
        """Add one step."""
        self._tokens = self._tokens * _DECAY + tokens
        self._seconds = self._seconds * _DECAY + seconds

    def seconds_for(self, tokens: int) -> float:
        """How long this many tokens take; 0.0 before anything was measured."""
        return tokens * self._seconds / self._tokens if self._tokens else 0.0
