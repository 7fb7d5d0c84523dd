"""The eager engine writes what a plain model writes, whoever shares the batch."""

import asyncio
import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch

from core.deadline import Deadline
from core.errors import DeadlineExceeded, InvalidRequest, Overloaded, TooLarge, Unavailable
from core.generation.engine import GenerationEngine, GenerationLimits
from core.generation.requests import Continuation, Growth, Sampling
from tests.unit.engine.families import D_MODEL, FAMILIES, VOCAB_SIZE
from tests.unit.generation.truth import Bend, Case, written
from tests.unit.generation.world import LIMITS, engine_of, request_of

N_TOKENS = 12
METHODS = {"SIMPLE_ADDITIVE": 3.0, "ORTHOGONAL_DECOMP": -2.0, "PROJECTION_CAP": 0.5, "ABLATION": 0.0}


def vector(seed: int, width: int = D_MODEL) -> tuple[float, ...]:
    return tuple(np.random.default_rng(seed).standard_normal(width).astype(np.float32).tolist())


def prompt(seed: int, length: int) -> tuple[int, ...]:
    return tuple(np.random.default_rng(seed).integers(1, VOCAB_SIZE, length).tolist())


def mixed_cases() -> list[Case]:
    """Every method at both sides of a block, for every choice of positions, with and without spared positions."""
    cases = [Case(prompt(90, 9)), Case(prompt(91, 1))]
    for at, (method, point, positions) in enumerate(
        itertools.product(METHODS, ("resid_pre", "resid_post"), ("all", "prompt", "generated"))
    ):
        bends = (Bend(at % 3, point, method, vector(at), METHODS[method]),)
        spared = frozenset({0, 2} if at % 2 else ())
        cases.append(Case(prompt(at, 3 + at % 7), bends, positions, spared))
    return cases


async def ask(engine: GenerationEngine, requests: Sequence[Continuation], seconds: float = 60) -> list[Growth]:
    return await engine.generate(requests, Deadline.after(seconds))


def run(family: str, requests: Sequence[Continuation], limits: GenerationLimits = LIMITS) -> list[Growth]:
    async def main() -> list[Growth]:
        async with engine_of(family, limits) as engine:
            return await ask(engine, requests)

    return asyncio.run(main())


def assert_true(family: str, case: Case, growth: Growth) -> None:
    tokens, logits = written(family, case, len(growth.tokens))
    assert list(growth.tokens) == tokens
    for score, expected in zip(growth.scores, logits, strict=True):
        logprobs = expected.log_softmax(-1)
        for token, logprob in score.top:
            assert logprob == pytest.approx(float(logprobs[token]), abs=2e-4)


@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_every_method_at_every_site_in_one_batch_equals_the_slow_way(family: str) -> None:
    cases = mixed_cases()
    growths = run(family, [request_of(case, N_TOKENS, n_logprobs=3) for case in cases])
    for case, growth in zip(cases, growths, strict=True):
        assert growth.finish == "length"
        assert_true(family, case, growth)


@pytest.mark.parametrize("point", ["attn.hook_z", "hook_mlp_out", "hook_attn_out"])
@pytest.mark.parametrize("family", ["llama", "gpt2", "gemma2"])
def test_hook_points_inside_a_block_can_be_steered(family: str, point: str) -> None:
    case = Case(prompt(5, 6), (Bend(1, point, "SIMPLE_ADDITIVE", vector(4), 2.0),))
    assert_true(family, case, run(family, [request_of(case, N_TOKENS, n_logprobs=1)])[0])


def test_several_vectors_at_one_place_apply_in_the_order_of_the_request() -> None:
    bends = [Bend(1, "resid_post", "ORTHOGONAL_DECOMP", vector(seed), c) for seed, c in ((1, 4.0), (2, -3.0))]
    # The same place, named from its other side, and a lower bound.
    orders = [Case(prompt(3, 7), tuple(order)) for order in (bends, bends[::-1])]
    cap = Case(
        prompt(3, 7),
        (
            Bend(0, "resid_post", "PROJECTION_CAP", vector(7), 1.0, -1.0),
            Bend(1, "resid_pre", "PROJECTION_CAP", vector(8), 5.0, 4.0),
        ),
    )
    for case, growth in zip(
        [*orders, cap], run("llama", [request_of(c, N_TOKENS, n_logprobs=2) for c in [*orders, cap]]), strict=True
    ):
        assert_true("llama", case, growth)


def test_neighbours_do_not_change_what_a_row_gets() -> None:
    cases = mixed_cases()
    requests = [request_of(case, N_TOKENS, temperature=1.3, seed=at, n_logprobs=2) for at, case in enumerate(cases)]
    together = run("llama", requests)
    for request, growth in zip(requests, together, strict=True):
        alone = run("llama", [request])[0]
        assert alone.tokens == growth.tokens
        for ours, theirs in zip(alone.scores, growth.scores, strict=True):
            assert ours.logprob == pytest.approx(theirs.logprob, abs=1e-5)


