"""The file that jobs live in: its tables, and how it is opened, read and written.

SQLite with a write-ahead log: readers see the state between two transactions and wait for nobody. Every transaction is
synchronised, since a lease that is forgotten would be worked on once more than allowed.

Deliberately not here: what the rows mean (`store`, `history`), and network file systems, on which SQLite's locks do not
work; `snapshots` carries the file elsewhere.
"""

import sqlite3
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from pathlib import Path
from threading import Lock
from typing import Any, Final

_PATIENCE_S: Final = 10.0

# `ready`: what a unit needs is there. `needs`: the unit that makes the explanation it reads; -1: those of all latents.
_TABLES: Final = """
CREATE TABLE IF NOT EXISTS holder (one INTEGER PRIMARY KEY CHECK (one = 1), worker TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS jobs (
    number INTEGER PRIMARY KEY AUTOINCREMENT, id TEXT NOT NULL UNIQUE, model TEXT NOT NULL, spec BLOB NOT NULL,
    status TEXT NOT NULL, reason TEXT, priority INTEGER NOT NULL,
    owner TEXT NOT NULL, idempotency_key TEXT, digest TEXT NOT NULL,
    created_s REAL NOT NULL, started_s REAL, ended_s REAL,
    planned INTEGER NOT NULL DEFAULT 0, total INTEGER NOT NULL DEFAULT 0, done INTEGER NOT NULL DEFAULT 0,
    failed INTEGER NOT NULL DEFAULT 0, skipped INTEGER NOT NULL DEFAULT 0,
    prompt_tokens INTEGER NOT NULL DEFAULT 0, completion_tokens INTEGER NOT NULL DEFAULT 0, nano_usd INTEGER,
    calls INTEGER NOT NULL DEFAULT 0, retries INTEGER NOT NULL DEFAULT 0, cached INTEGER NOT NULL DEFAULT 0,
    spent_tokens INTEGER NOT NULL DEFAULT 0, spent_usd REAL NOT NULL DEFAULT 0,
    last_event INTEGER NOT NULL DEFAULT 0,
    UNIQUE (owner, idempotency_key)
);
CREATE INDEX IF NOT EXISTS jobs_by_status ON jobs (status);
CREATE TABLE IF NOT EXISTS units (
    job INTEGER NOT NULL, number INTEGER NOT NULL, source TEXT NOT NULL, latent INTEGER NOT NULL, stage TEXT NOT NULL,
    explains INTEGER NOT NULL, needs INTEGER, ready INTEGER NOT NULL,
    state TEXT NOT NULL DEFAULT 'pending', attempts INTEGER NOT NULL DEFAULT 0,
    worker TEXT, until_s REAL, code TEXT, reason TEXT, retryable INTEGER NOT NULL DEFAULT 0,
    PRIMARY KEY (job, number)
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS units_ready ON units (job, number) WHERE state = 'pending' AND ready = 1;
CREATE INDEX IF NOT EXISTS units_leased ON units (job, number) WHERE state = 'leased';
CREATE INDEX IF NOT EXISTS units_unexplained ON units (job) WHERE explains = 1 AND state IN ('pending', 'leased');
CREATE INDEX IF NOT EXISTS units_needing ON units (job, needs) WHERE needs IS NOT NULL;
CREATE INDEX IF NOT EXISTS units_missed ON units (job) WHERE state IN ('failed', 'skipped');
CREATE TABLE IF NOT EXISTS results (
    number INTEGER PRIMARY KEY AUTOINCREMENT, job INTEGER NOT NULL, unit INTEGER NOT NULL,
    body BLOB, at_s REAL NOT NULL, UNIQUE (job, unit)
);
CREATE INDEX IF NOT EXISTS results_of ON results (job, number);
CREATE TABLE IF NOT EXISTS events (
    job INTEGER NOT NULL, number INTEGER NOT NULL, kind TEXT NOT NULL, at_s REAL NOT NULL, body BLOB, result INTEGER,
    PRIMARY KEY (job, number)
) WITHOUT ROWID;
"""


class JobFile:
    """The file, open; safe between threads.

    Args:
        path: Where; made if it is not there, with its folder.

    Raises:
        sqlite3.Error: It can not be opened, or is no such file.
    """

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self.path = path
        self._lock = Lock()
        self._connection = sqlite3.connect(path, timeout=_PATIENCE_S, isolation_level=None, check_same_thread=False)
        self._connection.row_factory = sqlite3.Row
        self._connection.execute("PRAGMA journal_mode = WAL")
        self._connection.execute("PRAGMA synchronous = FULL")
        self._connection.executescript(_TABLES)

    def read(self, question: str, arguments: Sequence[Any] = ()) -> list[sqlite3.Row]:
        """The rows that answer a question."""
        with self._lock:
            return self._connection.execute(question, arguments).fetchall()

    @contextmanager
    def writing(self) -> Generator[sqlite3.Connection]:
        """A transaction: all that is done in the body is kept, or nothing if it raises."""
        with self._lock:
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                yield self._connection
            except BaseException:
                self._connection.execute("ROLLBACK")
                raise
            self._connection.execute("COMMIT")

    @property
    def version(self) -> int:
        """Changes whenever anybody has written to the file."""
        with self._lock:
            row = self._connection.execute("PRAGMA data_version").fetchone()
            return row[0] * 2**40 + self._connection.total_changes

    def copy_to(self, path: Path) -> None:
        """Writes a consistent copy of the file, while others go on writing."""
        source, target = sqlite3.connect(self.path, timeout=_PATIENCE_S), sqlite3.connect(path)
        try:
            source.backup(target, pages=4096)
        finally:
            source.close()
            target.close()

    def close(self) -> None:
        """Closes the file, after the call that runs."""
        with self._lock:
            self._connection.close()
