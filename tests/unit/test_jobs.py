"""Jobs outlive the request that asked for them, within bounds."""

import asyncio
from collections.abc import AsyncGenerator, Callable, Coroutine
from dataclasses import dataclass, field
from typing import Any

import pytest

from core.errors import InvalidRequest, NotFound, Overloaded
from core.job_state import JobCounts, Kept, Progress
from core.jobs import JobBook, JobLimits


@dataclass
class HeldClock:
    now_s: float = 100.0

    def time(self) -> float:
        return self.now_s

    def monotonic(self) -> float:
        return self.now_s


@dataclass
class Desk:
    """Work that goes on when the test says so. What is asked is the name of a piece of work."""

    gates: dict[str, asyncio.Queue[Any]] = field(default_factory=dict)
    started: list[str] = field(default_factory=list)
    stopped: list[str] = field(default_factory=list)

    def say(self, name: str, output: Any) -> None:
        self.gates.setdefault(name, asyncio.Queue()).put_nowait(output)

    async def work(self, name: str) -> AsyncGenerator[Any]:
        self.started.append(name)
        gate = self.gates.setdefault(name, asyncio.Queue())
        try:
            while (output := await gate.get()) is not None:
                if isinstance(output, Exception):
                    raise output
                yield output
        finally:
            self.stopped.append(name)


def running(test: Callable[[], Coroutine[Any, Any, None]]) -> Callable[[], None]:
    def run() -> None:
        asyncio.run(asyncio.wait_for(test(), 30))

    run.__name__ = test.__name__
    return run


LONG_S = 20.0


@running
async def test_a_job_waits_is_worked_on_and_completes() -> None:
    desk, clock = Desk(), HeldClock()
    book: JobBook[str] = JobBook(desk.work, clock=clock)
    job = book.submit("a")
    assert (job.status, job.output, job.error, job.ended) == ("IN_QUEUE", None, None, False)
    clock.now_s += 2
    desk.say("a", "first")
    assert (await book.news(job.id, LONG_S))[0].output == "first"
    state = book.state(job.id)
    assert (state.status, state.delay_s, state.execution_s) == ("IN_PROGRESS", 2.0, 0.0)
    clock.now_s += 3
    desk.say("a", "first and second")
    desk.say("a", None)
    state = await book.ended(job.id, LONG_S)
    assert (state.status, state.output, state.execution_s) == ("COMPLETED", "first and second", 3.0)
    assert book.counts() == JobCounts(in_queue=0, in_progress=0, completed=1, failed=0)
    await book.aclose()


@running
async def test_a_reader_of_the_stream_gets_each_output_once_and_the_newest_only() -> None:
    desk = Desk()
    book: JobBook[str] = JobBook(desk.work)
    job = book.submit("a")
    desk.say("a", 1)
    assert (await book.news(job.id, LONG_S))[1]
    waiting = asyncio.create_task(book.news(job.id, LONG_S))
    desk.say("a", 2)
    state, news = await waiting
    assert (state.output, news) == (2, True)
    desk.say("a", 3)
    desk.say("a", 4)
    desk.say("a", None)
    await book.ended(job.id, LONG_S)
    state, news = await book.news(job.id, LONG_S)
    assert (state.status, state.output, news) == ("COMPLETED", 4, True)
    assert (await book.news(job.id, LONG_S))[1] is False
    await book.aclose()


@running
async def test_waiting_for_news_ends_in_time() -> None:
    desk = Desk()
    book: JobBook[str] = JobBook(desk.work)
    job = book.submit("a")
    state, news = await book.news(job.id, 0.01)
    assert (state.ended, news) == (False, False)
    assert (await book.ended(job.id, 0.01)).ended is False
    await book.aclose()


@running
async def test_a_job_that_can_not_be_done_says_why() -> None:
    desk = Desk()
    book: JobBook[str] = JobBook(desk.work)
    refused, broken = book.submit("refused"), book.submit("broken")
    desk.say("refused", InvalidRequest("prompt is required"))
    desk.say("broken", ValueError("the secret is 42"))
    state = await book.ended(refused.id, LONG_S)
    assert (state.status, state.error) == ("FAILED", "prompt is required")
    state = await book.ended(broken.id, LONG_S)
    assert state.status == "FAILED"
    assert state.error is not None
    assert "42" not in state.error
    assert book.counts().failed == 2
    await book.aclose()


