"""Promises of `core.residency`, `core.leases` and `core.host_tier`."""

import asyncio
import weakref
from collections.abc import Mapping
from dataclasses import FrozenInstanceError, dataclass, field
from itertools import pairwise

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from core.deadline import Deadline
from core.errors import DeadlineExceeded, NotFound, TooLarge, Unavailable
from core.host_tier import HostTier
from core.leases import Capacity
from core.metrics import (
    METRICS,
    RESIDENCY_EVICTIONS,
    RESIDENCY_FAILURES,
    RESIDENCY_HITS,
    RESIDENCY_HOST,
    RESIDENCY_LOAD,
    RESIDENCY_MISSES,
    RESIDENCY_RESERVED,
    RESIDENCY_WAIT,
    Counter,
    Gauge,
    Histogram,
)
from core.residency import Residency

pytestmark = pytest.mark.anyio

MIB = 2**20
SIZES = {"a": 10, "b": 10, "c": 10, "d": 10, "big": 25, "all": 30, "none": 1_000}


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


class FakeClock:
    def __init__(self) -> None:
        self.now = 1_000.0

    def time(self) -> float:
        return self.now

    def monotonic(self) -> float:
        return self.now


class Recorder:
    def __init__(self) -> None:
        self.samples: dict[str, list[float]] = {metric.name: [] for metric in METRICS}
        self.tiers: list[str] = []

    def count(self, metric: Counter, amount: float = 1.0, /, **tags: str) -> None:
        assert set(tags) == set(metric.tags)
        self.samples[metric.name].append(amount)

    def set(self, metric: Gauge, value: float, /, **tags: str) -> None:
        assert set(tags) == set(metric.tags)
        self.samples[metric.name].append(value)

    def observe(self, metric: Histogram, value: float, /, **tags: str) -> None:
        assert set(tags) == set(metric.tags)
        self.samples[metric.name].append(value)
        self.tiers.extend(tags.values())


class Sae:
    """A value whose life on the device can be watched."""

    def __init__(self, key: str, place: str) -> None:
        self.key = key
        self.place = place


@dataclass
class FakeLoader:
    """Loads and copies at once, or when the test says so.

    `device` holds every device value that is alive, so it says what the device's memory really contains.
    """

    sizes: dict[str, int] = field(default_factory=lambda: dict(SIZES))
    manual: bool = False
    loading: dict[str, asyncio.Future[None]] = field(default_factory=dict)
    copying: dict[str, asyncio.Future[None]] = field(default_factory=dict)
    calls: list[str] = field(default_factory=list)
    device: weakref.WeakSet[Sae] = field(default_factory=weakref.WeakSet)

    def size_bytes(self, key: str) -> int:
        if key not in self.sizes:
            raise NotFound(f"no source {key}")
        return self.sizes[key]

    async def load(self, key: str) -> Sae:
        return await self._bring(key, "load")

    async def to_device(self, key: str, host_value: Sae) -> Sae:
        assert (host_value.key, host_value.place) == (key, "host")
        return await self._bring(key, "to_device")

    async def to_host(self, key: str, value: Sae) -> Sae:
        assert (value.key, value.place) == (key, "device")
        self.calls.append(f"to_host {key}")
        await self._gate(key, self.copying)
        return Sae(key, "host")

    async def _bring(self, key: str, call: str) -> Sae:
        self.calls.append(f"{call} {key}")
        await self._gate(key, self.loading)
        value = Sae(key, "device")
        self.device.add(value)
        return value

    async def _gate(self, key: str, under_way: dict[str, asyncio.Future[None]]) -> None:
        assert key not in under_way, f"{key} twice at the same time"
        if self.manual:
            under_way[key] = asyncio.get_running_loop().create_future()
            try:
                await under_way[key]
            finally:
                del under_way[key]

    def bytes_on_device(self) -> int:
        """What is loaded, wherever it is referenced from, and what is being loaded."""
        return sum(self.sizes[value.key] for value in self.device) + sum(self.sizes[key] for key in self.loading)


