"""The fake provider of the unit tests on a thread of its own, for clusters whose replicas call it."""

import asyncio
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from threading import Thread
from typing import Any

from tests.unit.autointerp.fake_provider import Act, Call, FakeProvider


class RunningProvider:
    """A provider that a test changes while it runs."""

    def __init__(self, provider: FakeProvider, loop: asyncio.AbstractEventLoop) -> None:
        self._provider = provider
        self._loop = loop
        self.base_url = provider.base_url

    @property
    def calls(self) -> list[Call]:
        """All calls since the last `becomes`."""
        return self._provider.calls

    @property
    def peak(self) -> int:
        """The most calls at once since then."""
        return self._provider.peak_in_flight

    def becomes(
        self,
        answer: Callable[[Call], str] = lambda call: "yes",
        acts: Callable[[Call], Act | None] = lambda call: None,
        keys: frozenset[str] | None = None,
    ) -> None:
        """From now on it is so, and has no past."""
        provider = self._provider
        provider.answer, provider.acts, provider.keys = answer, acts, keys
        provider.calls.clear()
        provider.peak_in_flight = 0

    def event(self) -> asyncio.Event:
        """For `fake_provider.after`."""
        return asyncio.Event()

    def set(self, event: asyncio.Event) -> None:
        """Sets an event of `event`."""
        self._loop.call_soon_threadsafe(event.set)

    def until(self, condition: Callable[[FakeProvider], bool], timeout_s: float = 60) -> None:
        """Waits until this holds."""
        waiting: Future[Any] = asyncio.run_coroutine_threadsafe(self._provider.until(condition), self._loop)
        waiting.result(timeout_s)


@contextmanager
def running_provider() -> Iterator[RunningProvider]:
    """Starts it."""
    ready: Future[RunningProvider] = Future()
    over: list[asyncio.Event] = []

    async def serve() -> None:
        async with FakeProvider(acts=lambda call: None) as provider:
            over.append(asyncio.Event())
            ready.set_result(RunningProvider(provider, asyncio.get_running_loop()))
            await over[0].wait()

    thread = Thread(target=asyncio.run, args=(serve(),), name="provider", daemon=True)
    thread.start()
    provider = ready.result(30)
    try:
        yield provider
    finally:
        provider.set(over[0])
        thread.join(10)
