"""Charges in a file: what a ledger counted, so that a new process counts on from there.

    journal = ChargeFile(path)
    ledger = MemoryLedger(journal)
    ledger.restore(journal.charges())

A charge is kept under its own id, so one that is sent again after a crash is there once. Charges older than a day are
added up by account when the file is opened: nobody sends those again, and a file of millions of calls opens as fast as
one of thousands.

SQLite with a write-ahead log, not synchronised at every charge: what a process wrote survives its death, and the death
of the machine may cost the last moment's charges, whose replies the provider was paid for all the same.

Deliberately not here: reservations, which die with whoever made them, and replies (`providers.cache_file`).
"""

import sqlite3
from pathlib import Path
from threading import Lock
from typing import Final

import orjson

from core.autointerp.providers.ledger import Charge
from core.clock import SYSTEM_CLOCK, Clock

_PATIENCE_S: Final = 10.0
_KEPT_APART_S: Final = 86_400.0
_TABLES: Final = """
CREATE TABLE IF NOT EXISTS charges (
    id TEXT PRIMARY KEY, entries TEXT NOT NULL, tokens INTEGER NOT NULL, nano_usd INTEGER NOT NULL, at_s REAL NOT NULL
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS sums (
    entries TEXT PRIMARY KEY, tokens INTEGER NOT NULL, nano_usd INTEGER NOT NULL
) WITHOUT ROWID;
"""


class ChargeFile:
    """A `Journal` in a file; safe between threads.

    Args:
        path: The file; made if it is not there.
        clock: Tells how old charges are.

    Raises:
        sqlite3.Error: It can not be opened, or is no such file.
    """

    def __init__(self, path: Path, clock: Clock = SYSTEM_CLOCK) -> None:
        self._clock = clock
        self._lock = Lock()
        self._connection = sqlite3.connect(path, timeout=_PATIENCE_S, isolation_level=None, check_same_thread=False)
        self._connection.execute("PRAGMA journal_mode = WAL")
        self._connection.execute("PRAGMA synchronous = NORMAL")
        self._connection.executescript(_TABLES)
        self._add_up(clock.time() - _KEPT_APART_S)

    def record(self, charge: Charge) -> None:
        """See `Journal`."""
        with self._lock:
            self._connection.execute(
                "INSERT OR IGNORE INTO charges VALUES (?, ?, ?, ?, ?)",
                (charge.id, _written(charge.entries), charge.tokens, charge.nano_usd, self._clock.time()),
            )

    def charges(self) -> list[Charge]:
        """All that was recorded, the old ones added up."""
        with self._lock:
            sums = self._connection.execute("SELECT 'sum/' || entries, entries, tokens, nano_usd FROM sums").fetchall()
            apart = self._connection.execute("SELECT id, entries, tokens, nano_usd FROM charges").fetchall()
        return [Charge(id, tuple(orjson.loads(entries)), tokens, nano) for id, entries, tokens, nano in sums + apart]

    def close(self) -> None:
        """Closes the file."""
        with self._lock:
            self._connection.close()

    def _add_up(self, before_s: float) -> None:
        with self._connection:
            self._connection.execute("BEGIN IMMEDIATE")
            self._connection.execute(
                "INSERT INTO sums SELECT entries, sum(tokens), sum(nano_usd) FROM charges WHERE at_s < ? "
                "GROUP BY entries ON CONFLICT (entries) "
                "DO UPDATE SET tokens = tokens + excluded.tokens, nano_usd = nano_usd + excluded.nano_usd",
                (before_s,),
            )
            self._connection.execute("DELETE FROM charges WHERE at_s < ?", (before_s,))


def _written(entries: tuple[str, ...]) -> str:
    return orjson.dumps(entries).decode()
