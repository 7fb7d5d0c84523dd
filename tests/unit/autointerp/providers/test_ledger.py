"""Promises of the ledger: nothing is overspent, whoever asks at once; every reply counts once, to the nano-dollar."""

import asyncio
import random
from concurrent.futures import ThreadPoolExecutor

import pytest

from core.autointerp.language_model import Usage
from core.autointerp.providers.ledger import Account, Balance, Budget, Charge, MemoryLedger
from core.errors import BudgetReached, InvalidRequest


def usage(tokens: int, usd: float | None = None) -> Usage:
    return Usage(tokens, 0, usd, calls=1)


class Day:
    def __init__(self, time_s: float) -> None:
        self.time_s = time_s

    def time(self) -> float:
        return self.time_s

    def monotonic(self) -> float:
        return self.time_s


def test_a_call_that_could_pass_the_budget_is_refused_before_it_is_made() -> None:
    async def run() -> None:
        ledger, job = MemoryLedger(), Account("job/1", Budget(usd=0.01))
        first = await ledger.reserve([job], 100, 0.006)
        with pytest.raises(BudgetReached, match=r"job/1 has \$0\.004000 of \$0\.010000 left"):
            await ledger.reserve([job], 100, 0.005)
        await ledger.settle(first, usage(50, 0.002))
        second = await ledger.reserve([job], 100, 0.008)  # to the last nano-dollar
        await ledger.settle(second, None)
        assert ledger.balance(job) == Balance(50, 0.002, 0, 0.0)

    asyncio.run(run())


def test_tokens_have_a_budget_too() -> None:
    async def run() -> None:
        ledger, job = MemoryLedger(), Account("job/1", Budget(tokens=100))
        await ledger.settle(await ledger.reserve([job], 60, None), usage(55))
        with pytest.raises(BudgetReached, match="45 of 100 left"):
            await ledger.reserve([job], 46, None)
        await ledger.reserve([job], 45, None)

    asyncio.run(run())


def test_a_reservation_covers_all_accounts_or_none() -> None:
    async def run() -> None:
        ledger = MemoryLedger()
        rich, poor = Account("key/a", Budget(tokens=1000)), Account("job/1", Budget(tokens=10))
        with pytest.raises(BudgetReached, match="job/1"):
            await ledger.reserve([rich, poor], 11, None)
        assert ledger.balance(rich) == Balance(0, 0.0, 0, 0.0)
        held = await ledger.reserve([rich, poor], 10, None)
        assert ledger.balance(rich).reserved_tokens == ledger.balance(poor).reserved_tokens == 10
        await ledger.settle(held, usage(7))
        assert ledger.balance(rich).tokens == ledger.balance(poor).tokens == 7

    asyncio.run(run())


def test_a_reply_is_settled_once() -> None:
    async def run() -> None:
        ledger, job = MemoryLedger(), Account("job/1")
        held = await ledger.reserve([job], 10, 1.0)
        assert [await ledger.settle(held, usage(7, 0.5)) for _ in range(3)] == [True, False, False]
        assert ledger.balance(job) == Balance(7, 0.5, 0, 0.0)

    asyncio.run(run())


def test_threads_that_spend_at_once_never_overspend_and_every_charge_counts() -> None:
    ledger, accounts = MemoryLedger(), [Account("job/1", Budget(usd=1.0)), Account("key/a", Budget(tokens=10**9))]
    source = random.Random(0)
    costs = [source.randrange(1, 10**6) for _ in range(4000)]  # nano-dollars; together about 2 dollars

    def spend(nano: int) -> int:
        async def run() -> int:
            try:
                held = await ledger.reserve(accounts, nano, nano * 1e-9)
            except BudgetReached:
                return 0
            assert ledger.balance(accounts[0]).usd + ledger.balance(accounts[0]).reserved_usd <= 1.0
            for _ in range(2):
                await ledger.settle(held, usage(nano, nano * 1e-9))
            return nano

        return asyncio.run(run())

    with ThreadPoolExecutor(8) as pool:
        spent = list(pool.map(spend, costs))
    total = sum(spent)
    assert ledger.balance(accounts[1]) == Balance(total, total / 10**9, 0, 0.0)
    assert 10**9 - 10**6 <= total <= 10**9  # used up, to within one call


def test_a_daily_account_begins_anew_at_midnight_utc() -> None:
    async def run() -> None:
        clock = Day(1_700_006_399.0)  # 23:59:59 on 14 November 2023
        ledger, key = MemoryLedger(clock=clock), Account("key/a", Budget(tokens=10), daily=True)
        before = await ledger.reserve([key], 10, None)
        with pytest.raises(BudgetReached) as caught:
            await ledger.reserve([key], 1, None)
        assert "tomorrow" in (caught.value.hint or "")
        clock.time_s += 1.0
        await ledger.reserve([key], 10, None)
        await ledger.settle(before, usage(9))  # counts on the day it was reserved
        assert ledger.balance(key) == Balance(0, 0.0, 10, 0.0)
        clock.time_s -= 1.0
        assert ledger.balance(key).tokens == 9

    asyncio.run(run())


def test_a_budget_in_dollars_needs_a_price() -> None:
    async def run() -> None:
        ledger = MemoryLedger()
        with pytest.raises(InvalidRequest, match="price"):
            await ledger.reserve([Account("job/1", Budget(usd=1.0))], 10, None)
        await ledger.reserve([Account("job/2", Budget(tokens=10))], 10, None)

    asyncio.run(run())


class Kept:
    def __init__(self) -> None:
        self.charges: list[Charge] = []
        self.broken = False

    def record(self, charge: Charge) -> None:
        if self.broken:
            raise OSError("full")
        self.charges.append(charge)


def test_a_journal_counted_again_gives_the_same_balance_each_charge_once() -> None:
    async def run() -> None:
        kept, job = Kept(), Account("job/1", Budget(usd=1.0))
        ledger = MemoryLedger(kept)
        for nano in (1, 3, 7):
            await ledger.settle(await ledger.reserve([job], 10, 0.1), usage(nano, nano / 10**9))
        await ledger.reserve([job], 10, 0.1)  # its process dies
        await ledger.settle(await ledger.reserve([job], 10, 0.1), None)
        assert len(kept.charges) == 3
        again = MemoryLedger()
        again.restore([*kept.charges, *kept.charges])
        assert again.balance(job) == Balance(11, 11 / 10**9, 0, 0.0)

    asyncio.run(run())


def test_what_the_journal_does_not_take_stays_set_aside() -> None:
    async def run() -> None:
        kept, job = Kept(), Account("job/1", Budget(tokens=10))
        ledger = MemoryLedger(kept)
        held = await ledger.reserve([job], 10, None)
        kept.broken = True
        with pytest.raises(OSError, match="full"):
            await ledger.settle(held, usage(4))
        assert ledger.balance(job) == Balance(0, 0.0, 10, 0.0)
        kept.broken = False
        assert await ledger.settle(held, usage(4))
        assert ledger.balance(job) == Balance(4, 0.0, 0, 0.0)

    asyncio.run(run())