def test_a_row_that_is_not_steered_keeps_its_bits_whatever_is_done_beside_it() -> None:
    plain = Case(prompt(1, 8))
    steered = Case(prompt(2, 8), (Bend(1, "resid_post", "SIMPLE_ADDITIVE", vector(3), 50.0),))
    beside_plain = run("llama", [request_of(c, N_TOKENS, n_logprobs=5) for c in (plain, Case(steered.prompt))])[0]
    beside_steered = run("llama", [request_of(c, N_TOKENS, n_logprobs=5) for c in (plain, steered)])[0]
    assert beside_plain == beside_steered


def test_rows_join_and_leave_between_tokens() -> None:
    cases = [Case(prompt(seed, 2 + seed)) for seed in range(6)]
    lengths = [30, 3, 17, 1, 9, 24]

    async def main() -> list[Growth]:
        limits = GenerationLimits(max_rows=3, budget_tokens=4096, prefill_tokens=8, max_waiting=64)
        async with engine_of("gemma2", limits) as engine:
            asked = [
                asyncio.create_task(ask(engine, [request_of(case, length)]))
                for case, length in zip(cases, lengths, strict=True)
            ]
            return [(await one)[0] for one in asked]

    for case, length, growth in zip(cases, lengths, asyncio.run(main()), strict=True):
        assert list(growth.tokens) == written("gemma2", case, length)[0]


def test_a_stop_token_ends_the_text_and_is_reported() -> None:
    case = Case(prompt(4, 5))
    tokens = written("llama", case, N_TOKENS)[0]
    stop = tokens[4]
    end = tokens.index(stop) + 1
    growth = run("llama", [request_of(case, N_TOKENS, stop_ids=frozenset({stop}))])[0]
    assert (list(growth.tokens), growth.finish) == (tokens[:end], "stop")


def test_a_stream_adds_up_to_the_whole_text() -> None:
    requests = [request_of(Case(prompt(seed, 4)), 10 + seed, n_logprobs=1) for seed in range(3)]

    async def main() -> tuple[list[list[Growth]], list[Growth]]:
        async with engine_of("llama") as engine:
            parts = [part async for part in engine.stream(requests, Deadline.after(60))]
            return parts, await ask(engine, requests)

    parts, whole = asyncio.run(main())
    assert len(parts) > 1
    for index, growth in enumerate(whole):
        mine = [g for part in parts for g in part if g.index == index]
        assert tuple(t for g in mine for t in g.tokens) == growth.tokens
        assert [g.finish for g in mine[:-1]] == [None] * (len(mine) - 1)
        assert mine[-1].finish == growth.finish == "length"


def test_a_client_that_leaves_frees_its_rows() -> None:
    async def main() -> None:
        limits = GenerationLimits(max_rows=1, budget_tokens=4096, prefill_tokens=64, max_waiting=8)
        async with engine_of("llama", limits, max_positions=4096) as engine:
            endless = engine.stream([request_of(Case(prompt(1, 3)), 2000)], Deadline.after(60))
            await anext(endless)
            assert engine.running == 1
            await endless.aclose()
            # The only row is free again, or this would wait for the two thousand tokens.
            answer = await ask(engine, [request_of(Case(prompt(2, 3)), 4)], 20)
            assert len(answer[0].tokens) == 4
            assert engine.running == 0

    asyncio.run(main())


def test_a_passed_deadline_ends_a_text() -> None:
    async def main() -> None:
        async with engine_of("llama", max_positions=4096) as engine:
            with pytest.raises(DeadlineExceeded):
                await ask(engine, [request_of(Case(prompt(1, 3)), 900)], 0.05)
            assert len((await ask(engine, [request_of(Case(prompt(2, 3)), 2)]))[0].tokens) == 2

    asyncio.run(main())


def test_what_does_not_fit_is_refused_before_anything_runs() -> None:
    async def main() -> None:
        limits = GenerationLimits(max_rows=2, budget_tokens=64, prefill_tokens=64, max_waiting=2)
        async with engine_of("llama", limits) as engine:
            with pytest.raises(TooLarge, match="may need 65 tokens"):
                await ask(engine, [request_of(Case(prompt(1, 3)), 62)])
            with pytest.raises(TooLarge, match="3 texts"):
                await ask(engine, [request_of(Case(prompt(1, 3)), 4)] * 3)
            requests = [[request_of(Case(prompt(1, 3)), 60)] for _ in range(6)]
            ended = await asyncio.gather(*(ask(engine, one) for one in requests), return_exceptions=True)
            refused = [one for one in ended if isinstance(one, Overloaded)]
            assert refused
            assert all(one.retry_after_s > 0 for one in refused)
            assert any(isinstance(one, list) for one in ended)
            with pytest.raises(InvalidRequest, match="no hook point"):
                bend = Bend(7, "attn.hook_z", "SIMPLE_ADDITIVE", vector(1), 1.0)
                await ask(engine, [request_of(Case(prompt(1, 3), (bend,)), 4)])
            with pytest.raises(InvalidRequest, match="has 31 numbers; the activation at blocks"):
                bend = Bend(1, "resid_post", "SIMPLE_ADDITIVE", vector(1, 31), 1.0)
                await ask(engine, [request_of(Case(prompt(1, 3), (bend,)), 4)])
            assert engine.running == 0

    asyncio.run(main())


