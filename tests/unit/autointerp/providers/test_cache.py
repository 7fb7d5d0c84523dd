"""Promises of the reply cache: a question's whole provenance is its key, and a file serves several processes."""

import asyncio
import sqlite3
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from core.autointerp.language_model import Ask, ChatMessage, Reply, TokenChoice, Usage
from core.autointerp.providers.cache import MemoryReplies, cache_key
from core.autointerp.providers.cache_file import ReplyFile

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
