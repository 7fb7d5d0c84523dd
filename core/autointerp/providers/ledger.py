"""Ledger: what was spent, and whether a call may still be made.

    reserve(accounts, most it can cost) -> made only if every account has that much left -> settle(what it did cost)

A budget that is looked at and then spent is overspent by everybody who looks at the same time, so the most that a call
can cost is set aside before it is made. A reservation covers several accounts or none: a job's, its key's, its key's of
the day. It is settled once; settling again changes nothing. A call that came to nothing settles nothing.

Money is counted in whole nano-dollars: sums of fractions would drift, and budgets are compared to them.

`Ledger` is what clients see, and asynchronous since it may live in another process; `MemoryLedger` is the plain value.
What was settled goes to its `journal` in the order it was, and `restore` counts a journal again, each charge once.
Reservations are not written down: after a crash nobody makes those calls, and those who make them anew reserve anew.
Only a call that was under way at the crash is settled with a ledger that has not reserved for it, and counts all the
same, since a provider was paid.

Deliberately not here: estimating (`pricing`), and whose key a call is made with.
"""

import uuid
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import ROUND_HALF_EVEN, Decimal
from threading import Lock
from typing import Final, Protocol

from core.autointerp.language_model import Usage
from core.clock import SYSTEM_CLOCK, Clock
from core.errors import BudgetReached, InvalidRequest

_NANO: Final = Decimal(10**9)
_REMEMBERED: Final = 100_000  # charges by id, so that one that is sent again is known


@dataclass(frozen=True, slots=True)
class Budget:
    """How much may be spent; None: without limit.

    Attributes:
        usd: Dollars.
        tokens: Tokens read and written.
    """

    usd: float | None = None
    tokens: int | None = None


@dataclass(frozen=True, slots=True)
class Account:
    """Who pays.

    Attributes:
        name: Such as `job/17` or `key/alice`; never a key itself.
        budget: How much.
        daily: Whether it begins anew at midnight UTC.
    """

    name: str
    budget: Budget = Budget()
    daily: bool = False


@dataclass(frozen=True, slots=True)
class Reservation:
    """What is set aside for a call.

    Attributes:
        id: Its own.
        entries: The accounts as they are counted: with the day, if daily.
        tokens: Tokens set aside.
        nano_usd: Nano-dollars set aside.
    """

    id: str
    entries: tuple[str, ...]
    tokens: int
    nano_usd: int


@dataclass(frozen=True, slots=True)
class Charge:
    """What a call cost; the fields are a reservation's."""

    id: str
    entries: tuple[str, ...]
    tokens: int
    nano_usd: int


@dataclass(frozen=True, slots=True)
class Balance:
    """An account's state.

    Attributes:
        tokens: Spent.
        usd: Spent.
        reserved_tokens: Set aside.
        reserved_usd: Set aside.
    """

    tokens: int
    usd: float
    reserved_tokens: int
    reserved_usd: float


class Ledger(Protocol):
    """Counts."""

    async def reserve(self, accounts: Sequence[Account], tokens: int, usd: float | None) -> Reservation:
        """Sets the most that a call can cost aside, in all accounts or in none.

        Args:
            accounts: Who pays.
            tokens: Tokens at most.
            usd: Dollars at most; None if nobody knows the price.

        Raises:
            BudgetReached: An account has not so much left.
            InvalidRequest: An account has a budget in dollars, and nobody knows the price.
        """
        ...

    async def settle(self, reservation: Reservation, usage: Usage | None) -> bool:
        """Counts what the call did cost, None for nothing; whether this was the first time."""
        ...


class Journal(Protocol):
    """Keeps charges."""

    def record(self, charge: Charge) -> None:
        """Keeps one. Called with the ledger locked, before the charge counts; what it raises, `settle` raises."""
        ...


@dataclass(slots=True)
class _Sums:
    tokens: int = 0
    nano_usd: int = 0
    reserved_tokens: int = 0
    reserved_nano_usd: int = 0