@dataclass
class Request:
    """A request that holds its lease until the test releases it."""

    keys: list[str]
    residency: Residency[str, Sae]
    deadline: Deadline = field(default_factory=lambda: Deadline.after(60.0))
    leave: asyncio.Event = field(default_factory=asyncio.Event)
    values: Mapping[str, Sae] | None = None

    def __post_init__(self) -> None:
        self.task = asyncio.get_running_loop().create_task(self._hold())

    async def _hold(self) -> None:
        try:
            async with self.residency.lease(self.keys, self.deadline) as self.values:
                await self.leave.wait()
        finally:
            self.values = None

    @property
    def held(self) -> bool:
        return self.values is not None

    async def release(self) -> None:
        self.leave.set()
        await settle()
        await self.task

    async def cancel(self) -> None:
        self.task.cancel()
        await settle()
        assert self.task.cancelled()


async def settle() -> None:
    """Let every task run until it waits for something that only the test can give."""
    for _ in range(30):
        await asyncio.sleep(0)


async def request(residency: Residency[str, Sae], *keys: str) -> Request:
    made = Request(list(keys), residency)
    await settle()
    return made


async def touch(residency: Residency[str, Sae], *keys: str) -> None:
    """Lease and release."""
    async with residency.lease(keys, Deadline.after(60.0)):
        pass


async def test_a_lease_gives_every_value_in_the_order_asked() -> None:
    residency = Residency(FakeLoader(), 30)
    async with residency.lease(["b", "a", "b"], Deadline.after(60.0)) as values:
        assert list(values) == ["b", "a"]
        assert all(value.key == key for key, value in values.items())
        with pytest.raises(TypeError):
            values["a"] = values["b"]  # type: ignore[index]
    assert residency.resident_keys() == ["b", "a"]


async def test_an_empty_lease_is_granted() -> None:
    residency = Residency(FakeLoader(), 30)
    async with residency.lease([], Deadline.after(60.0)) as values:
        assert dict(values) == {}


async def test_what_is_resident_is_not_loaded_again() -> None:
    loader = FakeLoader()
    residency = Residency(loader, 30)
    await touch(residency, "a")
    await touch(residency, "a", "b")
    assert loader.calls == ["load a", "load b"]
    stats = residency.stats()
    assert (stats.hits, stats.misses, stats.evictions) == (1, 2, 0)
    assert (stats.resident_bytes, stats.reserved_bytes, stats.resident_count) == (20, 20, 2)
    with pytest.raises(FrozenInstanceError):
        stats.hits = 5  # type: ignore[misc]


async def test_the_least_recently_leased_goes_first() -> None:
    residency = Residency(FakeLoader(), 30)
    for key in ("a", "b", "c", "a", "d"):
        await touch(residency, key)
    assert sorted(residency.resident_keys()) == ["a", "c", "d"]


async def test_no_more_is_evicted_than_needed() -> None:
    loader = FakeLoader(sizes={"small": 5, "large": 20, "other": 5, "new": 20})
    residency = Residency(loader, 30)
    await touch(residency, "small")
    await touch(residency, "large")
    await touch(residency, "other")
    await touch(residency, "new")
    # `small` is older, but `large` has to go anyway and is enough
    assert sorted(residency.resident_keys()) == ["new", "other", "small"]
    assert residency.stats().evictions == 1


async def test_the_number_of_entries_can_be_capped_too() -> None:
    residency = Residency(FakeLoader(), 1_000, max_entries=2)
    for key in ("a", "b", "c"):
        await touch(residency, key)
    assert residency.resident_keys() == ["b", "c"]
    with pytest.raises(TooLarge, match="3 sources were asked for at once; 2 may"):
        await touch(residency, "a", "b", "c")
    assert residency.waves("abcd") == [["a", "b"], ["c", "d"]]


async def test_a_leased_set_is_never_evicted() -> None:
    loader = FakeLoader()
    residency = Residency(loader, 30)
    holder = await request(residency, "a")
    assert holder.values is not None
    value = holder.values["a"]
    await touch(residency, "b")
    blocked = await request(residency, "big")
    assert not blocked.held
    assert residency.resident_keys() == ["a", "b"]
    for key in ("c", "d"):
        assert not (await request(residency, key)).held  # behind a reservation
    assert value in loader.device
    await holder.release()
    assert blocked.held
    assert residency.resident_keys() == ["big"]


