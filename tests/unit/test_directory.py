"""Looking at the cluster is shared by those who wait for it, but nobody is given what was seen before they asked."""

import asyncio
import threading
from typing import Any

import pytest

from core.errors import NotFound
from deployments.gateway import directory
from deployments.gateway.directory import Directory


class Cluster:
    """A cluster without applications; the first look at it waits for `go`."""

    def __init__(self) -> None:
        self.looks = 0
        self.began, self.go = threading.Event(), threading.Event()

    def applications(self) -> dict[str, Any]:
        self.looks += 1
        self.began.set()
        self.go.wait(30)
        return {}


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Cluster:
    cluster = Cluster()
    monkeypatch.setattr(directory, "applications", cluster.applications)
    return cluster


def test_those_who_ask_during_a_look_share_the_next_one(cluster: Cluster) -> None:
    async def go() -> None:
        ours = Directory(None)
        first = asyncio.create_task(ours.refresh())
        assert await asyncio.to_thread(cluster.began.wait, 30)
        later = [asyncio.create_task(ours.refresh()) for _ in range(5)]
        await asyncio.sleep(0)
        cluster.go.set()
        await asyncio.gather(first, *later)
        assert cluster.looks == 2

    asyncio.run(go())


def test_without_an_application_nothing_explains(cluster: Cluster) -> None:
    cluster.go.set()

    async def go() -> None:
        with pytest.raises(NotFound, match="explains or scores"):
            await Directory(None).find_autointerp()

    asyncio.run(go())
    assert cluster.looks == 1
