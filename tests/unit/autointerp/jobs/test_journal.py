"""Charges in a file: counted once, by whichever process counts on."""

import asyncio
from pathlib import Path

from core.autointerp.jobs.journal import ChargeFile
from core.autointerp.language_model import Usage
from core.autointerp.providers.ledger import Account, Charge, MemoryLedger

JOB, KEY = Account("job/1"), Account("key/a")


class Day:
    """A clock that is set by hand."""

    now_s = 1000.0

    def time(self) -> float:
        return self.now_s

    def monotonic(self) -> float:
        return self.now_s


def restored(path: Path, clock: Day | None = None) -> MemoryLedger:
    ledger = MemoryLedger()
    file = ChargeFile(path, clock or Day())
    ledger.restore(file.charges())
    file.close()
    return ledger


def test_a_ledger_counts_on_from_the_file(tmp_path: Path) -> None:
    path = tmp_path / "charges.sqlite"
    file = ChargeFile(path, Day())
    ledger = MemoryLedger(file)

    async def spend() -> None:
        for cost in (0.5, 0.25):
            reservation = await ledger.reserve((JOB, KEY), 100, 1.0)
            await ledger.settle(reservation, Usage(10, 5, cost, 1))
        await ledger.settle(await ledger.reserve((JOB,), 100, 1.0), None)
        await ledger.reserve((JOB,), 100, 1.0)  # nobody will make this call

    asyncio.run(spend())
    file.close()
    for account in (JOB, KEY):
        balance = restored(path).balance(account)
        assert (balance.tokens, balance.usd, balance.reserved_tokens) == (30, 0.75, 0)


def test_a_charge_that_is_sent_again_counts_once(tmp_path: Path) -> None:
    path = tmp_path / "charges.sqlite"
    file = ChargeFile(path, Day())
    for _ in range(2):
        file.record(Charge("a", ("job/1",), 7, 10**9))
    file.close()
    assert restored(path).balance(JOB).tokens == 7


def test_old_charges_are_added_up_and_not_lost(tmp_path: Path) -> None:
    path, clock = tmp_path / "charges.sqlite", Day()
    for day in range(3):
        file = ChargeFile(path, clock)
        for number in range(4):
            file.record(Charge(f"{day}-{number}", ("job/1", "key/a"), 1, 10**9))
        file.close()
        clock.now_s += 100_000
    file = ChargeFile(path, clock)
    assert len(file.charges()) == 1
    file.close()
    assert (restored(path, clock).balance(JOB).tokens, restored(path, clock).balance(KEY).usd) == (12, 12.0)
