"""Reply cache: what was answered once is not paid for again.

A reply is kept under its provenance: which model at which place, the conversation, and everything that it was sampled
with. The same question is the same answer, also at a high temperature; who wants another draw asks with another seed.
The place is part of it, since whoever runs a server can call its model anything.

Only replies are kept. An error never is, so a bad key, an empty account or a refusal costs another call and not a
lasting gap. `force` asks anew and keeps the new answer.

Here are the protocol, the cache in memory, and `CachedModel` around any language model; `cache_file` has the file.
"""

import hashlib
import json
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
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


@dataclass(frozen=True, slots=True)
class CachedModel:
    """A language model whose answers are kept.

    Attributes:
        model: Is asked what nobody asked before.
        cache: Keeps.
        place: Where the model is: its endpoint's `place`.
        force: Whether to ask anew.
    """

    model: LanguageModel
    cache: ReplyCache
    place: str
    force: bool = False

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
        kept = None if self.force else await self.cache.get(key)
        if kept is not None:
            return replace(kept, usage=Usage(cached=1))
        reply = await self.model.ask(question)
        await self.cache.put(key, reply)
        return reply

    async def ask_all(self, questions: Sequence[Ask]) -> list[Reply]:
        """Answers, in order; see `ask_each`."""
        return await ask_each(self.ask, questions)