@running
async def test_a_cancelled_job_stops_working() -> None:
    desk = Desk()
    book: JobBook[str] = JobBook(desk.work)
    job = book.submit("a")
    desk.say("a", "half")
    await book.news(job.id, LONG_S)
    assert (await book.cancel(job.id)).status == "CANCELLED"
    assert desk.stopped == ["a"]
    assert (await book.cancel(job.id)).status == "CANCELLED"
    await book.aclose()


@running
async def test_a_job_that_has_not_begun_can_be_cancelled() -> None:
    desk = Desk()
    book: JobBook[str] = JobBook(desk.work)
    job = book.submit("a")
    assert (await book.cancel(job.id)).status == "CANCELLED"
    assert (await book.ended(job.id, LONG_S)).status == "CANCELLED"
    assert desk.started == []


@running
async def test_cancelling_what_has_ended_changes_nothing() -> None:
    desk = Desk()
    book: JobBook[str] = JobBook(desk.work)
    job = book.submit("a")
    desk.say("a", None)
    await book.ended(job.id, LONG_S)
    assert (await book.cancel(job.id)).status == "COMPLETED"


@running
async def test_only_so_many_jobs_are_worked_on_at_once() -> None:
    desk = Desk()
    book: JobBook[str] = JobBook(desk.work, JobLimits(running=2))
    jobs = [book.submit(name) for name in "abc"]
    for name in "ab":
        desk.say(name, "begun")
    for job in jobs[:2]:
        await book.news(job.id, LONG_S)
    assert [book.state(job.id).status for job in jobs] == ["IN_PROGRESS", "IN_PROGRESS", "IN_QUEUE"]
    assert book.counts() == JobCounts(in_queue=1, in_progress=2, completed=0, failed=0)
    await book.cancel(jobs[0].id)
    desk.say("c", "begun")
    assert (await book.news(jobs[2].id, LONG_S))[0].status == "IN_PROGRESS"
    await book.aclose()


@running
async def test_an_ended_job_is_forgotten_after_a_while() -> None:
    desk, clock = Desk(), HeldClock()
    book: JobBook[str] = JobBook(desk.work, JobLimits(remembered_s=60), clock)
    old, going_on = book.submit("old"), book.submit("going on")
    desk.say("old", None)
    await book.ended(old.id, LONG_S)
    clock.now_s += 59
    assert book.state(old.id).status == "COMPLETED"
    clock.now_s += 2
    with pytest.raises(NotFound, match="There is no job"):
        book.state(old.id)
    assert not book.state(going_on.id).ended
    assert book.counts().completed == 1
    await book.aclose()


@running
async def test_a_full_book_forgets_the_longest_ended_job_and_never_one_that_goes_on() -> None:
    desk, clock = Desk(), HeldClock()
    book: JobBook[str] = JobBook(desk.work, JobLimits(remembered=3), clock)
    jobs = [book.submit(name) for name in "abc"]
    for job, name in ((jobs[1], "b"), (jobs[0], "a")):
        clock.now_s += 1
        desk.say(name, None)
        await book.ended(job.id, LONG_S)
    newest = book.submit("d")
    with pytest.raises(NotFound):
        book.state(jobs[1].id)
    assert book.state(jobs[0].id).status == "COMPLETED"
    book.submit("e")
    with pytest.raises(Overloaded):
        book.submit("f")
    assert not book.state(newest.id).ended
    await book.aclose()


@running
async def test_a_closed_book_has_stopped_its_jobs() -> None:
    desk = Desk()
    book: JobBook[str] = JobBook(desk.work, JobLimits(running=1))
    jobs = [book.submit("a"), book.submit("b")]
    desk.say("a", "half")
    await book.news(jobs[0].id, LONG_S)
    await book.aclose()
    assert [book.state(job.id).status for job in jobs] == ["CANCELLED", "CANCELLED"]
    assert desk.stopped == ["a"]