async def test_two_leases_of_one_key_both_count() -> None:
    residency = Residency(FakeLoader(), 30)
    first, second = await request(residency, "a"), await request(residency, "a")
    blocked = await request(residency, "all")
    await first.release()
    assert not blocked.held
    await second.release()
    assert blocked.held


async def test_a_request_larger_than_the_budget_is_refused_before_anything_is_evicted() -> None:
    loader = FakeLoader(sizes={"a": 300 * MIB, "b": 900 * MIB, "c": 1536 * MIB})
    residency = Residency(loader, 1024 * MIB)
    await touch(residency, "a")
    with pytest.raises(TooLarge) as caught:
        await touch(residency, "a", "b")
    assert "1.17 GiB" in caught.value.message
    assert "1.00 GiB" in caught.value.message
    assert caught.value.hint == "ask for fewer sources in one request"
    with pytest.raises(TooLarge) as caught:
        await touch(residency, "c")
    assert "fewer" not in (caught.value.hint or "")
    with pytest.raises(TooLarge, match=r"take 300.00 MiB; 200.00 MiB"):
        await touch(Residency(loader, 200 * MIB), "a")
    assert residency.resident_keys() == ["a"]
    assert loader.calls == ["load a"]


async def test_an_unknown_key_is_the_loaders_error_and_changes_nothing() -> None:
    residency = Residency(FakeLoader(), 30)
    with pytest.raises(NotFound):
        await touch(residency, "a", "nowhere")
    assert residency.stats().reserved_bytes == 0


@pytest.mark.parametrize("numbers", [(0, None), (10, 0)])
def test_a_capacity_for_nothing_is_refused(numbers: tuple[int, int | None]) -> None:
    with pytest.raises(ValueError, match="room for at least"):
        Capacity(*numbers)


async def test_one_cold_key_is_loaded_once_for_all_who_ask() -> None:
    loader = FakeLoader(manual=True)
    residency = Residency(loader, 30)
    requests = [await request(residency, "a") for _ in range(5)]
    assert loader.calls == ["load a"]
    assert residency.loading_keys() == ["a"]
    assert residency.resident_keys() == []
    loader.loading["a"].set_result(None)
    await settle()
    assert all(r.held for r in requests)
    assert len({id(r.values["a"]) for r in requests if r.values}) == 1
    assert (residency.stats().hits, residency.stats().misses) == (0, 5)


async def test_bytes_are_reserved_before_the_load() -> None:
    loader = FakeLoader(manual=True)
    residency = Residency(loader, 30)
    await request(residency, "big")
    assert residency.stats().reserved_bytes == 25
    assert residency.stats().resident_bytes == 0
    blocked = await request(residency, "a")
    assert loader.calls == ["load big"]
    assert residency.stats().waiting == 1
    assert not blocked.held


async def test_a_failed_load_reaches_every_waiter_and_is_not_remembered() -> None:
    loader = FakeLoader(manual=True)
    residency = Residency(loader, 30)
    requests = [await request(residency, "a", "b"), await request(residency, "a")]
    loader.loading["b"].set_result(None)
    loader.loading["a"].set_exception(OSError("disk"))
    await settle()
    for failed in requests:
        with pytest.raises(OSError, match="disk"):
            await failed.task
    assert residency.stats().reserved_bytes == 10  # b, which nobody holds
    again = await request(residency, "a")
    assert loader.calls == ["load a", "load b", "load a"]
    loader.loading["a"].set_result(None)
    await settle()
    assert again.held
    await again.release()
    loader.manual = False
    await touch(residency, "all")


async def test_a_failed_load_hands_its_reservation_to_the_next() -> None:
    loader = FakeLoader(manual=True)
    residency = Residency(loader, 30)
    failing, waiting = await request(residency, "all"), await request(residency, "a")
    loader.loading["all"].set_exception(OSError("disk"))
    await settle()
    loader.loading["a"].set_result(None)
    await settle()
    assert waiting.held
    with pytest.raises(OSError, match="disk"):
        await failing.task


