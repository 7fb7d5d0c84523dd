"""Promises of the reply cache: a question's whole provenance is its key, a file serves several processes, and what is
being asked is not asked again."""

import asyncio
import sqlite3
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from core.autointerp.language_model import Ask, ChatMessage, Reply, TokenChoice, Usage
from core.autointerp.providers.cache import CachedModel, Flights, MemoryReplies, cache_key
from core.autointerp.providers.cache_file import ReplyFile
from core.errors import BudgetReached, ProviderFailed

QUESTION = Ask((ChatMessage("system", "a"), ChatMessage("user", "b")), 10)
REPLY = Reply(
    "grüße",
    Usage(1, 2, 0.5, calls=1),
    "m",
    (TokenChoice("x", -0.5, (("x", -0.5), ("y", -1.25))),),
    (TokenChoice("", 0.0),),
)


def test_everything_that_an_answer_depends_on_is_in_its_key() -> None:
    others = [
        replace(QUESTION, messages=(ChatMessage("system", "ab"), ChatMessage("user", ""))),
        replace(QUESTION, messages=(ChatMessage("user", "a"), ChatMessage("user", "b"))),
        replace(QUESTION, messages=QUESTION.messages[::-1]),
        replace(QUESTION, max_tokens=11),
        replace(QUESTION, temperature=0.0),
        replace(QUESTION, seed=0),
        replace(QUESTION, seed=1),
        replace(QUESTION, top_logprobs=1),
        replace(QUESTION, prompt_logprobs=True),
        replace(QUESTION, schema={}),
        replace(QUESTION, schema={"type": "object"}),
    ]
    keys = {cache_key("m", "p", question) for question in [QUESTION, *others]}
    keys |= {cache_key("n", "p", QUESTION), cache_key("m", "q", QUESTION)}
    assert len(keys) == len(others) + 3
    assert cache_key("m", "p", replace(QUESTION, schema={"a": 1, "b": 2})) == cache_key(
        "m", "p", replace(QUESTION, schema={"b": 2, "a": 1})
    )


def test_memory_keeps_what_was_used_last() -> None:
    async def run() -> None:
        cache = MemoryReplies(2)
        await cache.put("a", REPLY)
        await cache.put("b", REPLY)
        await cache.get("a")
        await cache.put("c", REPLY)
        assert [await cache.get(key) is not None for key in "abc"] == [True, False, True]

    asyncio.run(run())


def test_a_file_gives_back_what_it_was_given_also_to_who_opens_it_later(tmp_path: Path) -> None:
    async def run() -> None:
        cache = ReplyFile(tmp_path / "replies.db")
        assert await cache.get("a") is None
        await cache.put("a", REPLY)
        await cache.put("a", replace(REPLY, text="new"))
        cache.close()
        again = ReplyFile(tmp_path / "replies.db")
        assert await again.get("a") == replace(REPLY, text="new")
        again.close()

    asyncio.run(run())


def test_a_file_keeps_the_newest(tmp_path: Path) -> None:
    async def run() -> None:
        cache = ReplyFile(tmp_path / "replies.db", capacity=3)
        for key in "abcde":
            await cache.put(key, REPLY)
        assert [await cache.get(key) is not None for key in "abcde"] == [False, False, True, True, True]
        cache.close()

    asyncio.run(run())


WRITER = """
import asyncio, sys
from pathlib import Path
from core.autointerp.language_model import Reply, Usage
from core.autointerp.providers.cache_file import ReplyFile

async def run(path, name):
    cache = ReplyFile(Path(path))
    for number in range(100):
        await cache.put(f"{name}-{number}", Reply(f"{name} {number}", Usage(), "m"))
        await cache.put("shared", Reply("x" * 1000, Usage(), "m"))
        kept = await cache.get("shared")
        assert kept is not None and len(kept.text) == 1000
    cache.close()

asyncio.run(run(*sys.argv[1:]))
"""


def test_processes_that_write_one_file_at_once_lose_nothing(tmp_path: Path) -> None:
    path = tmp_path / "replies.db"
    writers = [
        subprocess.Popen([sys.executable, "-c", WRITER, str(path), name], stderr=subprocess.PIPE) for name in "abc"
    ]
    for writer in writers:
        _, told = writer.communicate(timeout=60)
        assert (writer.returncode, told) == (0, b"")

    async def run() -> None:
        cache = ReplyFile(path)
        for name in "abc":
            for number in range(100):
                kept = await cache.get(f"{name}-{number}")
                assert kept is not None
                assert kept.text == f"{name} {number}"
        cache.close()

    asyncio.run(run())


