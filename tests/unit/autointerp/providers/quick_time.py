"""An event loop whose time passes at once: with nothing left to do it jumps to the next timer.

    @in_quick_time
    async def test_a_minute_is_a_minute(): ...

What waits for a minute waits for nothing, in the order that it would have, and `LoopClock` reads that time. Only for
what has no sockets and no threads: the loop does not know that something is under way there.
"""

import asyncio
import functools
import selectors
from collections.abc import Callable, Coroutine
from typing import Any


class _Jumping(selectors.DefaultSelector):
    ahead_s = 0.0

    def select(self, timeout: float | None = None) -> Any:
        ready = super().select(0)
        if not ready and timeout is None:
            raise RuntimeError("everybody waits, and nothing will happen")
        if not ready and timeout:
            self.ahead_s += timeout
        return ready


class QuickLoop(asyncio.SelectorEventLoop):
    def __init__(self) -> None:
        self._jumping = _Jumping()
        super().__init__(self._jumping)

    def time(self) -> float:
        return 1000.0 + self._jumping.ahead_s


class LoopClock:
    """The running loop's time, on both clocks."""

    def time(self) -> float:
        return asyncio.get_running_loop().time()

    def monotonic(self) -> float:
        return asyncio.get_running_loop().time()


def in_quick_time(test: Callable[..., Coroutine[Any, Any, None]]) -> Callable[..., None]:
    @functools.wraps(test)
    def run(*args: Any, **kwargs: Any) -> None:
        with asyncio.Runner(loop_factory=QuickLoop) as runner:
            runner.run(test(*args, **kwargs))

    return run