async def test_a_failure_is_heard_before_slower_loads_end() -> None:
    loader = FakeLoader(manual=True)
    residency = Residency(loader, 30)
    both = await request(residency, "a", "b")
    loader.loading["b"].set_exception(OSError("disk"))
    await settle()
    with pytest.raises(OSError, match="disk"):
        await both.task
    assert residency.loading_keys() == ["a"]


async def test_cancelling_the_request_that_started_a_load_disturbs_nobody() -> None:
    loader = FakeLoader(manual=True)
    residency = Residency(loader, 30)
    starter, other = await request(residency, "a"), await request(residency, "a")
    await starter.cancel()
    loader.loading["a"].set_result(None)
    await settle()
    assert other.held
    assert loader.calls == ["load a"]


async def test_an_abandoned_load_keeps_its_bytes_until_it_ends_and_can_then_be_evicted() -> None:
    loader = FakeLoader(manual=True)
    residency = Residency(loader, 30)
    abandoned = await request(residency, "all")
    await abandoned.cancel()
    assert residency.stats().reserved_bytes == 30
    waiting = await request(residency, "a")
    assert loader.calls == ["load all"]
    loader.loading["all"].set_result(None)
    await settle()
    assert loader.calls == ["load all", "load a"]
    loader.loading["a"].set_result(None)
    await settle()
    assert waiting.held


async def test_a_cancelled_waiter_lets_the_next_one_through() -> None:
    residency = Residency(FakeLoader(), 30)
    holder = await request(residency, "a")
    blocking, behind = await request(residency, "all"), await request(residency, "b")
    assert not behind.held
    await blocking.cancel()
    assert behind.held
    assert holder.held


async def test_a_waiter_cancelled_in_the_turn_of_a_release_is_passed_over() -> None:
    residency = Residency(FakeLoader(), 30)
    holder = await request(residency, "all")
    leaving, behind = await request(residency, "a"), await request(residency, "b")
    holder.leave.set()
    leaving.task.cancel()  # the release comes first, and finds a waiter whose caller is gone
    await settle()
    await holder.task
    assert leaving.task.cancelled()
    assert behind.held
    assert residency.resident_keys() == ["b"]


async def test_a_request_cancelled_in_the_turn_of_its_grant_gives_everything_back() -> None:
    residency = Residency(FakeLoader(), 30)
    await touch(residency, "a")
    holder = await request(residency, "all")
    granted = await request(residency, "a", "b")
    holder.leave.set()
    for _ in range(10):
        if not residency.stats().waiting:
            break
        await asyncio.sleep(0)
    granted.task.cancel()
    await settle()
    assert granted.task.cancelled()
    await touch(residency, "all")
    assert residency.resident_keys() == ["all"]


async def test_a_deadline_ends_the_wait_for_room_and_the_wait_for_a_load() -> None:
    loader = FakeLoader(manual=True)
    residency = Residency(loader, 30)
    loading = Request(["all"], residency, Deadline.after(0.01))
    waiting = Request(["a"], residency, Deadline.after(0.01))
    late = Request(["a"], residency, Deadline.after(-1.0))
    for missed in (late, loading, waiting):
        with pytest.raises(DeadlineExceeded):
            await missed.task
    assert loader.calls == ["load all"]
    assert residency.stats().waiting == 0
    loader.loading["all"].set_result(None)
    loader.manual = False
    await settle()
    await touch(residency, "a")


async def test_the_deadline_does_not_limit_the_body() -> None:
    clock = FakeClock()
    residency = Residency(FakeLoader(), 30, clock=clock)
    async with residency.lease(["a"], Deadline.after(1.0, clock)) as values:
        clock.now += 100.0
        await settle()
        assert values["a"].key == "a"


async def test_an_error_in_the_body_releases_the_lease() -> None:
    residency = Residency(FakeLoader(), 30)
    with pytest.raises(ValueError, match="body"):
        async with residency.lease(["a"], Deadline.after(60.0)):
            raise ValueError("body")
    await touch(residency, "all")


