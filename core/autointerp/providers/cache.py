"""Reply cache: what was answered once is not paid for again.

A reply is kept under its provenance: which model at which place, the conversation, and everything that it was sampled
with. The same question is the same answer, also at a high temperature; who wants another draw asks with another seed.
The place is part of it, since whoever runs a server can call its model anything.

Only replies are kept. An error never is, so a bad key, an empty account or a refusal costs another call and not a
lasting gap. `force` asks anew and keeps the new answer.

A question that is being asked is not asked again: whoever comes meanwhile waits for the same answer (`Flights`).

Here are the protocol, the cache in memory, and `CachedModel` around any language model; `cache_file` has the file.
"""

import asyncio
import hashlib
import json
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Final, Protocol

from core.autointerp.language_model import Ask, LanguageModel, Reply, Usage
from core.autointerp.providers.model import ask_each

_FORM: Final = 1  # of keys; another one forgets all


class ReplyCache(Protocol):
    """Keeps replies. Safe to use from many tasks."""

    async def get(self, key: str) -> Reply | None:
        """The reply under a key."""
        ...

    async def put(self, key: str, reply: Reply) -> None:
        """Keeps a reply, in place of another under its key."""
        ...


def cache_key(model: str, place: str, question: Ask) -> str:
    """A question's provenance: SHA-256 of all that its answer depends on, in hexadecimal."""
    provenance = {"form": _FORM, "model": model, "place": place, **asdict(question)}
    return hashlib.sha256(json.dumps(provenance, sort_keys=True).encode()).hexdigest()


class MemoryReplies:
    """Keeps the replies that were used last.

    Args:
        capacity: Replies at most.
    """

    def __init__(self, capacity: int = 4096) -> None:
        self._capacity = capacity
        self._replies: OrderedDict[str, Reply] = OrderedDict()

    async def get(self, key: str) -> Reply | None:
        """See `ReplyCache`."""
        if key in self._replies:
            self._replies.move_to_end(key)
        return self._replies.get(key)

    async def put(self, key: str, reply: Reply) -> None:
        """See `ReplyCache`."""
        self._replies[key] = reply
        self._replies.move_to_end(key)
        while len(self._replies) > self._capacity:
            self._replies.popitem(last=False)


@dataclass(slots=True, eq=False)
class _Flight:
    task: asyncio.Future[Reply]
    waiting: int = 0


class Flights:
    """Questions that are being asked, so that nobody asks one of them again. Lives on one event loop.

    A question is asked on behalf of whoever came first, and goes on as long as anybody waits for it. If it fails, that
    may be about the first: a budget, a deadline, a key. So the failure is the first's alone, and each of the others
    asks for itself.
    """

    def __init__(self) -> None:
        self._flights: dict[str, _Flight] = {}

    async def ask(self, key: str, ask: Callable[[], Awaitable[Reply]]) -> Reply:
        """The answer to the question under a key; `usage.cached` is 1 if somebody else asked.

        Args:
            key: Its provenance.
            ask: Asks it.

        Raises:
            RayscopeError: What `ask` raises.
        """
        flight = self._flights.get(key)
        if flight is None:
            flight = self._flights[key] = _Flight(asyncio.ensure_future(ask()))
            return await self._wait(key, flight)
        try:
            reply = await self._wait(key, flight)
        except Exception:
            return await ask()
        return replace(reply, usage=Usage(cached=1))

    async def _wait(self, key: str, flight: _Flight) -> Reply:
        flight.waiting += 1
        try:
            return await asyncio.shield(flight.task)
        finally:
            flight.waiting -= 1
            if flight.task.done() or not flight.waiting:
                if self._flights.get(key) is flight:  # nobody joins what ends
                    del self._flights[key]
                flight.task.cancel()
                await asyncio.gather(flight.task, return_exceptions=True)


@dataclass(frozen=True, slots=True)
class CachedModel:
    """A language model whose answers are kept.

    Attributes:
        model: Is asked what nobody asked before.
        cache: Keeps.
        place: Where the model is: its endpoint's `place`.
        force: Whether to ask anew, whatever was asked or is being asked.
        flights: What is being asked: shared by all that share the cache.
    """

    model: LanguageModel
    cache: ReplyCache
    place: str
    force: bool = False
    flights: Flights = field(default_factory=Flights, repr=False)

    @property
    def name(self) -> str:
        """Which model, as it is asked for."""
        return self.model.name

    async def ask(self, question: Ask) -> Reply:
        """One answer; from the cache it costs nothing, and `usage.cached` is 1.

        Raises:
            RayscopeError: As the model; nothing is kept then.
        """
        key = cache_key(self.name, self.place, question)
        if self.force:
            return await self._ask(key, question)
        kept = await self.cache.get(key)
        if kept is not None:
            return replace(kept, usage=Usage(cached=1))
        return await self.flights.ask(key, lambda: self._ask(key, question))

    async def ask_all(self, questions: Sequence[Ask]) -> list[Reply]:
        """Answers, in order; see `ask_each`."""
        return await ask_each(self.ask, questions)

    async def _ask(self, key: str, question: Ask) -> Reply:
        reply = await self.model.ask(question)
        await self.cache.put(key, reply)
        return reply