@running
async def test_every_reader_gets_what_it_has_not_seen() -> None:
    desk = Desk()
    book: JobBook[str] = JobBook(desk.work)
    job = book.submit("a")
    begun = await book.changed(job.id, job.changes, LONG_S)
    assert begun.status == "IN_PROGRESS"
    waiting = [asyncio.create_task(book.changed(job.id, begun.changes, LONG_S)) for _ in range(3)]
    desk.say("a", "first")
    first = await asyncio.gather(*waiting)
    assert [state.output for state in first] == ["first"] * 3
    quick = asyncio.create_task(book.changed(job.id, first[0].changes, LONG_S))
    desk.say("a", "second")
    desk.say("a", None)
    assert (await quick).output == "second"
    await book.ended(job.id, LONG_S)
    slow = await book.changed(job.id, first[1].changes, LONG_S)
    assert (slow.output, slow.status) == ("second", "COMPLETED")
    assert await book.changed(job.id, slow.changes, LONG_S) == slow  # there is nothing to wait for
    assert (await book.changed(job.id, 0, LONG_S)).changes == slow.changes > first[1].changes
    await book.aclose()


@running
async def test_waiting_for_a_change_ends_in_time() -> None:
    desk = Desk()
    book: JobBook[str] = JobBook(desk.work)
    job = book.submit("a")
    begun = await book.changed(job.id, job.changes, LONG_S)
    assert (await book.changed(job.id, begun.changes, 0.01)).changes == begun.changes
    await book.aclose()


@running
async def test_a_job_says_how_far_it_has_come_and_that_is_no_output() -> None:
    desk = Desk()
    book: JobBook[str] = JobBook(desk.work, clock=HeldClock())
    job = book.submit("a")
    assert job.progress is None
    seen = (await book.changed(job.id, job.changes, LONG_S)).changes
    for output in (Progress("trace"), "a part", Progress("attribute", 48, 5000)):
        desk.say("a", output)
        state = await book.changed(job.id, seen, LONG_S)
        seen = state.changes
        assert output in (state.progress, state.output)
    assert (state.progress, state.output) == (Progress("attribute", 48, 5000), "a part")
    assert await book.news(job.id, LONG_S) == (state, True)
    desk.say("a", Progress("attribute", 96, 5000))
    await book.changed(job.id, seen, LONG_S)
    assert (await book.news(job.id, 0.01))[1] is False
    desk.say("a", InvalidRequest("no such layer"))
    failed = await book.ended(job.id, LONG_S)
    assert (failed.output, failed.progress) == ("a part", Progress("attribute", 96, 5000))


@running
async def test_a_deleted_job_stops_working_and_is_forgotten() -> None:
    desk = Desk()
    book: JobBook[str] = JobBook(desk.work)
    job = book.submit("a")
    begun = await book.changed(job.id, job.changes, LONG_S)
    reader = asyncio.create_task(book.changed(job.id, begun.changes, LONG_S))
    await asyncio.sleep(0)  # the reader waits now
    assert (await book.delete(job.id)).status == "CANCELLED"
    assert desk.stopped == ["a"]
    assert (await reader).status == "CANCELLED"
    with pytest.raises(NotFound):
        book.state(job.id)
    ended = book.submit("b")
    desk.say("b", None)
    await book.ended(ended.id, LONG_S)
    assert (await book.delete(ended.id)).status == "COMPLETED"
    with pytest.raises(NotFound):
        await book.delete(ended.id)


@running
async def test_outputs_elsewhere_are_bounded_in_bytes_and_the_newest_is_never_dropped() -> None:
    desk, clock = Desk(), HeldClock()
    book: JobBook[str] = JobBook(desk.work, JobLimits(kept_bytes=100), clock)

    async def run(name: str, *outputs: Any) -> str:
        clock.now_s += 1
        job = book.submit(name)
        for output in (*outputs, None):
            desk.say(name, output)
        await book.ended(job.id, LONG_S)
        return job.id

    reference = object()
    small = await run("small", "a text")
    first = await run("first", Kept("part", 1000), Kept(reference, 60))
    assert book.state(first).output.reference is reference  # kept as it is, never copied
    second = await run("second", Kept("there", 40))
    assert book.state(first).output.n_bytes == 60
    third = await run("third", Kept("there", 1))
    with pytest.raises(NotFound):
        book.state(first)
    assert book.state(second).output.n_bytes == 40
    huge = await run("huge", Kept("there", 500))
    for forgotten in (second, third):
        with pytest.raises(NotFound):
            book.state(forgotten)
    assert book.state(huge).output.n_bytes == 500
    assert book.state(small).output == "a text"