async def test_opposite_orders_cannot_deadlock() -> None:
    loader = FakeLoader(manual=True)
    residency = Residency(loader, 20)
    requests = [await request(residency, *keys) for keys in ("ab", "cd", "ba", "dc", "bc")]
    for expected in requests:
        for load in list(loader.loading.values()):
            load.set_result(None)
        await settle()
        assert expected.held
        await expected.release()


async def test_a_hit_passes_a_reservation_that_waits_for_something_else() -> None:
    residency = Residency(FakeLoader(), 30)
    await touch(residency, "a", "b")
    holder = await request(residency, "a")
    reader = await request(residency, "b")
    blocked = await request(residency, "c", "d")  # needs the bytes of `a`, the older one
    hit = await request(residency, "b")
    assert hit.held
    assert not blocked.held
    assert not (await request(residency, "a")).held
    await holder.release()
    assert blocked.held
    assert reader.held


async def test_a_stream_of_hits_cannot_starve_a_reservation() -> None:
    residency = Residency(FakeLoader(), 30)
    await touch(residency, "a", "b", "c")
    stream = {key: await request(residency, key) for key in "abc"}
    blocked = await request(residency, "big")
    for _ in range(5):
        if blocked.held:
            break
        for key, current in list(stream.items()):
            successor = Request([key], residency)
            await settle()
            if current.held:
                await current.release()
            stream[key] = successor
    assert blocked.held


async def test_without_a_host_budget_what_leaves_the_device_is_dropped() -> None:
    loader = FakeLoader()
    residency = Residency(loader, 10)
    for key in ("a", "b", "a"):
        await touch(residency, key)
    assert loader.calls == ["load a", "load b", "load a"]
    assert residency.stats().host_bytes == 0
    assert [value.key for value in loader.device] == ["a"]


async def test_what_leaves_the_device_comes_back_from_host_memory() -> None:
    loader = FakeLoader()
    residency = Residency(loader, 10, 20)
    for key in ("a", "b", "a", "b"):
        await touch(residency, key)
    assert loader.calls == ["load a", "to_host a", "load b", "to_host b", "to_device a", "to_device b"]
    assert residency.stats().host_bytes == 20


async def test_the_host_tier_drops_the_least_recently_used() -> None:
    loader = FakeLoader()
    residency = Residency(loader, 10, 20)
    for key in ("a", "b", "a", "c", "d"):
        await touch(residency, key)
    # `a` left the device after `b` and is still in host memory, where `b` made room for `c` and `c` for `d`
    loader.calls.clear()
    await touch(residency, "a")
    await touch(residency, "b")
    assert loader.calls == ["to_host d", "to_device a", "load b"]


async def test_what_is_too_large_for_host_memory_is_dropped_and_costs_the_others_nothing() -> None:
    loader = FakeLoader()
    residency = Residency(loader, 30, 20)
    await touch(residency, "a")
    await touch(residency, "big")
    await touch(residency, "all")
    assert loader.calls == ["load a", "to_host a", "load big", "load all"]
    assert residency.stats().host_bytes == 10


async def test_bytes_that_leave_are_taken_until_they_have_left() -> None:
    loader = FakeLoader()
    residency = Residency(loader, 30, 100)
    await touch(residency, "all")
    loader.manual = True
    waiting, returning = await request(residency, "a"), await request(residency, "all")
    assert residency.stats().reserved_bytes == 30
    assert residency.stats().resident_bytes == 0
    assert loader.calls == ["load all", "to_host all"]
    loader.copying["all"].set_result(None)
    await settle()
    assert loader.calls[2:] == ["load a"]
    loader.loading["a"].set_result(None)
    await settle()
    assert waiting.held
    await waiting.release()
    loader.copying["a"].set_result(None)
    await settle()
    loader.loading["all"].set_result(None)
    await settle()
    assert returning.held
    assert loader.calls[3:] == ["to_host a", "to_device all"]


