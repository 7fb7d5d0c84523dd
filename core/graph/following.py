"""A call that reports progress, turned into a generator: whoever reads it slowly gets the newest report only."""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from typing import TypeVar

Report = TypeVar("Report")
Result = TypeVar("Result")


async def followed(work: Callable[[Callable[[Report], None]], Awaitable[Result]]) -> AsyncGenerator[Report | Result]:
    """Yields what a call reports, and at last its result. Closing the generator cancels the call.

    Args:
        work: Called with a function that takes its reports, on this event loop.
    """
    newest: list[Report] = []
    news = asyncio.Event()

    def report(one: Report) -> None:
        newest[:] = [one]
        news.set()

    task = asyncio.ensure_future(work(report))
    task.add_done_callback(lambda _: news.set())
    try:
        while not task.done():
            await news.wait()
            news.clear()
            while newest:
                yield newest.pop()
        yield task.result()
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