def test_closing_the_engine_tells_whoever_waits() -> None:
    async def main() -> None:
        async with engine_of("llama", max_positions=4096) as engine:
            stream = engine.stream([request_of(Case(prompt(1, 3)), 500)], Deadline.after(60))
            await anext(stream)
            await engine.aclose()
            with pytest.raises(Unavailable):
                while True:
                    await anext(stream)

    asyncio.run(main())


def test_a_failing_step_reaches_its_callers_and_the_next_request_works(monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        async with engine_of("llama") as engine:
            model: Any = engine._model  # pyright: ignore[reportPrivateUsage]
            with monkeypatch.context() as broken:
                broken.setattr(model, "next_logits", lambda *_: torch.zeros(0)[1])
                with pytest.raises(IndexError):
                    await ask(engine, [request_of(Case(prompt(1, 3)), 5)])
            assert len((await ask(engine, [request_of(Case(prompt(1, 3)), 5)]))[0].tokens) == 5

    asyncio.run(main())


def test_a_prompt_that_can_not_be_read_fails_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    long, too_much = Case(prompt(3, 40)), Case(prompt(4, 50))

    async def main() -> None:
        async with engine_of("llama") as engine:
            model: Any = engine._model  # pyright: ignore[reportPrivateUsage]
            read = model.next_logits

            def read_short(ids: torch.Tensor, *rest: Any) -> torch.Tensor:
                logits = read(ids, *rest)
                if ids.shape[1] == 50:
                    raise MemoryError
                return logits

            monkeypatch.setattr(model, "next_logits", read_short)
            stream = engine.stream([request_of(long, 20)], Deadline.after(60))
            tokens = list((await anext(stream))[0].tokens)
            with pytest.raises(Unavailable, match="out of memory"):
                await ask(engine, [request_of(too_much, 5)])
            async for growths in stream:
                tokens += [token for growth in growths for token in growth.tokens]
            assert tokens == written("llama", long, 20)[0]

    asyncio.run(main())


def test_a_seed_repeats_a_text_and_no_seed_does_not() -> None:
    def texts(seed: int | None) -> list[tuple[int, ...]]:
        request = Continuation(prompt(1, 4), Sampling(20, temperature=1.5, seed=seed))
        return [growth.tokens for growth in run("llama", [request, request])]

    first, second = texts(11)
    assert first == second == texts(11)[0]
    assert len({*texts(None), *texts(None)}) > 1


def test_a_text_that_overflows_fails_alone_and_leaves_nothing_behind() -> None:
    huge = Case(prompt(2, 30), (Bend(0, "resid_post", "SIMPLE_ADDITIVE", vector(3), 3e38),))
    long, short = Case(prompt(3, 40)), Case(prompt(4, 3))

    async def main() -> None:
        limits = GenerationLimits(max_rows=2, budget_tokens=4096, prefill_tokens=128, max_waiting=64)
        async with engine_of("llama", limits) as engine:
            beside = asyncio.create_task(ask(engine, [request_of(long, 20)]))
            with pytest.raises(InvalidRequest, match="no longer finite"):
                await ask(engine, [request_of(huge, 5)])
            after = asyncio.create_task(ask(engine, [request_of(short, 12)]))
            assert list((await beside)[0].tokens) == written("llama", long, 20)[0]
            assert list((await after)[0].tokens) == written("llama", short, 12)[0]

    asyncio.run(main())


def test_the_cache_is_never_larger_than_the_rows_in_it_need() -> None:
    async def main() -> None:
        limits = GenerationLimits(max_rows=8, budget_tokens=1024, prefill_tokens=512, max_waiting=64)
        async with engine_of("llama", limits, max_positions=4096) as engine:
            cache: Any = engine._batch._cache  # pyright: ignore[reportPrivateUsage]
            many = [request_of(Case(prompt(seed, 30)), 3) for seed in range(8)]
            long = request_of(Case(prompt(9, 30)), 400)
            asked = [asyncio.create_task(ask(engine, [one])) for one in (*many[:7], long)]
            largest = 0
            while not all(task.done() for task in asked):
                largest = max([largest, *(store.shape[0] * store.shape[2] for store in dict(cache._keys).values())])
                await asyncio.sleep(0)
            assert 8 * 64 <= largest <= limits.budget_tokens

    asyncio.run(main())


@pytest.mark.parametrize("seed", [-1, 2**63])
def test_a_seed_that_an_engine_can_not_keep_is_refused(seed: int) -> None:
    with pytest.raises(InvalidRequest, match="seed"):
        Sampling(4, seed=seed)
