"""Turns: whose blocks of rows make the next step, so that a small graph does not wait for a large one.

Each of several graphs has at most one block in a step. Who has had the least work done goes first, work being rows
times layers times tokens; who is ahead of that by more than the largest block sits the step out. So graphs that always
have rows have had the same work done at any moment, to within two of the largest blocks, however long their prompts. A
graph that comes is placed level with the one that is furthest behind: it neither waits for the past nor is paid for it.

Urgent blocks, those that decide what a graph computes next, come before all others. A graph has few of them, once.

Arithmetic only: no clock, no device, no event loop.
"""

from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from typing import Generic, TypeVar

Key = TypeVar("Key", bound=Hashable)


@dataclass(frozen=True, slots=True)
class Want:
    """The next block of one graph.

    Attributes:
        rows: Its rows, at least 1.
        row_work: Work of one of them, at least 1.
        urgent: Whether it comes before others.
    """

    rows: int
    row_work: int
    urgent: bool = False

    @property
    def work(self) -> int:
        """Work of the block."""
        return self.rows * self.row_work


class Turns(Generic[Key]):
    """How much work has been done for each graph."""

    def __init__(self) -> None:
        self._done: dict[Key, int] = {}

    def take(self, wants: Mapping[Key, Want], room: int) -> list[Key]:
        """The graphs whose blocks make a step of `room` rows; the first is in it even if it alone has more.

        Who is not among the wants is forgotten.
        """
        least = min((self._done[key] for key in wants if key in self._done), default=0)
        self._done = {key: self._done.get(key, least) for key in wants}
        lead = max((want.work for want in wants.values()), default=0)
        taken: list[Key] = []
        for key in sorted(wants, key=lambda key: (not wants[key].urgent, self._done[key])):
            want = wants[key]
            ahead = not want.urgent and self._done[key] > least + lead
            if taken and (ahead or want.rows > room):
                continue
            taken.append(key)
            room -= want.rows
            self._done[key] += want.work
        return taken
