"""Promises of `core.activations`: many callers, one device, a budget of bytes, and always the same answers."""

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any

import numpy as np
import pytest
from readings.questions import ATTENTION_SOURCES, assert_same, expected, one_of_each

from core.activations import ActivationEngine, SaeBudget, default_sae_budget_bytes
from core.batching import BatchLimits
from core.deadline import Deadline
from core.device import DeviceExecutor
from core.errors import DeadlineExceeded, InvalidRequest, NotFound, TooLarge, Unavailable
from core.questions import (
    EncoderVectorLookup,
    FeatureQuestion,
    NeighboursLookup,
    Question,
    ResidualQuestion,
    TopFeaturesQuestion,
    TopPerTokenQuestion,
)
from tests.gpt2_with_saes import EVERY_SOURCE, RES_JB, Gpt2WithSaes
from tests.tiny_models import D_SAE

IDS = (0, 17, 230, 9, 9, 311, 42, 0, 5)
PLENTY = 2**30
LIMITS = BatchLimits(budget_tokens=96, max_entries=8, max_queued_tokens=100_000, max_entry_tokens=256)


def soon() -> Deadline:
    return Deadline.after(120)


@asynccontextmanager
async def opened(world: Gpt2WithSaes, budget: SaeBudget) -> AsyncIterator[ActivationEngine]:
    async with ActivationEngine(
        world.eager,
        DeviceExecutor("cpu"),
        list(world.sources.values()),
        sae_dtype="float32",
        budget=budget,
        limits=LIMITS,
    ) as engine:
        yield engine


def run(
    world: Gpt2WithSaes,
    body: Callable[[ActivationEngine], Coroutine[Any, Any, Any]],
    budget_bytes: int = PLENTY,
    **budget: Any,
) -> Any:
    async def main() -> Any:
        async with opened(world, SaeBudget(budget_bytes, **budget)) as engine:
            return await body(engine)

    return asyncio.run(main())


def size(world: Gpt2WithSaes, *sources: str) -> int:
    return sum(world.sources[source].size_bytes("float32") for source in sources)


def test_questions_are_answered_in_order_as_plain_libraries_answer_them(world: Gpt2WithSaes) -> None:
    asked = one_of_each(IDS)
    answers = run(world, lambda engine: engine.ask(asked, soon()))
    for question, answer in zip(asked, answers, strict=True):
        assert_same(answer, expected(world.truth, question))


def test_32_callers_at_once_get_what_each_would_get_alone(world: Gpt2WithSaes) -> None:
    callers: list[list[Question]] = []
    for number in range(32):
        every = one_of_each(IDS[: 2 + number % 8])
        callers.append([every[(number * 5 + place) % len(every)] for place in range(3)])

    async def body(engine: ActivationEngine) -> tuple[list[Any], list[Any]]:
        together = await asyncio.gather(*(engine.ask(asked, soon()) for asked in callers))
        return together, [await engine.ask([question], soon()) for asked in callers for question in asked]

    asked = [question for caller in callers for question in caller]
    assert {type(question) for question in asked} == {type(question) for question in one_of_each(IDS)}
    together, alone = run(world, body)
    answers = [answer for caller in together for answer in caller]
    for question, answer, (single,) in zip(asked, answers, alone, strict=True):
        assert_same(answer, single, 1e-4)
        assert_same(answer, expected(world.truth, question))


def test_callers_share_passes(world: Gpt2WithSaes, monkeypatch: pytest.MonkeyPatch) -> None:
    passes: list[int] = []
    capture = type(world.eager).capture

    def counted(self: Any, prompts: Any, *rest: Any) -> Any:
        passes.append(len(prompts))
        return capture(self, prompts, *rest)

    monkeypatch.setattr(type(world.eager), "capture", counted)

    async def body(engine: ActivationEngine) -> None:
        question = ResidualQuestion(IDS, (3,))
        await asyncio.gather(*(engine.ask([question], soon()) for _ in range(16)))

    run(world, body)
    assert sum(passes) == 16
    assert max(passes) == LIMITS.max_entries


@pytest.mark.parametrize("fraction", [0.2, 0.35, 0.7])
def test_a_ranking_in_waves_equals_one_over_everything(world: Gpt2WithSaes, fraction: float) -> None:
    question = TopFeaturesQuestion(IDS, tuple(reversed(EVERY_SOURCE)), 40, (1, 4), (0,), dfa_sources=ATTENTION_SOURCES)
    budget = max(int(size(world, *EVERY_SOURCE) * fraction), *(size(world, source) for source in EVERY_SOURCE))

    async def body(engine: ActivationEngine) -> Any:
        answer = (await engine.ask([question], soon()))[0]
        stats = engine.residency()
        assert stats.resident_bytes <= stats.budget_bytes == budget
        return answer

    in_waves = run(world, body, budget)
    at_once = run(world, lambda engine: engine.ask([question], soon()))[0]
    assert in_waves.sources == at_once.sources
    np.testing.assert_array_equal(in_waves.indexes, at_once.indexes)
    assert_same(in_waves, at_once, 1e-5)
    assert in_waves.attributions.keys() == at_once.attributions.keys()
    assert_same(in_waves, expected(world.truth, question))


