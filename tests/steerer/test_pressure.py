"""Prompts in chunks and too little cache for everybody: sequences are preempted and computed anew."""

import asyncio
from collections.abc import Iterator

import numpy as np
import pytest

from core.steering.specification import HookPlace, Method
from tests.steerer.truth import Case, Write, tokens
from tests.steerer.world import VOCABULARY, WIDTH, World, deadline, preemptions, save_llama, world


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    engine = {"max_num_batched_tokens": 48, "num_gpu_blocks_override": 18, "max_model_len": 256}
    with world(save_llama(tmp_path_factory.mktemp("llama")), max_num_seqs=6, engine=engine) as running:
        yield running


def crowd() -> list[Case]:
    """Eight texts of four blocks each where there is room for seventeen blocks, and six may run."""
    rng = np.random.default_rng(5)
    cases: list[Case] = []
    for number in range(8):
        vector = rng.standard_normal(WIDTH).astype(np.float32)
        write = Write(HookPlace(1, "resid_post"), Method.SIMPLE_ADDITIVE, vector, 2.0)
        cases.append(
            Case(
                tokens(rng, 60, VOCABULARY),
                () if number == 3 else (write,),
                positions=("prompt", "generated", "all")[number % 3],
                special=(0, 1, 47, 48, 49, 59),
                spare_special=number % 2 == 0,
                max_tokens=60,
                name=str(number),
            )
        )
    return cases


def test_phases_and_spared_positions_survive_chunks_and_preemption(llama: World) -> None:
    before = preemptions()
    llama.check(crowd())
    assert preemptions() > before


def test_a_mixed_batch_in_chunks_writes_what_plain_hugging_face_with_hooks_writes(llama: World) -> None:
    llama.check(llama.mixture())


def test_what_preemption_computes_anew_counts_once(llama: World) -> None:
    before = preemptions()
    cases = crowd()
    spans = [(0, 30), (30, 60), (60, 119)]

    async def read_all() -> list[np.ndarray]:
        reads = (llama.engine.read(c.continuation, c.interventions, 2, spans, deadline()) for c in cases)
        return [read.after for read in await asyncio.gather(*reads)]

    for case, found in zip(cases, llama.run(read_all()), strict=True):
        whole = llama.truth.write(case).after[2]
        expected = [whole[start:stop].mean(0) for start, stop in spans]
        np.testing.assert_allclose(found, expected, atol=1e-4)
    assert preemptions() > before
