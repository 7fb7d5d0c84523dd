"""Residency: which SAEs are on the device, within a budget of bytes, and leased to the requests that use them.

    lease(keys) --> size check --> [queue] --> reservation of all keys at once --> loads --> body --> release
                    TooLarge       DeadlineExceeded         |                      the loader's own error
                                                            +--> eviction of unleased entries, oldest lease first,
                                                                 into host memory while that has room

What holds at every moment:

* Bytes on the device, loads and departures under way included, never exceed the budget.
* A leased entry is never evicted, and nothing is evicted for a request that can never fit.
* One load per key, whoever else asks for it. A failed load reaches everybody who waited for it and is not remembered.
* Reservations are made first come, first served. While one waits for others to release, requests for what is loaded
  already pass it, unless they ask for what it waits for; so nobody starves and the device does not idle.
* A cancelled request gives back exactly what it held. A load that it started goes on: a thread that copies cannot be
  stopped and its bytes stay taken until it ends. Whoever else waits for that load is not disturbed.

Device copies belong on the device's thread (`core.device`): then a step that still runs for a cancelled request ends,
and lets go of its SAE, before the next copy begins. A request leases everything that it needs in one call; one that
asks for more while it holds some may wait for itself, up to its deadline.

Deliberately not here: how to load (the loader's), what a key means, and telling a router (the Runner's).
"""

import asyncio
from collections.abc import AsyncGenerator, Coroutine, Iterable, Mapping
from contextlib import asynccontextmanager
from functools import partial
from types import MappingProxyType
from typing import Any, Generic, Protocol, TypeVar

from core.clock import SYSTEM_CLOCK, Clock
from core.deadline import Deadline
from core.errors import Unavailable
from core.host_tier import HostTier
from core.leases import Capacity, Key, Ledger, ResidencyStats, Slot, Value, Waiter
from core.metrics import (
    NULL_METRICS,
    RESIDENCY_EVICTIONS,
    RESIDENCY_FAILURES,
    RESIDENCY_HITS,
    RESIDENCY_HOST,
    RESIDENCY_LOAD,
    RESIDENCY_MISSES,
    RESIDENCY_RESERVED,
    RESIDENCY_WAIT,
    MetricSink,
)

Key_contra = TypeVar("Key_contra", contravariant=True)


class Loader(Protocol[Key_contra, Value]):
    """Knows sizes, and brings values to the device and back. Its awaits may run in threads."""

    def size_bytes(self, key: Key_contra, /) -> int:
        """Bytes that the value will take, the same on the device and in host memory; known without loading.

        Raises:
            NotFound: There is no such key.
        """
        ...

    async def load(self, key: Key_contra, /) -> Value:
        """The value, on the device, from wherever it is stored."""
        ...

    async def to_host(self, key: Key_contra, value: Value, /) -> Value:
        """A copy of a device value in host memory."""
        ...

    async def to_device(self, key: Key_contra, host_value: Value, /) -> Value:
        """A copy of a host value on the device."""
        ...


