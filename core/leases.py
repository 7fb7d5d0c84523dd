"""Who holds which SAE, and what must go so that another fits: the bookkeeping under `core.residency`.

    Slot      one key on the device; its bytes count from the moment its load is decided
    Waiter    one request's whole wish: it gets every key at once or none, so no two requests can deadlock
    Capacity  how much fits at all
    Ledger    every slot, and whether a wish can be granted

Everything here is arithmetic on one event loop, without a single await, and knows nothing of time.

Deliberately not here: loading, moving and dropping values, and the order in which waiters are served.
"""

import asyncio
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final, Generic, TypeVar

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
        arrival: Done when the load has ended, as well or as badly as it did.
        leases: Requests that hold it; above zero it stays.
        last_lease: Ordinal of the latest lease; the lowest goes first.
    """

    key: Key
    size_bytes: int
    load: asyncio.Task[Value]
    arrival: asyncio.Future[None]
    leases: int = 0
    last_lease: int = 0

    @property
    def loaded(self) -> bool:
        """Whether the value is there."""
        return self.arrival.done() and self.arrival.exception() is None

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


@dataclass(slots=True)
class Ledger(Generic[Key, Value]):
    """Every slot there is.

    Attributes:
        capacity: What they must fit in.
        slots: By key, whether loaded or on the way.
        leaving: By key, evicted and still being copied away; their bytes are taken until that is done.
    """

    capacity: Capacity
    slots: dict[Key, Slot[Key, Value]] = field(default_factory=dict)
    leaving: dict[Key, Slot[Key, Value]] = field(default_factory=dict)

    def reserved(self) -> list[int]:
        """Bytes of each slot, those leaving included."""
        return [slot.size_bytes for slot in (*self.slots.values(), *self.leaving.values())]

    def missing(self, waiter: Waiter[Key, Value]) -> list[int]:
        """Bytes of each key of the wish that has no slot."""
        return [size for key, size in waiter.sizes.items() if key not in self.slots]

    def grantable(self, waiter: Waiter[Key, Value]) -> bool:
        """Whether the whole wish can be granted now.

        A key that is being copied to host memory has to arrive there before it can come back.
        """
        if any(key in self.leaving for key in waiter.sizes):
            return False
        return self.capacity.covers([*self.reserved(), *self.missing(waiter)])

    def victims_for(self, waiter: Waiter[Key, Value]) -> list[Slot[Key, Value]]:
        """The slots that have to leave, besides those that already do, before the wish can be granted."""
        staying = [slot.size_bytes for slot in self.slots.values()]
        bytes_over, entries_over = self.capacity.excess([*staying, *self.missing(waiter)])
        others = (slot for key, slot in self.slots.items() if key not in waiter.sizes)
        return choose_victims(others, bytes_over, entries_over)


@dataclass(frozen=True, slots=True)
class ResidencyStats:
    """What a residency holds and how often it helped.

    Attributes:
        budget_bytes: Most bytes on the device.
        reserved_bytes: Bytes taken on the device: loaded, being loaded and being copied away.
        resident_bytes: Bytes of what is loaded.
        resident_count: Number of entries loaded.
        host_bytes: Bytes in host memory.
        hits: Keys found loaded when their request was granted.
        misses: Keys that their request had to wait for.
        evictions: Entries taken off the device.
        waiting: Requests without a reservation.
    """

    budget_bytes: int
    reserved_bytes: int
    resident_bytes: int
    resident_count: int
    host_bytes: int
    hits: int
    misses: int
    evictions: int
    waiting: int


NOTHING_RESIDENT: Final = ResidencyStats(0, 0, 0, 0, 0, 0, 0, 0, 0)


def readable_bytes(count: int) -> str:
    """The figure in GiB, or in MiB below one GiB."""
    return f"{count / 2**30:.2f} GiB" if count >= 2**30 else f"{count / 2**20:.2f} MiB"