def test_ties_across_waves_go_to_the_earlier_source(world: Gpt2WithSaes) -> None:
    sources = ("3-res-jb", "0-res-jb", "2-res-jb")
    question = TopFeaturesQuestion(IDS, sources, D_SAE + 5, silent_positions=tuple(range(len(IDS))))
    answer = run(world, lambda engine: engine.ask([question], soon()), size(world, "0-res-jb"))[0]
    assert answer.sources == ("3-res-jb",) * D_SAE + ("0-res-jb",) * 5
    assert answer.indexes.tolist() == [*range(D_SAE), *range(5)]


def test_callers_that_need_different_saes_share_a_budget_for_one(world: Gpt2WithSaes) -> None:
    asked: list[Question] = [TopPerTokenQuestion(IDS, source, 3) for source in RES_JB * 4]

    async def body(engine: ActivationEngine) -> list[Any]:
        answers = await asyncio.gather(*(engine.ask([question], soon()) for question in asked))
        assert engine.residency().resident_count == 1
        return [answer for (answer,) in answers]

    for question, answer in zip(asked, run(world, body, size(world, RES_JB[0])), strict=True):
        assert_same(answer, expected(world.truth, question))


def test_an_sae_that_left_for_host_memory_answers_the_same_when_it_returns(world: Gpt2WithSaes) -> None:
    asked = [TopPerTokenQuestion(IDS, source, 3) for source in EVERY_SOURCE * 2]
    biggest = max(size(world, source) for source in EVERY_SOURCE)

    async def body(engine: ActivationEngine) -> list[Any]:
        answers = [(await engine.ask([question], soon()))[0] for question in asked]
        assert engine.residency().host_bytes > 0
        assert engine.residency().evictions > 0
        return answers

    for question, answer in zip(asked, run(world, body, biggest, host_bytes=PLENTY), strict=True):
        assert_same(answer, expected(world.truth, question))


def test_an_sae_above_the_whole_budget_is_too_large(world: Gpt2WithSaes) -> None:
    async def body(engine: ActivationEngine) -> None:
        for question in (
            FeatureQuestion(IDS, "1-res-jb", 3),
            TopFeaturesQuestion(IDS, ("1-mix", "1-res-jb"), 3),
        ):
            with pytest.raises(TooLarge) as refusal:
                await engine.ask([question], soon())
            assert refusal.value.status == 413
        with pytest.raises(TooLarge):
            await engine.look_up(EncoderVectorLookup("1-res-jb", 3), soon())
        # What fits is answered still.
        await engine.ask([FeatureQuestion(IDS, "1-mix", 3)], soon())

    run(world, body, size(world, "1-res-jb") - 1)


def test_a_prompt_above_the_limit_is_too_large(world: Gpt2WithSaes) -> None:
    async def body(engine: ActivationEngine) -> None:
        await engine.ask([ResidualQuestion((1,) * 256, (0,))], soon())
        with pytest.raises(TooLarge, match="257 tokens"):
            await engine.ask([ResidualQuestion((1,) * 257, (0,))], soon())

    run(world, body)


def test_the_error_of_one_question_is_raised_and_does_no_harm(world: Gpt2WithSaes) -> None:
    right = FeatureQuestion(IDS, "1-res-jb", 3)

    async def body(engine: ActivationEngine) -> list[Any]:
        wrong = engine.ask([right, FeatureQuestion(IDS, "1-res-jb", D_SAE)], soon())
        other = engine.ask([right], soon())
        refused, answered = await asyncio.gather(wrong, other, return_exceptions=True)
        assert isinstance(refused, InvalidRequest)
        assert not isinstance(answered, BaseException)
        with pytest.raises(NotFound, match="no source '9-res-jb'"):
            await engine.ask([FeatureQuestion(IDS, "9-res-jb", 0)], soon())
        await engine.check(10)
        assert engine.queued_tokens() == 0
        return answered

    assert_same(run(world, body)[0], expected(world.truth, right))


def test_asking_nothing_is_answered_with_nothing(world: Gpt2WithSaes) -> None:
    assert run(world, lambda engine: engine.ask([], soon())) == []


class BusyDevice:
    """Keeps the engine's device thread occupied until released."""

    def __init__(self, engine: ActivationEngine) -> None:
        self._release = threading.Event()
        self._task = asyncio.create_task(engine._device.run(self._release.wait, 60))

    async def release(self) -> None:
        self._release.set()
        await self._task


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(30):
        while not condition():  # noqa: ASYNC110 - the engine announces no such moment
            await asyncio.sleep(0)