class Residency(Generic[Key, Value]):
    """Leases values out of a byte budget on the device. Lives on one event loop."""

    def __init__(
        self,
        loader: Loader[Key, Value],
        budget_bytes: int,
        host_budget_bytes: int = 0,
        *,
        max_entries: int | None = None,
        clock: Clock = SYSTEM_CLOCK,
        metrics: MetricSink = NULL_METRICS,
    ) -> None:
        self._loader = loader
        self._ledger: Ledger[Key, Value] = Ledger(Capacity(budget_bytes, max_entries))
        self._host: HostTier[Key, Value] = HostTier(host_budget_bytes)
        self._clock = clock
        self._metrics = metrics
        self._queue: dict[Waiter[Key, Value], None] = {}
        self._tasks: set[asyncio.Task[Value]] = set()
        self._grants = self._hits = self._misses = self._evictions = 0
        self._closed = False

    @asynccontextmanager
    async def lease(self, keys: Iterable[Key], deadline: Deadline) -> AsyncGenerator[Mapping[Key, Value]]:
        """Hold the values of all keys while the body runs; the deadline limits the wait, not the body.

        Raises:
            TooLarge: The keys alone exceed the budget; raised before anything is evicted.
            DeadlineExceeded: The deadline passed before everything was loaded.
            Unavailable: The residency is closed.
            Exception: Whatever the loader raised for one of the keys.
        """
        waiter = await self._acquire(keys, deadline)
        try:
            yield MappingProxyType({slot.key: slot.load.result() for slot in waiter.slots})
        finally:
            self._release(waiter)

    def fits(self, keys: Iterable[Key]) -> bool:
        """Whether one lease may hold all these keys."""
        return self._ledger.capacity.covers(self._sizes(keys).values())

    def waves(self, keys: Iterable[Key]) -> list[list[Key]]:
        """The keys in their order, cut into as few runs as fit the budget one after another.

        Raises:
            TooLarge: One key alone exceeds the budget.
        """
        waves: list[list[Key]] = []
        for key in keys:
            self._ledger.capacity.check(self._sizes([key]).values())
            if waves and self.fits([*waves[-1], key]):
                waves[-1].append(key)
            else:
                waves.append([key])
        return waves

    def resident_keys(self) -> list[Key]:
        """The keys whose values are on the device."""
        return [slot.key for slot in self._ledger.slots.values() if slot.loaded]

    def loading_keys(self) -> list[Key]:
        """The keys whose values are on their way to the device."""
        return [slot.key for slot in self._ledger.slots.values() if not slot.loaded]

    def stats(self) -> ResidencyStats:
        """The figures of this moment."""
        loaded = [slot.size_bytes for slot in self._ledger.slots.values() if slot.loaded]
        return ResidencyStats(
            budget_bytes=self._ledger.capacity.budget_bytes,
            reserved_bytes=sum(self._ledger.reserved()),
            resident_bytes=sum(loaded),
            resident_count=len(loaded),
            host_bytes=self._host.used_bytes,
            hits=self._hits,
            misses=self._misses,
            evictions=self._evictions,
            waiting=len(self._queue),
        )

    async def aclose(self) -> None:
        """Fail whoever waits with Unavailable, stop every load and copy, and drop all values."""
        self._closed = True
        for waiter in self._queue:
            if not waiter.granted.done():
                waiter.granted.set_exception(self._gone())
        tasks = tuple(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._ledger.slots.clear()
        self._host.clear()

    async def _acquire(self, keys: Iterable[Key], deadline: Deadline) -> Waiter[Key, Value]:
        sizes = self._sizes(keys)
        self._ledger.capacity.check(sizes.values())
        if self._closed:
            raise self._gone()
        asked_s = self._clock.monotonic()
        waiter: Waiter[Key, Value] = Waiter(sizes, asyncio.get_running_loop().create_future())
        self._queue[waiter] = None
        try:
            async with deadline.limit(self._clock):
                self._pump()
                await waiter.granted
                await self._arrivals(waiter)
        except BaseException:
            self._queue.pop(waiter, None)
            self._release(waiter)
            raise
        self._metrics.observe(RESIDENCY_WAIT, self._clock.monotonic() - asked_s)
        return waiter

    async def _arrivals(self, waiter: Waiter[Key, Value]) -> None:
        # Futures without values: the traceback of a cancellation must not keep SAEs alive.
        arrivals = [slot.arrival for slot in waiter.slots]
        if arrivals:
            done, _ = await asyncio.wait(arrivals, return_when=asyncio.FIRST_EXCEPTION)
            for arrival in done:
                arrival.result()

    def _release(self, waiter: Waiter[Key, Value]) -> None:
        held, waiter.slots = waiter.slots, []
        for slot in held:
            slot.leases -= 1
        self._pump()

    def _pump(self) -> None:
        """Grant what can be granted, in order; called after every change that could make room."""
        awaited: list[Slot[Key, Value]] | None = None
        for waiter in tuple(self._queue):
            if waiter.granted.done():
                continue  # its caller has left and is about to say so
            if awaited is None:
                victims = self._ledger.victims_for(waiter)
                if all(slot.evictable for slot in victims):
                    self._host.touch(waiter.sizes)  # what comes back must not be dropped for what leaves
                    for slot in victims:
                        self._evict(slot)
                    victims = []
                    if self._ledger.grantable(waiter):
                        self._grant(waiter)
                        continue
                awaited = victims
            elif all(key in self._ledger.slots and self._ledger.slots[key] not in awaited for key in waiter.sizes):
                self._grant(waiter)
        self._metrics.set(RESIDENCY_RESERVED, sum(self._ledger.reserved()))
        self._metrics.set(RESIDENCY_HOST, self._host.used_bytes)

    def _sizes(self, keys: Iterable[Key]) -> dict[Key, int]:
        return {key: self._loader.size_bytes(key) for key in dict.fromkeys(keys)}

    def _grant(self, waiter: Waiter[Key, Value]) -> None:
        self._grants += 1
        loop = asyncio.get_running_loop()
        for key, size in waiter.sizes.items():
            slot = self._ledger.slots.get(key)
            hit = slot is not None and slot.loaded
            self._hits += hit
            self._misses += not hit
            self._metrics.count(RESIDENCY_HITS if hit else RESIDENCY_MISSES)
            if slot is None:
                slot = self._ledger.slots[key] = Slot(key, size, self._start(self._fetch(key)), loop.create_future())
                slot.load.add_done_callback(partial(self._loaded, slot))
            slot.leases += 1
            slot.last_lease = self._grants
            waiter.slots.append(slot)
        del self._queue[waiter]
        waiter.granted.set_result(None)

    async def _fetch(self, key: Key) -> Value:
        started_s = self._clock.monotonic()
        host_value = self._host.get(key)
        if host_value is None:
            value = await self._loader.load(key)
        else:
            value = await self._loader.to_device(key, host_value)
        tier = "disk" if host_value is None else "host"
        self._metrics.observe(RESIDENCY_LOAD, self._clock.monotonic() - started_s, tier=tier)
        return value

    def _loaded(self, slot: Slot[Key, Value], load: asyncio.Task[Value]) -> None:
        error = self._gone() if load.cancelled() else load.exception()
        if error is None:
            slot.arrival.set_result(None)
        else:
            del self._ledger.slots[slot.key]
            slot.arrival.set_exception(error)
            slot.arrival.exception()  # nobody may be left to hear it
            self._metrics.count(RESIDENCY_FAILURES)
        self._pump()

    def _evict(self, slot: Slot[Key, Value]) -> None:
        del self._ledger.slots[slot.key]
        self._evictions += 1
        self._metrics.count(RESIDENCY_EVICTIONS)
        if self._host.get(slot.key) is None and self._host.reserve(slot.key, slot.size_bytes):
            self._ledger.leaving[slot.key] = slot
            copy = self._start(self._loader.to_host(slot.key, slot.load.result()))
            copy.add_done_callback(partial(self._copied, slot))

    def _copied(self, slot: Slot[Key, Value], copy: asyncio.Task[Value]) -> None:
        del self._ledger.leaving[slot.key]
        if copy.cancelled() or copy.exception() is not None:
            self._host.cancel(slot.key)  # then the next load comes from disk
            self._metrics.count(RESIDENCY_FAILURES)
        else:
            self._host.put(slot.key, copy.result())
        self._pump()

    def _start(self, coroutine: Coroutine[Any, Any, Value]) -> asyncio.Task[Value]:
        task = asyncio.create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    def _gone(self) -> Unavailable:
        return Unavailable("this replica is shutting down", "retry; another replica may answer")