def test_a_broken_entry_is_one_that_is_not_there(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async def run() -> None:
        cache = ReplyFile(tmp_path / "replies.db")
        other = sqlite3.connect(tmp_path / "replies.db")
        other.execute("INSERT INTO replies (key, reply) VALUES ('a', x'7b7d'), ('b', 'no json')")
        other.commit()
        assert await cache.get("a") is None
        assert await cache.get("b") is None
        await cache.put("a", REPLY)
        assert await cache.get("a") == REPLY
        other.close()
        cache.close()

    asyncio.run(run())
    assert "reply cache failed" in caplog.text


class Slow:
    """A language model that answers when it is told to; what it is told may be a failure."""

    name = "m"

    def __init__(self) -> None:
        self.calls: list[asyncio.Future[Reply]] = []

    async def ask(self, question: Ask) -> Reply:
        call: asyncio.Future[Reply] = asyncio.get_running_loop().create_future()
        self.calls.append(call)
        return await call

    async def ask_all(self, questions: Sequence[Ask]) -> list[Reply]:
        return await asyncio.gather(*(self.ask(question) for question in questions))


async def settled() -> None:
    """Until all that can go on has gone on."""
    for _ in range(20):
        await asyncio.sleep(0)


def shared(model: Slow, count: int) -> list[CachedModel]:
    """Models of as many requests, over one cache."""
    replies, flights = MemoryReplies(), Flights()
    return [CachedModel(model, replies, "p", flights=flights) for _ in range(count)]


def test_a_question_that_is_being_asked_is_asked_once_and_paid_once() -> None:
    async def run() -> None:
        slow = Slow()
        asked = [asyncio.create_task(model.ask(QUESTION)) for model in shared(slow, 5)]
        await settled()
        assert len(slow.calls) == 1
        slow.calls[0].set_result(REPLY)
        replies = await asyncio.gather(*asked)
        assert {reply.text for reply in replies} == {REPLY.text}
        assert [reply.usage for reply in replies] == [REPLY.usage, *[Usage(cached=1)] * 4]
        assert len(slow.calls) == 1

    asyncio.run(run())


def test_other_questions_and_forced_ones_are_asked_for_themselves() -> None:
    async def run() -> None:
        slow = Slow()
        first, other, forced = shared(slow, 3)
        asked = [first.ask(QUESTION), other.ask(replace(QUESTION, seed=1)), replace(forced, force=True).ask(QUESTION)]
        tasks = [asyncio.create_task(one) for one in asked]
        await settled()
        assert len(slow.calls) == 3
        for call in slow.calls:
            call.set_result(REPLY)
        assert [reply.usage.cached for reply in await asyncio.gather(*tasks)] == [0, 0, 0]

    asyncio.run(run())


def test_a_failure_is_the_firsts_alone_and_nobody_takes_it_for_an_answer() -> None:
    async def run() -> None:
        slow = Slow()
        first, second, third = (asyncio.create_task(model.ask(QUESTION)) for model in shared(slow, 3))
        await settled()
        slow.calls[0].set_exception(BudgetReached("the first has no money"))
        await settled()
        assert len(slow.calls) == 3
        slow.calls[1].set_result(REPLY)
        slow.calls[2].set_exception(ProviderFailed("down"))
        results = await asyncio.gather(first, second, third, return_exceptions=True)
        assert [type(result) for result in results] == [BudgetReached, Reply, ProviderFailed]

    asyncio.run(run())


@pytest.mark.parametrize("leaves", [0, 1])
def test_who_leaves_does_not_take_the_answer_from_who_waits(leaves: int) -> None:
    async def run() -> None:
        slow = Slow()
        tasks = [asyncio.create_task(model.ask(QUESTION)) for model in shared(slow, 2)]
        await settled()
        tasks[leaves].cancel()
        await settled()
        assert tasks[leaves].cancelled()
        slow.calls[0].set_result(REPLY)
        assert (await tasks[1 - leaves]).text == REPLY.text
        assert len(slow.calls) == 1

    asyncio.run(run())


def test_once_everybody_has_left_the_question_is_dropped_and_can_be_asked_again() -> None:
    async def run() -> None:
        slow = Slow()
        models = shared(slow, 3)
        leaving = [asyncio.create_task(model.ask(QUESTION)) for model in models[:2]]
        await settled()
        for task in leaving:
            task.cancel()
        await asyncio.gather(*leaving, return_exceptions=True)
        assert slow.calls[0].cancelled()
        again = asyncio.create_task(models[2].ask(QUESTION))
        await settled()
        slow.calls[1].set_result(REPLY)
        assert (await again).usage == REPLY.usage

    asyncio.run(run())