async def test_what_is_on_its_way_out_comes_back_only_after_it_arrived() -> None:
    loader = FakeLoader()
    residency = Residency(loader, 30, 100)
    await touch(residency, "a", "b")
    loader.manual = True
    newcomer = await request(residency, "all")
    loader.copying["b"].set_result(None)
    await settle()
    await newcomer.cancel()
    returning = await request(residency, "a")  # there is room, but `a` is still being copied
    assert loader.calls == ["load a", "load b", "to_host a", "to_host b"]
    loader.copying["a"].set_result(None)
    await settle()
    assert loader.calls[4:] == ["to_device a"]
    loader.loading["a"].set_result(None)
    await settle()
    assert returning.held


async def test_a_failed_copy_to_host_memory_costs_only_the_copy() -> None:
    loader = FakeLoader()
    residency = Residency(loader, 10, 100)
    await touch(residency, "a")
    loader.manual = True
    waiting = await request(residency, "b")
    loader.copying["a"].set_exception(MemoryError())
    await settle()
    loader.loading["b"].set_result(None)
    await settle()
    assert waiting.held
    assert residency.stats().host_bytes == 0
    loader.manual = False
    await waiting.release()
    await touch(residency, "a")
    assert loader.calls[-1] == "load a"


def test_copies_under_way_are_never_dropped_for_a_newer_one() -> None:
    host: HostTier[str, str] = HostTier(20)
    assert host.reserve("a", 15)
    assert not host.reserve("b", 10)
    host.put("a", "A")
    assert host.reserve("b", 10)
    assert host.get("a") is None
    host.cancel("b")
    assert host.used_bytes == 0


async def test_closing_fails_whoever_waits_and_drops_everything() -> None:
    loader = FakeLoader()
    residency = Residency(loader, 30, 100)
    await touch(residency, "a", "b")
    holder = await request(residency, "b")
    loader.manual = True
    loading = await request(residency, "b", "c")
    queued = await request(residency, "d", "a")
    untouched = Request(["b", "c"], residency)  # its task has not run yet
    await residency.aclose()
    for failed in (loading, queued, untouched):
        with pytest.raises(Unavailable):
            await failed.task
    with pytest.raises(Unavailable):
        await touch(residency, "b")
    await holder.release()
    stats = residency.stats()
    assert (stats.reserved_bytes, stats.host_bytes, stats.waiting) == (0, 0, 0)
    assert not loader.device
    await residency.aclose()


async def test_closing_in_the_turn_of_a_grant_leaves_nobody_waiting() -> None:
    loader = FakeLoader(manual=True)
    residency = Residency(loader, 30)
    granted = Request(["a"], residency)
    await asyncio.sleep(0)
    assert loader.calls == []
    await residency.aclose()
    with pytest.raises(Unavailable):
        await granted.task


def test_fits_counts_each_key_once() -> None:
    residency = Residency(FakeLoader(), 30)
    assert residency.fits(["a", "b", "c", "a"])
    assert not residency.fits(["a", "b", "c", "d"])
    assert residency.fits([])


def test_waves_refuse_a_key_that_fits_nowhere() -> None:
    residency = Residency(FakeLoader(), 30)
    assert residency.waves([]) == []
    assert residency.waves(["a", "b", "big", "c", "all", "d"]) == [["a", "b"], ["big"], ["c"], ["all"], ["d"]]
    with pytest.raises(TooLarge):
        residency.waves(["a", "none"])


@given(st.lists(st.sampled_from("abcdefgh")), st.lists(st.integers(1, 10), min_size=8, max_size=8))
def test_waves_keep_the_order_fit_and_are_as_few_as_can_be(keys: list[str], sizes: list[int]) -> None:
    residency = Residency(FakeLoader(sizes=dict(zip("abcdefgh", sizes, strict=True))), 10, max_entries=3)
    waves = residency.waves(keys)
    assert [key for wave in waves for key in wave] == keys
    assert all(residency.fits(wave) for wave in waves)
    assert all(not residency.fits([*one, two[0]]) for one, two in pairwise(waves))


