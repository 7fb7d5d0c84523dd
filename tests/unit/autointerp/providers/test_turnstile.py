"""Gates for callers elsewhere: whoever leaves makes room, whoever died makes room later, and no ticket stays."""

import asyncio

import pytest

from core.autointerp.providers.rate import RateGates, RateLimits
from core.autointerp.providers.turnstile import Ending, GateName, Turnstile
from tests.unit.autointerp.providers.quick_time import LoopClock, in_quick_time

GATE = GateName("https://a.example/v1", "key", "m")
HOLD_S = 130.0


def turnstile(in_flight: int = 1) -> tuple[Turnstile, RateGates]:
    gates = RateGates(RateLimits(in_flight=in_flight), clock=LoopClock())
    return Turnstile(gates, HOLD_S), gates


async def a_moment() -> None:
    await asyncio.sleep(0.001)


@in_quick_time
async def test_whoever_leaves_lets_the_next_one_in() -> None:
    stile, _ = turnstile()
    await stile.admit("a", GATE, 10)
    second = asyncio.create_task(stile.admit("b", GATE, 10))
    await a_moment()
    assert not second.done()
    stile.leave("a", Ending("succeeded", 12))
    await second
    stile.leave("b", Ending())
    await a_moment()
    assert stile.tickets == 0


@in_quick_time
async def test_gates_are_told_apart_and_given_their_limits() -> None:
    stile, _ = turnstile()
    wide = GateName("https://a.example/v1", "key", "wide", RateLimits(in_flight=3))
    for ticket in ("a", "b", "c"):
        await stile.admit(ticket, wide, 1)
    await stile.admit("d", GATE, 1)
    assert stile.tickets == 4
    await stile.aclose()


@in_quick_time
async def test_the_ticket_of_a_caller_that_died_expires() -> None:
    stile, gates = turnstile()
    await stile.admit("dead", GATE, 10)
    began_s = LoopClock().monotonic()
    await stile.admit("next", GATE, 10)
    assert LoopClock().monotonic() - began_s == pytest.approx(HOLD_S, abs=1)
    stile.leave("dead", Ending("throttled"))  # it was not dead, only late
    assert gates.gate(GATE.base_url, GATE.key, GATE.model).share == 1.0
    assert stile.tickets == 1
    await stile.aclose()


@in_quick_time
async def test_a_caller_that_stops_waiting_leaves_no_trace() -> None:
    stile, _ = turnstile()
    await stile.admit("a", GATE, 10)
    waiting = [asyncio.create_task(stile.admit(ticket, GATE, 10)) for ticket in ("b", "c", "d")]
    await a_moment()
    waiting[0].cancel()
    stile.leave("c", Ending("unused"))  # as seen from elsewhere, where only the ticket is known
    await a_moment()
    assert [task.cancelled() for task in waiting] == [True, True, False]
    stile.leave("a", Ending())
    await waiting[2]
    assert stile.tickets == 1
    await stile.aclose()


@in_quick_time
async def test_endings_reach_the_gate() -> None:
    stile, gates = turnstile(in_flight=8)
    gate = gates.gate(GATE.base_url, GATE.key, GATE.model)
    await stile.admit("a", GATE, 10)
    stile.leave("a", Ending("throttled", retry_after_s=20))
    await a_moment()
    assert gate.share == 0.5
    began_s = LoopClock().monotonic()
    await stile.admit("b", GATE, 10)
    assert LoopClock().monotonic() - began_s == pytest.approx(20, abs=1)
    stile.leave("b", Ending("succeeded", 10))
    await a_moment()
    assert gate.share > 0.5
    stile.leave("b", Ending("throttled"))  # twice is once
    await a_moment()
    assert gate.share > 0.5


@in_quick_time
async def test_closing_frees_those_that_wait() -> None:
    stile, _ = turnstile()
    await stile.admit("a", GATE, 10)
    waiting = asyncio.create_task(stile.admit("b", GATE, 10))
    await a_moment()
    await stile.aclose()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert stile.tickets == 0