class MemoryLedger:
    """A ledger in memory; safe between threads.

    Args:
        journal: Told of every charge.
        clock: Tells the day.
    """

    def __init__(self, journal: Journal | None = None, clock: Clock = SYSTEM_CLOCK) -> None:
        self._journal = journal
        self._clock = clock
        self._sums: dict[str, _Sums] = {}
        self._open: dict[str, Reservation] = {}
        self._charged: OrderedDict[str, None] = OrderedDict()
        self._lock = Lock()

    async def reserve(self, accounts: Sequence[Account], tokens: int, usd: float | None) -> Reservation:
        """See `Ledger`."""
        nano_usd = 0 if usd is None else _nano(usd)
        entries = tuple(self._entry(account) for account in accounts)
        with self._lock:
            for account, entry in zip(accounts, entries, strict=True):
                _check(account, self._sums.get(entry, _Sums()), tokens, None if usd is None else nano_usd)
            reservation = Reservation(uuid.uuid4().hex, entries, tokens, nano_usd)
            for entry in entries:
                sums = self._sums.setdefault(entry, _Sums())
                sums.reserved_tokens += tokens
                sums.reserved_nano_usd += nano_usd
            self._open[reservation.id] = reservation
        return reservation

    async def settle(self, reservation: Reservation, usage: Usage | None) -> bool:
        """See `Ledger`."""
        with self._lock:
            is_open = reservation.id in self._open
            if not is_open and (usage is None or reservation.id in self._charged):
                return False
            if usage is not None:
                charge = Charge(
                    reservation.id,
                    reservation.entries,
                    usage.prompt_tokens + usage.completion_tokens,
                    _nano(usage.cost_usd or 0.0),
                )
                if self._journal is not None:
                    self._journal.record(charge)
                self._add(charge)
            if is_open:
                del self._open[reservation.id]
                for entry in reservation.entries:
                    self._sums[entry].reserved_tokens -= reservation.tokens
                    self._sums[entry].reserved_nano_usd -= reservation.nano_usd
        return True

    def restore(self, charges: Iterable[Charge]) -> None:
        """Counts what a journal kept; a charge that is there twice counts once."""
        with self._lock:
            for charge in {charge.id: charge for charge in charges}.values():
                self._add(charge)

    def balance(self, account: Account) -> Balance:
        """An account's state, of today if it is daily."""
        with self._lock:
            sums = self._sums.get(self._entry(account), _Sums())
            return Balance(sums.tokens, _usd(sums.nano_usd), sums.reserved_tokens, _usd(sums.reserved_nano_usd))

    def _add(self, charge: Charge) -> None:
        self._charged[charge.id] = None
        if len(self._charged) > _REMEMBERED:
            self._charged.popitem(last=False)
        for entry in charge.entries:
            sums = self._sums.setdefault(entry, _Sums())
            sums.tokens += charge.tokens
            sums.nano_usd += charge.nano_usd

    def _entry(self, account: Account) -> str:
        if not account.daily:
            return account.name
        return f"{account.name}@{datetime.fromtimestamp(self._clock.time(), UTC).date()}"


def _check(account: Account, sums: _Sums, tokens: int, nano_usd: int | None) -> None:
    budget = account.budget
    hint = "Raise the budget, or wait until tomorrow." if account.daily else "Raise the budget."
    if budget.tokens is not None:
        left = budget.tokens - sums.tokens - sums.reserved_tokens
        if tokens > left:
            rest = f"{account.name} has {max(0, left)} of {budget.tokens} left"
            raise BudgetReached(f"The next call may take {tokens} tokens, and {rest}.", hint)
    if budget.usd is not None:
        if nano_usd is None:
            raise InvalidRequest(
                f"{account.name} has a budget in dollars, and nobody knows the model's price.",
                "Give its price, or a budget in tokens.",
            )
        left = _nano(budget.usd) - sums.nano_usd - sums.reserved_nano_usd
        if nano_usd > left:
            rest = f"{account.name} has ${_usd(max(0, left)):.6f} of ${budget.usd:.6f} left"
            raise BudgetReached(f"The next call may cost ${_usd(nano_usd):.6f}, and {rest}.", hint)


def _nano(usd: float) -> int:
    return int((Decimal(str(usd)) * _NANO).to_integral_value(ROUND_HALF_EVEN))


def _usd(nano_usd: int) -> float:
    return float(Decimal(nano_usd) / _NANO)
