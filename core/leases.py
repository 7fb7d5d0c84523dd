"""Who holds which SAE, and what must go so that another fits: the bookkeeping under `core.residency`.

    Slot      one key on the device; its bytes count from the moment its load is decided
    Waiter    one request's whole wish: it gets every key at once or none, so no two requests can deadlock
    Capacity  how much fits at all
    HostTier  what left the device and is still in host memory

Everything here is arithmetic on one event loop, without a single await, and knows nothing of time.

Deliberately not here: loading, moving and dropping values, and the order in which waiters are served.
"""

import asyncio
from collections import OrderedDict
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from core.errors import TooLarge

Key = TypeVar("Key")
Value = TypeVar("Value")


@dataclass(slots=True, eq=False)
class Slot(Generic[Key, Value]):
    """One key's place on the device.

    Attributes:
        key: What is there.
        size_bytes: What it takes, reserved before the load begins.
        load: The load, whose result is the value.
        loaded: Whether the load has succeeded.
        leases: Requests that hold it; above zero it stays.
        last_lease: Ordinal of the latest lease; the lowest goes first.
    """

    key: Key
    size_bytes: int
    load: asyncio.Task[Value]
    loaded: bool = False
    leases: int = 0
    last_lease: int = 0

    @property
    def evictable(self) -> bool:
        """Whether nobody uses it and nothing is being written to it."""
        return self.loaded and self.leases == 0


@dataclass(slots=True, eq=False)
class Waiter(Generic[Key, Value]):
    """One request's wish for several keys at once.

    Attributes:
        sizes: Bytes of each key, in the order asked for.
        granted: Done when `slots` are leased.
        slots: What the request holds; empty before the grant and after the release.
    """

    sizes: Mapping[Key, int]
    granted: asyncio.Future[None]
    slots: list[Slot[Key, Value]] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Capacity:
    """How much fits on the device.

    Attributes:
        budget_bytes: Most bytes.
        max_entries: Most keys; None means as many as the bytes allow.
    """

    budget_bytes: int
    max_entries: int | None = None

    def __post_init__(self) -> None:
        if self.budget_bytes < 1 or (self.max_entries is not None and self.max_entries < 1):
            raise ValueError("a residency needs room for at least one byte and one entry")

    def excess(self, sizes: Collection[int]) -> tuple[int, int]:
        """Bytes and entries by which these sizes exceed what fits; zero or less where they do not."""
        over = 0 if self.max_entries is None else len(sizes) - self.max_entries
        return sum(sizes) - self.budget_bytes, over

    def covers(self, sizes: Collection[int]) -> bool:
        """Whether entries of these sizes fit together."""
        return max(self.excess(sizes)) <= 0

    def check(self, sizes: Collection[int]) -> None:
        """Do nothing if entries of these sizes fit together.

        Raises:
            TooLarge: They never will.
        """
        if self.covers(sizes):
            return
        hint = "ask for fewer sources in one request" if len(sizes) > 1 else "it needs a larger replica"
        if sum(sizes) > self.budget_bytes:
            needed, budget = readable_bytes(sum(sizes)), readable_bytes(self.budget_bytes)
            raise TooLarge(f"the sources asked for take {needed}; {budget} are set aside for sources", hint)
        raise TooLarge(f"{len(sizes)} sources were asked for at once; {self.max_entries} may be loaded", hint)


def choose_victims(slots: Iterable[Slot[Key, Value]], bytes_over: int, entries_over: int) -> list[Slot[Key, Value]]:
    """The slots whose leaving makes up for the excess, and not one more than that takes.

    Least recently leased first, those in use after all others. As long as a slot is chosen and gets no new
    lease it stays the first of those in use, so whoever waits for it is served in the end.
    """
    chosen: list[Slot[Key, Value]] = []
    for slot in sorted(slots, key=lambda slot: (not slot.evictable, slot.last_lease)):
        if max(bytes_over, entries_over) <= 0:
            break
        chosen.append(slot)
        bytes_over -= slot.size_bytes
        entries_over -= 1
    for slot in reversed(tuple(chosen)):
        if bytes_over + slot.size_bytes <= 0 and entries_over < 0:
            chosen.remove(slot)
            bytes_over += slot.size_bytes
            entries_over += 1
    return chosen


class HostTier(Generic[Key, Value]):
    """Values in host memory, the least recently used leaving first; a budget of 0 keeps nothing.

    A value stays when it is copied back to the device: leaving the device again then costs no copy.
    """

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
        if key not in self._held:
            return None
        self._held.move_to_end(key)
        return self._held[key][0]

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


def readable_bytes(count: int) -> str:
    """The figure in GiB, or in MiB below one GiB."""
    return f"{count / 2**30:.2f} GiB" if count >= 2**30 else f"{count / 2**20:.2f} MiB"
