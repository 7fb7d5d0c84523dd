"""The directions that are on the workers, as the engine's process knows them.

A direction is uploaded once per content, to every rank in one call, however many requests use it. As long as a request
uses it, it is pinned; when room is needed, the longest unpinned one goes. The caller decides rows, so that all ranks
agree without asking each other.
"""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager

from core.errors import Overloaded, TooLarge
from core.steering.specification import Floats

Upload = tuple[int, str, bytes]
"""Row, digest and float32 bytes of a direction."""


class VectorStore:
    """See the module.

    Args:
        upload: Stores directions on all workers; returns when they are there.
        capacity: Rows of the workers' table.
    """

    def __init__(self, upload: Callable[[list[Upload]], Awaitable[None]], capacity: int) -> None:
        self._upload = upload
        self._capacity = capacity
        self._rows: dict[str, int] = {}  # longest unused first
        self._pins: dict[str, int] = {}
        self._free = list(range(capacity))
        self._lock = asyncio.Lock()

    @property
    def pinned(self) -> frozenset[str]:
        """Digests in use."""
        return frozenset(self._pins)

    @asynccontextmanager
    async def lease(self, vectors: Mapping[str, Floats]) -> AsyncGenerator[None]:
        """Keeps directions, by digest, on the workers while the body runs.

        Raises:
            TooLarge: They are more than the workers can hold.
            Overloaded: Too many others are in use at the moment.
        """
        if len(vectors) > self._capacity:
            raise TooLarge(
                f"The request steers along {len(vectors)} directions; this engine holds {self._capacity}",
                "Send fewer features or vectors.",
            )
        async with self._lock:
            await self._bring(vectors)
            for digest in vectors:
                self._rows[digest] = self._rows.pop(digest)
                self._pins[digest] = self._pins.get(digest, 0) + 1
        try:
            yield
        finally:
            for digest in vectors:
                self._pins[digest] -= 1
                if not self._pins[digest]:
                    del self._pins[digest]

    async def _bring(self, vectors: Mapping[str, Floats]) -> None:
        missing = [digest for digest in vectors if digest not in self._rows]
        if not missing:
            return
        idle = [digest for digest in self._rows if digest not in self._pins and digest not in vectors]
        needed = len(missing) - len(self._free)
        if needed > len(idle):
            raise Overloaded("All directions that this engine can hold are in use", "Try again in a moment.")
        for digest in idle[: max(needed, 0)]:
            self._free.append(self._rows.pop(digest))
        rows = [self._free.pop() for _ in missing]
        try:
            await self._upload([(row, key, vectors[key].tobytes()) for row, key in zip(rows, missing, strict=True)])
        except BaseException:
            self._free += rows
            raise
        self._rows.update(zip(missing, rows, strict=True))
