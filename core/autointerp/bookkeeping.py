"""Bookkeeping: what a cluster's processes agree on, kept in one of them, and the same as the others see it.

    Workshop -> RemoteBooks -> notes, those of a moment together -> Bookkeeping -> ledger, replies, turnstile
                            -> admit, a call each that waits ---->

Between the two is whatever carries a call (`Desk`), so nothing here knows Ray. A question to a language model is five
notes and a wait; since notes that come up while others are under way travel together, many questions at once cost
little more than one.

What a process that died had reserved is given back once no attempt can still be under way. A charge that comes later
than that, or after the bookkeeper itself was started anew, counts all the same: a provider was paid. It counts once,
however often it is sent.
"""

import asyncio
import logging
import uuid
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Final, Protocol

from core.autointerp.language_model import Reply, Usage
from core.autointerp.providers.cache import ReplyCache
from core.autointerp.providers.gate import Gate
from core.autointerp.providers.ledger import Account, Ledger, Reservation
from core.autointerp.providers.rate import RateLimits
from core.autointerp.providers.turnstile import Ending, GateName, Turnstile
from core.autointerp.workshop import Books
from core.errors import RayscopeError

_LOG: Final = logging.getLogger("ray.serve")
_TOGETHER: Final = 256


@dataclass(frozen=True, slots=True)
class Reserve:
    """`Ledger.reserve`."""

    accounts: tuple[Account, ...]
    tokens: int
    usd: float | None


@dataclass(frozen=True, slots=True)
class Settle:
    """`Ledger.settle`."""

    reservation: Reservation
    usage: Usage | None


@dataclass(frozen=True, slots=True)
class Read:
    """`ReplyCache.get`."""

    key: str


@dataclass(frozen=True, slots=True)
class Write:
    """`ReplyCache.put`."""

    key: str
    reply: Reply


@dataclass(frozen=True, slots=True)
class Leave:
    """`Turnstile.leave`."""

    ticket: str
    ending: Ending


Note = Reserve | Settle | Read | Write | Leave


class Desk(Protocol):
    """Where the books are kept, as others reach it."""

    async def admit(self, ticket: str, name: GateName, tokens: int, owner: str) -> None:
        """See `Turnstile.admit`."""
        ...

    async def post(self, notes: list[Note]) -> list[Any]:
        """Does what the notes say, in order; for each what came of it, an error included."""
        ...


