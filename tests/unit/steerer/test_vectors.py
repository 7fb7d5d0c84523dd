"""Directions on the workers: uploaded once, kept while used."""

import asyncio
from contextlib import AsyncExitStack

import numpy as np
import pytest

from core.errors import Overloaded, TooLarge
from core.steerer.request import digest_of
from core.steerer.vectors import Upload, VectorStore
from core.steering.specification import Floats


def vectors(*values: int) -> dict[str, Floats]:
    found = [np.full(4, value, dtype=np.float32) for value in values]
    return {digest_of(vector): vector for vector in found}


class Workers:
    """What the workers' table holds."""

    def __init__(self, capacity: int) -> None:
        self.table: dict[int, float] = {}
        self.calls = 0
        self.failing = False
        self.store = VectorStore(self._upload, capacity)

    async def _upload(self, uploads: list[Upload]) -> None:
        await asyncio.sleep(0)
        self.calls += 1
        if self.failing:
            raise RuntimeError("no")
        for row, _, content in uploads:
            self.table[row] = float(np.frombuffer(content, dtype=np.float32)[0])

    def held(self) -> set[float]:
        return set(self.table.values())


def test_a_vector_is_uploaded_once_however_many_ask_at_the_same_time() -> None:
    async def run() -> None:
        workers = Workers(4)

        async def use() -> None:
            async with workers.store.lease(vectors(1, 2)):
                assert workers.held() == {1.0, 2.0}

        await asyncio.gather(*(use() for _ in range(5)))
        assert workers.calls == 1
        assert workers.store.pinned == frozenset()

    asyncio.run(run())


def test_a_vector_in_use_is_never_replaced() -> None:
    async def run() -> None:
        workers = Workers(2)
        async with workers.store.lease(vectors(1)):
            for value in (2, 3, 4):
                async with workers.store.lease(vectors(value)):
                    assert workers.held() == {1.0, float(value)}

    asyncio.run(run())


def test_the_longest_unused_goes_first() -> None:
    async def run() -> None:
        workers = Workers(3)
        for value in (1, 2, 3, 1):
            async with workers.store.lease(vectors(value)):
                pass
        async with workers.store.lease(vectors(4)):
            assert workers.held() == {1.0, 3.0, 4.0}
        assert workers.calls == 4

    asyncio.run(run())


def test_a_request_waits_for_nothing_when_all_room_is_in_use() -> None:
    async def run() -> None:
        workers = Workers(2)
        async with AsyncExitStack() as stack:
            await stack.enter_async_context(workers.store.lease(vectors(1, 2)))
            with pytest.raises(Overloaded):
                await stack.enter_async_context(workers.store.lease(vectors(2, 3)))
            with pytest.raises(TooLarge, match="3 directions"):
                await stack.enter_async_context(workers.store.lease(vectors(1, 2, 3)))
        async with workers.store.lease(vectors(2, 3)):
            assert workers.held() == {2.0, 3.0}

    asyncio.run(run())


def test_a_failed_upload_is_tried_again() -> None:
    async def run() -> None:
        workers = Workers(1)
        workers.failing = True
        with pytest.raises(RuntimeError):
            async with workers.store.lease(vectors(1)):
                pass
        workers.failing = False
        async with workers.store.lease(vectors(1)):
            assert workers.held() == {1.0}

    asyncio.run(run())
