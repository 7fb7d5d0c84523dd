"""What no CPU can show: captured graphs, asynchronous scheduling and half precision."""

import asyncio
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from core.steerer.canary import check_steering
from core.steering.specification import HookPlace, Method
from tests.steerer.truth import Case, Write, tokens
from tests.steerer.world import VOCABULARY, WIDTH, World, deadline, preemptions, save_llama, until, world

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("llama")
    save_llama(folder)
    return folder


@pytest.fixture(scope="module", params=["eager", "decode", "compile"])
def llama(folder: Path, request: pytest.FixtureRequest) -> Iterator[World]:
    engine = {"max_num_batched_tokens": 64, "gpu_memory_utilization": 0.2, "max_model_len": 256}
    with world(str(folder), graphs=request.param, max_num_seqs=32, engine=engine) as running:
        yield running


def steered(seed: int, positions: str = "all", max_tokens: int = 40) -> Case:
    rng = np.random.default_rng(seed)
    write = Write(
        HookPlace(1, "resid_post"), Method.SIMPLE_ADDITIVE, rng.standard_normal(WIDTH).astype(np.float32), 2.0
    )
    return Case(tokens(rng, 60, VOCABULARY), (write,), positions, (0, 5), True, max_tokens)


def test_the_canary_passes_on_the_second_runner(llama: World) -> None:
    llama.run(check_steering(llama.engine))
    (report,) = llama.run(llama.engine.report())
    assert (report["runner"], report["faults"]) == ("v2", 0)


def test_a_mixed_batch_writes_what_plain_hugging_face_with_hooks_writes(llama: World) -> None:
    llama.check(llama.mixture())


def test_a_graph_replays_what_the_tables_say_by_then(llama: World) -> None:
    """The same batch shape, steered otherwise each time."""
    for seed in range(4):
        llama.check([replace(steered(seed), prompt=steered(0).prompt)])


def test_readings_hold_under_graphs_and_asynchronous_scheduling(llama: World) -> None:
    cases = [steered(seed, ("all", "prompt", "generated")[seed % 3]) for seed in range(12)]
    spans = [(0, 30), (30, 60), (60, 99)]

    async def read_all() -> list[np.ndarray]:
        reads = (llama.engine.read(c.continuation, c.interventions, 2, spans, deadline()) for c in cases)
        return [read.after for read in await asyncio.gather(*reads)]

    for case, found in zip(cases, llama.run(read_all()), strict=True):
        whole = llama.truth.write(case).after[2]
        np.testing.assert_allclose(found, [whole[start:stop].mean(0) for start, stop in spans], atol=1e-3)


def test_leaving_frees_the_slot(llama: World) -> None:
    case = steered(1, max_tokens=190)

    async def leave() -> None:
        reports = llama.engine.stream([case.continuation], [case.interventions], deadline())
        await anext(reports)
        await reports.aclose()

        async def gone() -> bool:
            return not await llama.sequences()

        await until(gone)

    llama.run(leave())


def test_preemption_changes_nothing(folder: Path) -> None:
    engine = {"num_gpu_blocks_override": 18, "max_model_len": 256, "gpu_memory_utilization": 0.2}
    with world(str(folder), graphs="decode", max_num_seqs=8, engine=engine) as running:
        before = preemptions()
        running.check([steered(seed, ("all", "prompt", "generated")[seed % 3], 60) for seed in range(8)])
        assert preemptions() > before


def test_half_precision_stays_within_its_rounding(folder: Path) -> None:
    engine = {"max_model_len": 256, "gpu_memory_utilization": 0.2}
    case = steered(3, max_tokens=3)
    spans = [(position, position + 1) for position in range(60)]
    with world(str(folder), graphs="decode", dtype="bfloat16", engine=engine) as running:
        read = running.run(running.engine.read(case.continuation, case.interventions, 2, spans, deadline()))
        truth = running.truth.write(case)
        moved, wanted = read.after - read.before, truth.after[2][:60] - truth.before[2][:60]
        assert np.abs(moved - wanted).max() < 0.05 * np.abs(wanted).max()