class Bookkeeping:
    """A `Desk` over a ledger, a reply cache and gates, to be closed with `aclose`.

    Args:
        ledger: Counts.
        replies: Keeps.
        turnstile: Lets through.
        hold_s: A reservation that nobody settles is given back after so many seconds.
    """

    def __init__(self, ledger: Ledger, replies: ReplyCache, turnstile: Turnstile, hold_s: float) -> None:
        self._ledger = ledger
        self._replies = replies
        self._turnstile = turnstile
        self._hold_s = hold_s
        self._open: dict[str, asyncio.Task[None]] = {}

    async def admit(self, ticket: str, name: GateName, tokens: int, owner: str) -> None:
        """See `Turnstile.admit`."""
        await self._turnstile.admit(ticket, name, tokens, owner)

    async def post(self, notes: list[Note]) -> list[Any]:
        """See `Desk`."""
        return await asyncio.gather(*(self._do(note) for note in notes), return_exceptions=True)

    async def aclose(self) -> None:
        """Lets nobody wait any longer."""
        tasks = list(self._open.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._turnstile.aclose()

    async def _do(self, note: Note) -> Any:
        match note:
            case Reserve():
                reservation = await self._ledger.reserve(note.accounts, note.tokens, note.usd)
                self._open[reservation.id] = asyncio.create_task(self._give_back(reservation))
                return reservation
            case Settle():
                return await self._settle(note)
            case Read():
                return await self._replies.get(note.key)
            case Write():
                await self._replies.put(note.key, note.reply)
            case Leave():
                self._turnstile.leave(note.ticket, note.ending)
        return None

    async def _settle(self, note: Settle) -> bool:
        holding = self._open.pop(note.reservation.id, None)
        if holding is not None:
            holding.cancel()
        return await self._ledger.settle(note.reservation, note.usage)

    async def _give_back(self, reservation: Reservation) -> None:
        await asyncio.sleep(self._hold_s)
        del self._open[reservation.id]
        await self._ledger.settle(reservation, None)


class _Line:
    """Sends notes, those that come up while others are under way together."""

    def __init__(self, post: Callable[[list[Note]], Awaitable[list[Any]]]) -> None:
        self._post = post
        self._waiting: list[tuple[Note, asyncio.Future[Any]]] = []
        self._sender: asyncio.Task[None] | None = None

    def send(self, note: Note) -> asyncio.Future[Any]:
        """What comes of a note. Whoever does not wait for it is told of nothing."""
        answer: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        answer.add_done_callback(_seen)
        self._waiting.append((note, answer))
        if self._sender is None:
            self._sender = asyncio.create_task(self._send())
        return answer

    async def aclose(self) -> None:
        """Waits until all notes are sent."""
        if self._sender is not None:
            await self._sender

    async def _send(self) -> None:
        while self._waiting:
            sent, self._waiting = self._waiting[:_TOGETHER], self._waiting[_TOGETHER:]
            results: list[Any]
            try:
                results = await self._post([note for note, _ in sent])
            except Exception as error:
                if not isinstance(error, RayscopeError):
                    _LOG.exception("the bookkeeper did not answer")
                results = [error] * len(sent)
            for (_, answer), result in zip(sent, results, strict=True):
                if isinstance(result, BaseException):
                    answer.set_exception(result)
                else:
                    answer.set_result(result)
        self._sender = None


def _seen(answer: asyncio.Future[Any]) -> None:
    if not answer.cancelled():
        answer.exception()


class RemoteBooks:
    """Books that are kept elsewhere, to be closed with `aclose`."""

    def __init__(self, desk: Desk) -> None:
        self._line = _Line(desk.post)
        ledger, replies = _RemoteLedger(self._line), _RemoteReplies(self._line)
        self.books = Books(_RemoteGates(desk, self._line), ledger, replies)

    async def aclose(self) -> None:
        """Waits until what was said is sent."""
        await self._line.aclose()


class _RemoteLedger:
    def __init__(self, line: _Line) -> None:
        self._line = line

    async def reserve(self, accounts: Sequence[Account], tokens: int, usd: float | None) -> Reservation:
        answer = self._line.send(Reserve(tuple(accounts), tokens, usd))
        try:
            return await asyncio.shield(answer)
        except asyncio.CancelledError:
            answer.add_done_callback(self._return)
            raise

    async def settle(self, reservation: Reservation, usage: Usage | None) -> bool:
        return await asyncio.shield(self._line.send(Settle(reservation, usage)))

    def _return(self, answer: asyncio.Future[Reservation]) -> None:
        if not answer.cancelled() and answer.exception() is None:
            self._line.send(Settle(answer.result(), None))


class _RemoteReplies:
    def __init__(self, line: _Line) -> None:
        self._line = line

    async def get(self, key: str) -> Reply | None:
        return await asyncio.shield(self._line.send(Read(key)))

    async def put(self, key: str, reply: Reply) -> None:
        await asyncio.shield(self._line.send(Write(key, reply)))


class _RemoteTurn:
    def __init__(self) -> None:
        self.ending = Ending()

    def succeeded(self, tokens: int) -> None:
        self.ending = Ending("succeeded", tokens)

    def throttled(self, retry_after_s: float | None) -> None:
        self.ending = Ending("throttled", retry_after_s=retry_after_s)

    def unused(self) -> None:
        self.ending = Ending("unused")


@dataclass(frozen=True, slots=True)
class _RemoteGate:
    desk: Desk
    line: _Line
    name: GateName

    @asynccontextmanager
    async def admit(self, tokens: int, owner: str = "") -> AsyncGenerator[_RemoteTurn]:
        ticket, turn = uuid.uuid4().hex, _RemoteTurn()
        try:
            await self.desk.admit(ticket, self.name, tokens, owner)
            yield turn
        finally:
            self.line.send(Leave(ticket, turn.ending))


@dataclass(frozen=True, slots=True)
class _RemoteGates:
    desk: Desk
    line: _Line

    def gate(self, base_url: str, key: str, model: str, limits: RateLimits | None = None) -> Gate:
        return _RemoteGate(self.desk, self.line, GateName(base_url, key, model, limits))
