"""How much of the weight files one set of transcoders holds in memory: the files used longest ago give way.

What counts is what a file keeps of itself between calls: mapped pages, or arrays that had to be decoded. Encoders that
are resident on the device are not counted, nor are the rows that were handed out.
"""

from collections import OrderedDict
from threading import Lock
from typing import Protocol


class Releasable(Protocol):
    """A file that holds memory."""

    @property
    def held_bytes(self) -> int:
        """Most bytes that it may hold at present."""
        ...

    def release(self) -> None:
        """Give them back; what is read later is read again."""
        ...


class ByteBudget:
    """A limit that is kept after every use, by several threads.

    Args:
        budget_bytes: Most bytes held between calls; 0 keeps nothing.
    """

    def __init__(self, budget_bytes: int) -> None:
        self._budget_bytes = budget_bytes
        self._lock = Lock()
        self._files: OrderedDict[int, Releasable] = OrderedDict()

    @property
    def held_bytes(self) -> int:
        """Bytes that all files may hold at present."""
        return sum(file.held_bytes for file in self._files.values())

    def used(self, file: Releasable) -> None:
        """Says that a file was just used, and makes others, or in the end this one, give memory back."""
        with self._lock:
            self._files[id(file)] = file
            self._files.move_to_end(id(file))
            while self._files and self.held_bytes > self._budget_bytes:
                self._files.popitem(last=False)[1].release()
