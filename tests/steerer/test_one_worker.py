"""vLLM on one CPU, first model runner: what is written, beside whom, and what is left behind."""

import asyncio
from collections.abc import Iterator
from contextlib import aclosing
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from core.deadline import Deadline
from core.errors import DeadlineExceeded, InvalidRequest, Unavailable
from core.generation.requests import Continuation, Sampling
from core.steerer.canary import check_steering
from core.steering.specification import HookPlace, Method
from tests.steerer.truth import Case, Write, tokens
from tests.steerer.world import VOCABULARY, WIDTH, World, deadline, hits, save_llama, until, world

RNG = np.random.default_rng(7)


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    # One test sends a function to the worker.
    environ = {"VLLM_ALLOW_INSECURE_SERIALIZATION": "1"}
    with world(save_llama(tmp_path_factory.mktemp("llama")), environ=environ) as running:
        yield running


def vector() -> np.ndarray:
    return RNG.standard_normal(WIDTH).astype(np.float32)


def push(coefficient: float = 1.5, layer: int = 1, method: Method = Method.SIMPLE_ADDITIVE) -> Write:
    return Write(HookPlace(layer, "resid_post"), method, vector(), coefficient)


def prompt(n: int = 20) -> tuple[int, ...]:
    return tokens(RNG, n, VOCABULARY)


def test_a_mixed_batch_writes_what_plain_hugging_face_with_hooks_writes(llama: World) -> None:
    llama.check(llama.mixture())


def test_an_unsteered_text_is_the_same_alone_and_beside_steered_ones(llama: World) -> None:
    ids = prompt(70)
    sampling = Sampling(12, temperature=0.0, n_logprobs=3)
    plain = Continuation(ids, sampling)
    steered = [Case(ids, (push(),), max_tokens=12) for _ in range(3)]

    async def both() -> tuple[object, object]:
        alone = await llama.engine.generate([plain], [()], deadline())
        beside = await llama.engine.generate(
            [steered[0].continuation, plain, *(case.continuation for case in steered[1:])],
            [steered[0].interventions, (), *(case.interventions for case in steered[1:])],
            deadline(),
        )
        return replace(alone[0], index=0), replace(beside[1], index=0)

    alone, beside = llama.run(both())
    assert alone == beside


def test_keys_and_values_of_a_steered_text_are_never_taken_for_those_of_an_unsteered_one(llama: World) -> None:
    for steered_first in (True, False):
        case = Case(prompt(130), (push(3.0),))
        order = [case, case.unsteered()] if steered_first else [case.unsteered(), case]
        for each in [*order, *order]:
            assert llama.write([each])[0].tokens == llama.truth.write(each).tokens


@pytest.mark.parametrize("positions", ["prompt", "generated"])
def test_a_second_turn_does_not_reuse_what_another_phase_left_behind(llama: World, positions: str) -> None:
    first = Case(prompt(40), (push(3.0),), positions=positions, max_tokens=80)
    reply = llama.write([first])[0].tokens
    second = replace(first, prompt=(*first.prompt, *reply, *prompt(5)), max_tokens=8)
    assert llama.write([second])[0].tokens == llama.truth.write(second).tokens


def test_a_text_steered_the_same_way_reuses_its_prefix(llama: World) -> None:
    case = Case(prompt(130), (push(),))
    before = hits()
    llama.write([case])
    llama.write([case])
    assert hits() - before == 128


def test_closing_the_stream_frees_the_slot(llama: World) -> None:
    case = Case(prompt(), (push(),), max_tokens=400)

    async def leave() -> tuple[int, int]:
        async with aclosing(llama.engine.stream([case.continuation], [case.interventions], deadline())) as reports:
            async for _ in reports:
                during = len(await llama.sequences())
                break

        async def gone() -> bool:
            return not await llama.sequences()

        await until(gone)
        return during, llama.engine.running

    assert llama.run(leave()) == (1, 0)


def test_a_deadline_that_passes_stops_the_text(llama: World) -> None:
    case = Case(prompt(), (push(),), max_tokens=450)

    async def late() -> None:
        with pytest.raises(DeadlineExceeded):
            await llama.engine.generate([case.continuation], [case.interventions], Deadline.after(0.2))

        async def gone() -> bool:
            return not await llama.sequences()

        await until(gone)

    llama.run(late())


def test_growths_of_a_stream_add_up_to_the_whole_text(llama: World) -> None:
    cases = [Case(prompt(), (push(),)), Case(prompt())]

    async def stream() -> dict[int, list[int]]:
        written: dict[int, list[int]] = {0: [], 1: []}
        reports = llama.engine.stream([c.continuation for c in cases], [c.interventions for c in cases], deadline())
        async for growths in reports:
            assert len({growth.index for growth in growths}) == len(growths)
            for growth in growths:
                written[growth.index] += growth.tokens
        return written

    written = llama.run(stream())
    assert [tuple(written[index]) for index in (0, 1)] == [llama.truth.write(case).tokens for case in cases]