def test_a_cancelled_question_leaves_the_queue_and_never_reaches_the_device(
    world: Gpt2WithSaes, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[int] = []
    capture = type(world.eager).capture

    def counted(self: Any, prompts: Any, *rest: Any) -> Any:
        seen.extend(len(prompt) for prompt in prompts)
        return capture(self, prompts, *rest)

    monkeypatch.setattr(type(world.eager), "capture", counted)

    async def body(engine: ActivationEngine) -> None:
        await engine.ask([FeatureQuestion(IDS[:2], "1-res-jb", 3)], soon())
        busy = BusyDevice(engine)
        first = asyncio.create_task(engine.ask([ResidualQuestion(IDS[:3], (0,))], soon()))
        await until(lambda: engine.queued_tokens() == 3)
        await until(lambda: engine.queued_tokens() == 0)  # it waits for the device now
        left = asyncio.create_task(engine.ask([FeatureQuestion(IDS[:4], "1-res-jb", 3)] * 5, soon()))
        stays = asyncio.create_task(engine.ask([FeatureQuestion(IDS[:5], "1-res-jb", 3)], soon()))
        await until(lambda: engine.queued_tokens() == 25)
        left.cancel()
        await asyncio.gather(left, return_exceptions=True)
        assert left.cancelled()
        assert engine.queued_tokens() == 5
        await busy.release()
        await asyncio.gather(first, stays)

    run(world, body)
    assert seen == [2, 3, 5]


def test_a_cancelled_question_gives_its_sae_back(world: Gpt2WithSaes) -> None:
    async def body(engine: ActivationEngine) -> None:
        await engine.ask([FeatureQuestion(IDS, "1-res-jb", 3)], soon())
        busy = BusyDevice(engine)
        left = asyncio.create_task(engine.ask([FeatureQuestion(IDS, "1-res-jb", 3)], soon()))
        await until(lambda: engine.queued_tokens() > 0)
        left.cancel()
        await asyncio.gather(left, return_exceptions=True)
        await busy.release()
        # There is room for one only: this waits forever unless the first one was given back.
        await engine.ask([FeatureQuestion(IDS, "2-res-jb", 3)], soon())
        assert engine.resident() == ["2-res-jb"]

    run(world, body, size(world, "1-res-jb"))


def test_a_question_past_its_deadline_is_not_answered(world: Gpt2WithSaes) -> None:
    async def body(engine: ActivationEngine) -> None:
        for asked in (FeatureQuestion(IDS, "1-res-jb", 3), ResidualQuestion(IDS, (0,))):
            with pytest.raises(DeadlineExceeded):
                await engine.ask([asked], Deadline.after(-1))
        with pytest.raises(DeadlineExceeded):
            await engine.look_up(EncoderVectorLookup("1-res-jb", 3), Deadline.after(-1))

    run(world, body)


def test_lookups_read_the_weights_and_use_the_same_residency(world: Gpt2WithSaes) -> None:
    async def body(engine: ActivationEngine) -> tuple[Any, Any]:
        vector = await engine.look_up(EncoderVectorLookup("2-res-jb", 7), soon())
        assert engine.resident() == ["2-res-jb"]
        near = await engine.look_up(NeighboursLookup("2-res-jb", 4, index=7), soon())
        assert engine.residency().hits == 1
        with pytest.raises(NotFound):
            await engine.look_up(EncoderVectorLookup("none", 0), soon())
        with pytest.raises(InvalidRequest):
            await engine.look_up(EncoderVectorLookup("2-res-jb", D_SAE), soon())
        return vector, near

    vector, near = run(world, body)
    raw = world.truth.saes["2-res-jb"]
    np.testing.assert_allclose(vector.vector, raw.W_enc[:, 7].detach().numpy(), rtol=1e-6)
    assert vector.hook_name == "blocks.2.hook_resid_pre"
    cosines = (raw.W_dec @ raw.W_dec[7]).detach()
    assert near.indexes == cosines.topk(4).indices.tolist()


@pytest.mark.parametrize("count", [1, 3, 5])
def test_preloading_takes_sources_in_order_and_stops_at_the_budget(world: Gpt2WithSaes, count: int) -> None:
    order = list(world.sources)
    budget = size(world, *order[: count + 1]) - 1
    assert run(world, lambda engine: engine.preload(soon()), budget) == order[:count]


def test_preloading_takes_everything_where_there_is_room(world: Gpt2WithSaes) -> None:
    assert run(world, lambda engine: engine.preload(soon())) == list(world.sources)
    assert run(world, lambda engine: engine.preload(soon()), max_entries=2) == list(world.sources)[:2]
    assert run(world, lambda engine: engine.preload(soon()), 1) == []


def test_a_closed_engine_is_unavailable(world: Gpt2WithSaes) -> None:
    async def main() -> None:
        async with opened(world, SaeBudget(PLENTY)) as engine:
            await engine.check(10)
            await engine.ask([ResidualQuestion(IDS, (0,))], soon())
            assert engine.queue_time_s() == 0.0
        with pytest.raises(Unavailable):
            await engine.ask([ResidualQuestion(IDS, (0,))], soon())
        with pytest.raises(Unavailable):
            await engine.check(10)

    asyncio.run(main())


def test_half_of_the_free_memory_is_for_saes_on_a_cpu() -> None:
    import psutil

    assert 0 < default_sae_budget_bytes("cpu", 1.0, 10**9) < psutil.virtual_memory().total / 2
