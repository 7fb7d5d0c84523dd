"""Reply cache in a file: SQLite with a write-ahead log, so that several processes of a machine share it.

Readers do not wait for writers, and writers for each other up to ten seconds. A cache that fails is no reason to fail:
a reply that can not be read, be it broken or of another form, is one that is not there. What can not be written is
told in the log, since it will be paid for again.

Every call runs in a thread, one at a time. The file grows to a number of replies and then loses the oldest.

Deliberately not here: network file systems, on which SQLite's locks do not work.
"""

import asyncio
import logging
import sqlite3
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from threading import Lock
from typing import Any, Final, TypeVar

import orjson

from core.autointerp.language_model import Reply, TokenChoice, Usage

_LOG = logging.getLogger("ray.serve")
_PATIENCE_S: Final = 10.0
_Result = TypeVar("_Result")


class ReplyFile:
    """Keeps replies in a file.

    Args:
        path: The file; made if it is not there.
        capacity: Replies at most.

    Raises:
        sqlite3.Error: It can not be opened, or is no such file.
    """

    def __init__(self, path: Path, capacity: int = 1_000_000) -> None:
        self._capacity = capacity
        self._lock = Lock()
        self._connection = sqlite3.connect(path, timeout=_PATIENCE_S, isolation_level=None, check_same_thread=False)
        self._connection.execute("PRAGMA journal_mode = WAL")
        self._connection.execute("PRAGMA synchronous = NORMAL")  # a crash may lose the last replies, not the file
        self._connection.execute(
            "CREATE TABLE IF NOT EXISTS replies (number INTEGER PRIMARY KEY AUTOINCREMENT, key TEXT UNIQUE, reply BLOB)"
        )

    async def get(self, key: str) -> Reply | None:
        """See `ReplyCache`."""
        return await asyncio.to_thread(self._quietly, lambda: self._read(key))

    async def put(self, key: str, reply: Reply) -> None:
        """See `ReplyCache`."""
        await asyncio.to_thread(self._quietly, lambda: self._write(key, orjson.dumps(asdict(reply))))

    def close(self) -> None:
        """Closes the file, after the call that runs."""
        with self._lock:
            self._connection.close()

    def _read(self, key: str) -> Reply | None:
        row = self._connection.execute("SELECT reply FROM replies WHERE key = ?", (key,)).fetchone()
        return None if row is None else _reply(orjson.loads(row[0]))

    def _write(self, key: str, reply: bytes) -> None:
        self._connection.execute("INSERT OR REPLACE INTO replies (key, reply) VALUES (?, ?)", (key, reply))
        self._connection.execute(
            "DELETE FROM replies WHERE number <= (SELECT max(number) FROM replies) - ?", (self._capacity,)
        )

    def _quietly(self, act: Callable[[], _Result]) -> _Result | None:
        with self._lock:
            try:
                return act()
            except (sqlite3.Error, KeyError, TypeError, ValueError) as error:
                _LOG.warning("the reply cache failed: %s: %s", type(error).__name__, error)
                return None


def _reply(kept: dict[str, Any]) -> Reply:
    return Reply(
        kept["text"], Usage(**kept["usage"]), kept["model"], _choices(kept["tokens"]), _choices(kept["prompt"])
    )


def _choices(kept: list[dict[str, Any]]) -> tuple[TokenChoice, ...]:
    return tuple(
        TokenChoice(each["text"], each["logprob"], tuple((text, logprob) for text, logprob in each["top"]))
        for each in kept
    )