async def test_residency_measures_what_it_does() -> None:
    clock, recorder = FakeClock(), Recorder()
    loader = FakeLoader(manual=True)
    residency = Residency(loader, 20, 100, clock=clock, metrics=recorder)
    first = Request(["a", "b"], residency, Deadline.after(60.0, clock))
    await settle()
    clock.now += 2.0
    loader.loading["a"].set_result(None)
    loader.loading["b"].set_result(None)
    await settle()
    await first.release()
    loader.manual = False
    async with residency.lease(["a"], Deadline.after(60.0, clock)):
        pass
    async with residency.lease(["c"], Deadline.after(60.0, clock)):
        pass
    async with residency.lease(["b"], Deadline.after(60.0, clock)):
        pass
    loader.manual = True
    failing = Request(["d"], residency, Deadline.after(60.0, clock))
    await settle()
    for under_way in (*loader.copying.values(), *loader.loading.values()):
        under_way.set_exception(OSError())
    await settle()
    loader.loading["d"].set_exception(OSError())
    await asyncio.gather(failing.task, return_exceptions=True)
    samples = recorder.samples
    assert samples[RESIDENCY_WAIT.name] == [2.0, 0.0, 0.0, 0.0]
    assert samples[RESIDENCY_LOAD.name] == [2.0, 2.0, 0.0, 0.0]
    assert recorder.tiers == ["disk", "disk", "disk", "host"]
    assert len(samples[RESIDENCY_HITS.name]) == residency.stats().hits == 1
    assert len(samples[RESIDENCY_MISSES.name]) == residency.stats().misses == 5
    assert len(samples[RESIDENCY_EVICTIONS.name]) == residency.stats().evictions == 3
    assert len(samples[RESIDENCY_FAILURES.name]) == 2
    assert max(samples[RESIDENCY_RESERVED.name]) == 20
    assert samples[RESIDENCY_HOST.name][-1] == residency.stats().host_bytes == 20


async def test_hundreds_of_requests_share_a_small_budget() -> None:
    loader = FakeLoader(sizes={str(i): 1 + i % 7 for i in range(40)})
    residency = Residency(loader, 20, 30)
    peak = 0

    async def call(i: int) -> None:
        nonlocal peak
        keys = [str(i * step % 40) for step in (1, 3, 7)][: 1 + i % 3]
        async with residency.lease(keys, Deadline.after(60.0)) as values:
            peak = max(peak, residency.stats().reserved_bytes)
            for _ in range(i % 4):
                await asyncio.sleep(0)
            assert all(value.key == key and value in loader.device for key, value in values.items())

    tasks = [asyncio.create_task(call(i)) for i in range(500)]
    for _ in range(5):
        await asyncio.sleep(0)
    for task in tasks[::9]:
        task.cancel()
    results = await asyncio.gather(*tasks, return_exceptions=True)
    assert {type(result) for result in results} <= {type(None), asyncio.CancelledError}
    assert 10 <= peak <= 20
    await touch(residency, *(str(i) for i in range(5)))


