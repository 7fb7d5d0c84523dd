"""The host tier: what left the device and is still in host memory, so that it comes back without a read from disk.

It holds values that never change, so a value stays when it is copied back to the device: leaving the device again
then costs no copy.

Deliberately not here: the copies themselves (the loader's) and deciding what leaves the device (`core.leases`).
"""

from collections import OrderedDict
from collections.abc import Iterable
from typing import Generic

from core.leases import Key, Value


class HostTier(Generic[Key, Value]):
    """Values in host memory, the least recently used leaving first; a budget of 0 keeps nothing."""

    def __init__(self, budget_bytes: int) -> None:
        self._budget_bytes = budget_bytes
        self._held: OrderedDict[Key, tuple[Value, int]] = OrderedDict()
        self._reserved: dict[Key, int] = {}

    @property
    def used_bytes(self) -> int:
        """Bytes held, copies under way included."""
        return sum(size for _, size in self._held.values()) + sum(self._reserved.values())

    def get(self, key: Key) -> Value | None:
        """The value, which becomes the most recently used; None if it is not here."""
        self.touch([key])
        return self._held[key][0] if key in self._held else None

    def touch(self, keys: Iterable[Key]) -> None:
        """Let those of the keys that are here become the most recently used."""
        for key in keys:
            if key in self._held:
                self._held.move_to_end(key)

    def reserve(self, key: Key, size_bytes: int) -> bool:
        """Set bytes aside for a copy, at the cost of older values; False if it can never fit."""
        if size_bytes + sum(self._reserved.values()) > self._budget_bytes:
            return False
        while self.used_bytes + size_bytes > self._budget_bytes:
            self._held.popitem(last=False)
        self._reserved[key] = size_bytes
        return True

    def put(self, key: Key, value: Value) -> None:
        """Keep the value whose bytes were reserved."""
        self._held[key] = (value, self._reserved.pop(key))

    def cancel(self, key: Key) -> None:
        """Give the reserved bytes back."""
        del self._reserved[key]

    def clear(self) -> None:
        """Drop every value."""
        self._held.clear()
