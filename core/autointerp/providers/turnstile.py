"""Turnstile: rate gates for callers in other processes.

    admit(ticket, ...) returns when it is the call's turn        leave(ticket, how it ended)

A ticket is a name that the caller makes up, so whoever stops waiting can leave without knowing whether its turn had
come. A caller that dies leaves nothing behind for ever: its ticket ends by itself once no attempt can still be under
way, and counts for neither success nor failure.

Belongs to one event loop, as the gates do.
"""

import asyncio
import logging
from dataclasses import dataclass
from typing import Final, Literal

from core.autointerp.providers.gate import Turn
from core.autointerp.providers.rate import RateGate, RateGates, RateLimits

_LOG: Final = logging.getLogger("ray.serve")


@dataclass(frozen=True, slots=True)
class GateName:
    """Which gate.

    Attributes:
        base_url: Where the model is.
        key: Fingerprint of the key.
        model: Its name.
        limits: What counts when the gate is made; None: as any other.
    """

    base_url: str
    key: str
    model: str
    limits: RateLimits | None = None


@dataclass(frozen=True, slots=True)
class Ending:
    """How a call ended.

    Attributes:
        kind: It was answered, there were too many, it was not made, or nothing that matters to a gate.
        tokens: What an answered one took.
        retry_after_s: What the provider asked for, if there were too many.
    """

    kind: Literal["succeeded", "throttled", "unused", "other"] = "other"
    tokens: int = 0
    retry_after_s: float | None = None

    def tell(self, turn: Turn) -> None:
        """Says so to the gate."""
        match self.kind:
            case "succeeded":
                turn.succeeded(self.tokens)
            case "throttled":
                turn.throttled(self.retry_after_s)
            case "unused":
                turn.unused()
            case "other":
                pass


class _Passing:
    def __init__(self) -> None:
        loop = asyncio.get_running_loop()
        self.admitted: asyncio.Future[None] = loop.create_future()
        self.left: asyncio.Future[Ending] = loop.create_future()


class Turnstile:
    """The gates of a cluster, to be closed with `aclose`.

    Args:
        gates: They.
        hold_s: After so many seconds a call that was let in and has not left counts as gone.
    """

    def __init__(self, gates: RateGates, hold_s: float) -> None:
        self._gates = gates
        self._hold_s = hold_s
        self._passing: dict[str, tuple[_Passing, asyncio.Task[None]]] = {}

    @property
    def tickets(self) -> int:
        """Calls that wait or are in flight."""
        return len(self._passing)

    async def admit(self, ticket: str, name: GateName, tokens: int, owner: str = "") -> None:
        """Waits for the turn of a call; whoever stops waiting has left."""
        gate = self._gates.gate(name.base_url, name.key, name.model, name.limits)
        passing = _Passing()
        task = asyncio.create_task(self._pass(passing, gate, tokens, owner))
        self._passing[ticket] = (passing, task)
        task.add_done_callback(lambda _: self._passing.pop(ticket, None))
        try:
            await passing.admitted
        except asyncio.CancelledError:
            self.leave(ticket, Ending("unused"))
            raise

    def leave(self, ticket: str, ending: Ending) -> None:
        """A call has ended, or is no longer wanted; a ticket that nobody knows has ended before."""
        if ticket not in self._passing:
            return
        passing, task = self._passing[ticket]
        if not passing.admitted.done():
            passing.admitted.cancel()
        if passing.admitted.cancelled():
            task.cancel()
        elif not passing.left.done():
            passing.left.set_result(ending)

    async def aclose(self) -> None:
        """Lets nobody wait any longer."""
        tasks = [task for _, task in self._passing.values()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _pass(self, passing: _Passing, gate: RateGate, tokens: int, owner: str) -> None:
        try:
            async with gate.admit(tokens, owner) as turn:
                if not passing.admitted.done():
                    passing.admitted.set_result(None)
                try:
                    async with asyncio.timeout(self._hold_s):
                        ending = await passing.left
                except TimeoutError:
                    _LOG.warning("a call to a language model was not heard of again after %g seconds", self._hold_s)
                    return
                ending.tell(turn)
        finally:
            passing.admitted.cancel()
