"""Promises of `core.graph.following`."""

import asyncio
from collections.abc import AsyncGenerator, Callable, Coroutine
from contextlib import aclosing
from typing import Any

import pytest

from core.graph.following import followed


def running(test: Callable[[], Coroutine[Any, Any, None]]) -> Callable[[], None]:
    def run() -> None:
        asyncio.run(asyncio.wait_for(test(), 20))

    run.__name__ = test.__name__
    return run


class Work:
    """A call that reports and returns when the test says so."""

    def __init__(self) -> None:
        self.report: Callable[[int], None] = lambda _: None
        self.begun, self.stopped = asyncio.Event(), asyncio.Event()
        self.result: asyncio.Future[str] = asyncio.get_running_loop().create_future()

    async def __call__(self, report: Callable[[int], None]) -> str:
        self.report = report
        self.begun.set()
        try:
            return await self.result
        finally:
            self.stopped.set()

    def follow(self) -> AsyncGenerator[int | str]:
        return followed(self)


@running
async def test_every_report_that_somebody_waits_for_is_told_and_then_the_result() -> None:
    work = Work()
    async with aclosing(work.follow()) as news:
        coming = asyncio.ensure_future(anext(news))
        await work.begun.wait()
        told: list[int | str] = []
        for number in range(3):
            work.report(number)
            told.append(await coming)
            coming = asyncio.ensure_future(anext(news))
        work.result.set_result("done")
        told.append(await coming)
        assert told == [0, 1, 2, "done"]
        with pytest.raises(StopAsyncIteration):
            await anext(news)


@running
async def test_who_reads_slowly_gets_the_newest_report_only() -> None:
    work = Work()
    async with aclosing(work.follow()) as news:
        coming = asyncio.ensure_future(anext(news))
        await work.begun.wait()
        work.report(1)
        assert await coming == 1
        for number in (2, 3, 4):
            work.report(number)
        assert await anext(news) == 4
        work.result.set_result("done")
        assert await anext(news) == "done"


@running
async def test_a_call_that_reports_nothing_has_a_result_all_the_same() -> None:
    async def work(report: Callable[[int], None]) -> str:
        return "at once"

    async with aclosing(followed(work)) as news:
        assert [one async for one in news] == ["at once"]


@running
async def test_what_a_call_fails_with_is_what_its_reader_gets() -> None:
    work = Work()
    async with aclosing(work.follow()) as news:
        coming = asyncio.ensure_future(anext(news))
        await work.begun.wait()
        work.report(1)
        assert await coming == 1
        work.result.set_exception(ValueError("broken"))
        with pytest.raises(ValueError, match="broken"):
            await anext(news)


@running
async def test_a_reader_that_leaves_stops_the_call() -> None:
    work = Work()
    news = work.follow()
    coming = asyncio.ensure_future(anext(news))
    await work.begun.wait()
    work.report(1)
    await coming
    assert not work.stopped.is_set()
    await news.aclose()
    assert work.stopped.is_set()


@running
async def test_a_reader_that_is_cancelled_while_it_waits_stops_the_call() -> None:
    work = Work()

    async def read() -> None:
        async with aclosing(work.follow()) as news:
            async for _ in news:
                pass

    reading = asyncio.create_task(read())
    await work.begun.wait()
    reading.cancel()
    await asyncio.gather(reading, return_exceptions=True)
    assert work.stopped.is_set()
