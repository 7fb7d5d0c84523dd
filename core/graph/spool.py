"""Spool: a finished body between the one who writes it and the storage that takes it.

Storage wants to know a body's length before its first byte: a presigned S3 `PUT` refuses chunked transfer. Whoever
makes JSON part by part knows the length only at the end, after compression. And a retry must send the same bytes again,
while the parts come once. So a body is written out first: a small one to memory, a large one to a file that has no
name, and either disappears with the spool.

Compression is gzip level 3, as the peer has it, without the time of day, so that equal graphs are equal bytes.
"""

import asyncio
import gzip
import threading
from collections.abc import AsyncGenerator, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from tempfile import SpooledTemporaryFile
from typing import BinaryIO, Final, cast

_IN_MEMORY_BYTES: Final = 16 * 2**20
_CHUNK_BYTES: Final = 256 * 2**10
_LEVEL: Final = 3


@dataclass(frozen=True, slots=True)
class Spool:
    """A body that has been written.

    Attributes:
        file: Its bytes; whoever reads them begins at the start.
        n_bytes: Its length.
        compressed: Whether it is gzip.
    """

    file: BinaryIO
    n_bytes: int
    compressed: bool

    async def chunks(self) -> AsyncGenerator[bytes]:
        """The body from its start, as often as it is asked for, but by one reader at a time."""
        self.file.seek(0)
        while chunk := await asyncio.to_thread(self.file.read, _CHUNK_BYTES):
            yield chunk


@asynccontextmanager
async def spooled(parts: Iterable[bytes], *, compress: bool) -> AsyncGenerator[Spool]:
    """Writes a body in a thread, and keeps it for the time of the `with` block.

    Args:
        parts: The body. When the caller is cancelled, no further part is taken.
        compress: Whether to compress it.
    """
    stop = threading.Event()
    with SpooledTemporaryFile(max_size=_IN_MEMORY_BYTES) as spool:
        file = cast(BinaryIO, spool)
        writing = asyncio.ensure_future(asyncio.to_thread(_write, file, parts, compress, stop))
        try:
            await asyncio.shield(writing)
        except asyncio.CancelledError:
            stop.set()
            await asyncio.gather(writing, return_exceptions=True)  # the thread must not find its file closed
            raise
        yield Spool(file, file.tell(), compress)


def _write(file: BinaryIO, parts: Iterable[bytes], compress: bool, stop: threading.Event) -> None:
    if compress:
        with gzip.GzipFile(fileobj=file, mode="wb", compresslevel=_LEVEL, mtime=0) as packed:
            _copy(packed, parts, stop)
    else:
        _copy(file, parts, stop)


def _copy(file: BinaryIO | gzip.GzipFile, parts: Iterable[bytes], stop: threading.Event) -> None:
    for part in parts:
        if stop.is_set():
            return
        file.write(part)