def test_the_ending_token_is_reported(llama: World) -> None:
    case = Case(prompt(), (push(),), max_tokens=8)
    expected = llama.truth.write(case).tokens
    ending = expected[3]
    continuation = replace(case.continuation, sampling=Sampling(8, temperature=0.0, stop_ids=frozenset({ending})))
    (growth,) = llama.run(llama.engine.generate([continuation], [case.interventions], deadline()))
    assert growth.tokens == expected[: expected.index(ending) + 1]
    assert growth.finish == "stop"


def test_scores_are_the_models_own_whatever_the_temperature_and_penalties(llama: World) -> None:
    case = Case(prompt(), (push(),), max_tokens=1)
    sampling = Sampling(
        1, temperature=0.7, seed=3, frequency_penalty=1.0, presence_penalty=0.5, top_p=0.9, n_logprobs=5
    )
    continuation = replace(case.continuation, sampling=sampling)
    (growth,) = llama.run(llama.engine.generate([continuation], [case.interventions], deadline()))
    (score,) = growth.scores
    truth = llama.truth.write(case)
    assert score.top[0][0] == truth.tokens[0]
    assert score.top[0][1] == pytest.approx(truth.logprobs[0], abs=1e-4)
    assert len(score.top) == 5
    assert [logprob for _, logprob in score.top] == sorted((logprob for _, logprob in score.top), reverse=True)


def test_a_seed_repeats_its_text_beside_other_texts(llama: World) -> None:
    continuation = Continuation(prompt(), Sampling(10, temperature=1.5, seed=11))
    others = [Continuation(prompt(), Sampling(10, temperature=1.5, seed=seed)) for seed in range(4)]
    alone = llama.run(llama.engine.generate([continuation], [()], deadline()))
    beside = llama.run(llama.engine.generate([*others, continuation], [()] * 5, deadline()))
    assert alone[0].tokens == beside[4].tokens
    assert alone[0].tokens != beside[0].tokens


def test_the_canary_passes_and_every_site_is_steered(llama: World) -> None:
    llama.run(check_steering(llama.engine))
    llama.run(llama.engine.check_health())


def _tell_nothing(worker: Any) -> None:
    lay_out = worker.steer_roster.lay_out
    worker.steer_roster.lay_out = lambda *_: lay_out((), (), ())


def _tell_again(worker: Any) -> None:
    del worker.steer_roster.lay_out


def test_the_canary_notices_a_worker_that_steers_nothing(llama: World) -> None:
    vllm: Any = llama.engine._llm  # pyright: ignore[reportPrivateUsage]
    llama.run(vllm.collective_rpc(_tell_nothing))
    try:
        with pytest.raises(Unavailable, match="Steering has no effect"):
            llama.run(check_steering(llama.engine))
    finally:
        llama.run(vllm.collective_rpc(_tell_again))
    llama.run(check_steering(llama.engine))


def test_means_before_and_after_steering_are_those_of_a_full_forward(llama: World) -> None:
    case = Case(prompt(60), (push(2.0, layer=1), push(-1.0, layer=2, method=Method.PROJECTION_CAP)), max_tokens=6)
    spans = [(0, 7), (7, 7), (7, 31), (40, 60), (60, 65)]
    read = llama.run(llama.engine.read(case.continuation, case.interventions, 3, spans, deadline()))
    truth = llama.truth.write(case)
    for found, whole in ((read.before, truth.before[3]), (read.after, truth.after[3])):
        for mean, (start, stop) in zip(found, spans, strict=True):
            expected = whole[start:stop].mean(0) if stop > start else np.zeros(WIDTH)
            np.testing.assert_allclose(mean, expected, atol=1e-4)
    assert np.abs(read.before - read.after).max() > 0.1


def test_many_readings_at_once_keep_apart(llama: World) -> None:
    cases = [Case(prompt(20 + n), (push(),) if n % 2 else (), max_tokens=2) for n in range(6)]

    async def read_all() -> list[np.ndarray]:
        runs = (llama.engine.read(c.continuation, c.interventions, 2, [(0, 10)], deadline()) for c in cases)
        return [read.after[0] for read in await asyncio.gather(*runs)]

    for case, mean in zip(cases, llama.run(read_all()), strict=True):
        np.testing.assert_allclose(mean, llama.truth.write(case).after[2][:10].mean(0), atol=1e-4)


@pytest.mark.parametrize(
    ("case", "message"),
    [
        (Case(()), "no tokens"),
        (Case((1,) * 600), "600 tokens"),
        (Case((1, VOCABULARY)), f"token {VOCABULARY}"),
        (Case((1,), (Write(HookPlace(1, "attn.hook_z"), Method.SIMPLE_ADDITIVE, vector(), 1.0),)), "residual stream"),
        (Case((1,), (Write(HookPlace(9, "resid_pre"), Method.SIMPLE_ADDITIVE, vector(), 1.0),)), "4 layers"),
        (Case((1,), (Write(HookPlace(1, "resid_pre"), Method.SIMPLE_ADDITIVE, vector()[:5], 1.0),)), "5 numbers"),
        (Case((1,), (push(),) * 9), "along 9 directions"),
    ],
)
def test_what_can_not_be_run_is_refused_before_the_engine_hears_of_it(llama: World, case: Case, message: str) -> None:
    with pytest.raises(InvalidRequest, match=message):
        llama.write([case])
    assert llama.engine.running == 0
