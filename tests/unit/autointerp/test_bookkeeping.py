"""Books that are kept elsewhere are the same books: limits, budgets and answers hold over all that share them."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from core.autointerp.bookkeeping import Bookkeeping, Note, RemoteBooks, Reserve, Settle
from core.autointerp.language_model import Ask, ChatMessage, Reply, Usage
from core.autointerp.providers.cache import MemoryReplies
from core.autointerp.providers.failures import Said, of_status
from core.autointerp.providers.ledger import Account, Budget, Charge, MemoryLedger
from core.autointerp.providers.model import Errand, Patience, ProviderModel
from core.autointerp.providers.rate import RateGates, RateLimits
from core.autointerp.providers.turnstile import GateName, Turnstile
from core.errors import BudgetReached, ProviderAuth, Unavailable
from tests.unit.autointerp.providers.quick_time import LoopClock, in_quick_time

JOB = Account("job/1", Budget(tokens=1000))
HOLD_S = 130.0
QUESTION = Ask((ChatMessage("user", "hello"),), max_tokens=5)


class Office:
    """A bookkeeper behind a line that takes a moment; `broken` fails what is sent."""

    def __init__(self, in_flight: int = 4, journal: Any = None) -> None:
        self.ledger = MemoryLedger(journal, LoopClock())
        self.gates = RateGates(RateLimits(in_flight=in_flight), clock=LoopClock())
        self.stile = Turnstile(self.gates, HOLD_S)
        self.books = Bookkeeping(self.ledger, MemoryReplies(), self.stile, HOLD_S)
        self.posts: list[list[Note]] = []
        self.broken: BaseException | None = None

    async def admit(self, ticket: str, name: GateName, tokens: int, owner: str) -> None:
        await asyncio.sleep(0.003)
        await self.books.admit(ticket, name, tokens, owner)

    async def post(self, notes: list[Note]) -> list[Any]:
        self.posts.append(notes)
        await asyncio.sleep(0.003)
        if self.broken is not None:
            raise self.broken
        return await self.books.post(notes)


class Slow:
    """An endpoint that takes a second and counts."""

    name, place = "m", "https://a.example/v1"

    def __init__(self, failure: Callable[[], BaseException] | None = None) -> None:
        self.in_flight = self.peak = self.calls = 0
        self._failure = failure

    async def attempt(self, question: Ask, timeout_s: float) -> Reply:
        self.in_flight += 1
        self.calls += 1
        self.peak = max(self.peak, self.in_flight)
        try:
            await asyncio.sleep(1)
            if self._failure is not None:
                raise self._failure()
            return Reply("yes", Usage(7, 3, 0.001, 1), "m")
        finally:
            self.in_flight -= 1


def model(remote: RemoteBooks, endpoint: Slow, *accounts: Account) -> ProviderModel:
    books = remote.books
    gate = books.gates.gate(endpoint.place, "key", endpoint.name)
    return ProviderModel(
        endpoint, gate, Errand("job/1", accounts), books.ledger, patience=Patience(attempts=1), clock=LoopClock()
    )


async def closed(office: Office, *remotes: RemoteBooks) -> None:
    for remote in remotes:
        await remote.aclose()
    await office.books.aclose()


@in_quick_time
async def test_processes_share_one_limit_and_one_account() -> None:
    office, endpoint = Office(in_flight=4), Slow()
    here, there = RemoteBooks(office), RemoteBooks(office)
    await asyncio.gather(*(model(one, endpoint, JOB).ask(QUESTION) for one in (here, there) for _ in range(10)))
    await closed(office, here, there)
    assert endpoint.peak == 4
    balance = office.ledger.balance(JOB)
    assert (balance.tokens, balance.reserved_tokens) == (200, 0)
    assert balance.usd == pytest.approx(0.02)
    assert office.stile.tickets == 0


@in_quick_time
async def test_notes_of_a_moment_travel_together() -> None:
    office = Office(in_flight=100)
    remote = RemoteBooks(office)
    await asyncio.gather(*(model(remote, Slow(), JOB).ask(QUESTION) for _ in range(50)))
    await closed(office, remote)
    notes = sum(map(len, office.posts))
    assert notes == 150  # reserved, settled and left
    assert len(office.posts) < 15


@in_quick_time
async def test_a_budget_stops_all_processes_and_says_so_by_its_type() -> None:
    office, endpoint = Office(in_flight=1), Slow()
    small = Account("job/1", Budget(tokens=35))
    remotes = [RemoteBooks(office) for _ in range(3)]
    results = await asyncio.gather(
        *(model(one, endpoint, small).ask(QUESTION) for one in remotes for _ in range(3)), return_exceptions=True
    )
    await closed(office, *remotes)
    refused = [result for result in results if isinstance(result, BudgetReached)]
    assert len(refused) + endpoint.calls == 9
    assert refused
    assert office.ledger.balance(small).tokens <= 35


@in_quick_time
async def test_a_failed_call_costs_nothing_and_makes_room() -> None:
    office = Office(in_flight=1)
    remote = RemoteBooks(office)
    failing = Slow(lambda: of_status("m", 401, Said()))
    for _ in range(3):
        with pytest.raises(ProviderAuth):
            await model(remote, failing, JOB).ask(QUESTION)
    await closed(office, remote)
    assert office.ledger.balance(JOB).tokens == office.ledger.balance(JOB).reserved_tokens == 0
    assert office.stile.tickets == 0


@in_quick_time
async def test_cancelling_gives_everything_back() -> None:
    """At whichever moment: while it waits for its turn, for its money, or for the answer."""
    for after_s in (0.001, 0.004, 0.005, 0.007, 0.5):
        office = Office(in_flight=1)
        remote = RemoteBooks(office)
        asked = asyncio.create_task(model(remote, Slow(), JOB).ask(QUESTION))
        await asyncio.sleep(after_s)
        asked.cancel()
        await asyncio.gather(asked, return_exceptions=True)
        await asyncio.sleep(0.02)
        assert asked.cancelled()
        assert (office.stile.tickets, office.ledger.balance(JOB).reserved_tokens) == (0, 0), after_s
        await closed(office, remote)


@in_quick_time
async def test_what_a_dead_process_reserved_is_given_back() -> None:
    office = Office()
    (reservation,) = await office.books.post([Reserve((JOB,), 900, None)])
    assert office.ledger.balance(JOB).reserved_tokens == 900
    await asyncio.sleep(HOLD_S + 1)
    assert office.ledger.balance(JOB).reserved_tokens == 0
    assert await office.books.post([Settle(reservation, Usage(5, 5, calls=1))]) == [True]  # it was only late
    assert office.ledger.balance(JOB).tokens == 10
    await closed(office)


class Kept(list[Charge]):
    def record(self, charge: Charge) -> None:
        self.append(charge)


@in_quick_time
async def test_a_bookkeeper_started_anew_counts_what_is_settled_with_it_once() -> None:
    journal = Kept()
    first = Office(journal=journal)
    counted, under_way = await first.books.post([Reserve((JOB,), 20, None), Reserve((JOB,), 20, None)])
    await first.books.post([Settle(counted, Usage(5, 5, calls=1))])
    await closed(first)
    second = Office(journal=journal)
    second.ledger.restore(journal)
    again = [Settle(counted, Usage(5, 5, calls=1)), Settle(under_way, Usage(1, 1, calls=1))]
    assert await second.books.post([*again, *again]) == [False, True, False, False]
    assert second.ledger.balance(JOB).tokens == 12
    assert len(journal) == 2
    await closed(second)


@in_quick_time
async def test_answers_are_kept_for_all() -> None:
    office = Office()
    here, there = RemoteBooks(office), RemoteBooks(office)
    reply = Reply("yes", Usage(1, 1, calls=1), "m")
    assert await here.books.replies.get("key") is None
    await here.books.replies.put("key", reply)
    assert await there.books.replies.get("key") == reply
    await closed(office, here, there)


@in_quick_time
async def test_a_bookkeeper_that_is_away_fails_what_was_asked_and_nothing_after() -> None:
    office, endpoint = Office(), Slow()
    remote = RemoteBooks(office)
    office.broken = Unavailable("away")
    with pytest.raises(Unavailable):
        await model(remote, endpoint, JOB).ask(QUESTION)
    assert endpoint.calls == 0
    office.broken = None
    assert (await model(remote, endpoint, JOB).ask(QUESTION)).text == "yes"
    await closed(office, remote)


def test_waiting_for_nothing_is_closed_at_once() -> None:
    async def go() -> None:
        await RemoteBooks(Office()).aclose()

    runs: Awaitable[None] = go()
    asyncio.run(asyncio.wait_for(runs, 5))