class ResidencyMachine(RuleBasedStateMachine):
    """Random requests, releases, cancellations, loads and copies that end well or badly, in any order."""

    keys = st.lists(st.sampled_from("abcdef"), max_size=3, unique=True)
    budget = 20

    @initialize(
        sizes=st.lists(st.integers(1, 12), min_size=6, max_size=6),
        host_budget=st.sampled_from([0, 15, 60]),
        max_entries=st.sampled_from([None, 2, 3]),
    )
    def start(self, sizes: list[int], host_budget: int, max_entries: int | None) -> None:
        self.loop = asyncio.new_event_loop()
        self.loader = FakeLoader(sizes=dict(zip("abcdef", sizes, strict=True)), manual=True)
        self.host_budget = host_budget
        self.max_entries = max_entries
        self.residency: Residency[str, Sae] = Residency(self.loader, self.budget, host_budget, max_entries=max_entries)
        self.live: list[Request] = []
        self.served = 0

    def run(self) -> None:
        self.loop.run_until_complete(settle())
        self.live = [r for r in self.live if not r.task.done() or self._ended(r.task)]

    def _ended(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled():
            assert isinstance(task.exception(), OSError | TooLarge | None)

    @rule(keys=keys)
    def ask(self, keys: list[str]) -> None:
        async def make() -> Request:
            return Request(keys, self.residency)

        fits = self.residency.fits(keys)
        made = self.loop.run_until_complete(make())
        self.live.append(made)
        self.run()
        if not fits:
            assert isinstance(made.task.exception(), TooLarge)

    @precondition(lambda self: any(r.held for r in self.live))
    @rule(data=st.data())
    def release(self, data: st.DataObject) -> None:
        chosen = data.draw(st.sampled_from([r for r in self.live if r.held]))
        chosen.leave.set()
        self.run()
        assert chosen.task.exception() is None

    @precondition(lambda self: self.live)
    @rule(data=st.data(), together_with_a_release=st.booleans())
    def cancel(self, data: st.DataObject, together_with_a_release: bool) -> None:
        chosen = data.draw(st.sampled_from(self.live))
        if together_with_a_release:
            for other in self.live:
                other.leave.set()
        turns = data.draw(st.integers(0, 4))
        if turns:
            self.loop.run_until_complete(self._turns(turns))
        chosen.task.cancel()
        self.run()
        assert chosen.task.done()

    async def _turns(self, turns: int) -> None:
        for _ in range(turns):
            await asyncio.sleep(0)

    @precondition(lambda self: self.loader.loading)
    @rule(data=st.data(), fails=st.booleans())
    def finish_load(self, data: st.DataObject, fails: bool) -> None:
        self._finish(self.loader.loading[data.draw(st.sampled_from(sorted(self.loader.loading)))], fails)

    @precondition(lambda self: self.loader.copying)
    @rule(data=st.data(), fails=st.booleans())
    def finish_copy(self, data: st.DataObject, fails: bool) -> None:
        self._finish(self.loader.copying[data.draw(st.sampled_from(sorted(self.loader.copying)))], fails)

    def _finish(self, under_way: asyncio.Future[None], fails: bool) -> None:
        if fails:
            under_way.set_exception(OSError("disk"))
        else:
            under_way.set_result(None)
        self.run()

    @invariant()
    def the_budget_is_never_exceeded(self) -> None:
        assert self.loader.bytes_on_device() <= self.budget
        stats = self.residency.stats()
        assert self.loader.bytes_on_device() == stats.reserved_bytes
        assert stats.host_bytes <= self.host_budget
        loaded, loading = self.residency.resident_keys(), self.residency.loading_keys()
        if self.max_entries is not None:
            assert len(loaded) + len(loading) + len(self.loader.copying) <= self.max_entries
        assert sorted(loading) == sorted(self.loader.loading)
        assert not set(self.loader.copying) & {*loading, *loaded}

    @invariant()
    def a_leased_set_stays(self) -> None:
        for holder in self.live:
            if holder.values is not None:
                assert set(holder.keys) <= set(self.residency.resident_keys())
                assert all(value in self.loader.device for value in holder.values.values())

    @invariant()
    def whoever_can_be_served_is_served(self) -> None:
        waiting = [r for r in self.live if not r.held]
        if not waiting:
            assert self.residency.stats().waiting == 0
            return
        oldest = waiting[0]
        loading, copying = set(self.loader.loading), set(self.loader.copying)
        if loading & set(oldest.keys):
            return  # it may have its reservation already
        pinned = {key for r in self.live if r.held for key in r.keys} | loading | copying
        pinned |= {key for r in waiting[1:] if loading & set(r.keys) for key in r.keys}
        assert copying or not self.residency.fits(pinned | set(oldest.keys))

    def teardown(self) -> None:
        if not hasattr(self, "loop"):
            return
        for _ in range(200):
            for under_way in (*self.loader.loading.values(), *self.loader.copying.values()):
                under_way.set_result(None)
            for request in self.live:
                if request.held:
                    request.leave.set()
            self.run()
            if not self.live and not self.loader.loading and not self.loader.copying:
                break
        assert not self.live, "somebody waits for ever"
        self.loader.manual = False
        for key in "abcdef":  # no lease was left behind
            self.loop.run_until_complete(touch(self.residency, key))
        self.loop.run_until_complete(self.residency.aclose())
        assert not self.loader.device
        self.loop.close()


TestResidencyMachine = ResidencyMachine.TestCase
TestResidencyMachine.settings = settings(
    max_examples=100, stateful_step_count=30, deadline=None, suppress_health_check=list(HealthCheck)
)
