"""What `test_second_runner` runs in a process of its own: vLLM's second model runner and our kernel, interpreted."""

import tempfile
from pathlib import Path

import numpy as np

from core.steerer.canary import check_steering
from core.steering.specification import HookPlace, Method
from tests.steerer.truth import Case, Write, tokens
from tests.steerer.world import VOCABULARY, WIDTH, World, deadline, preemptions, save_llama, until, world


def check(llama: World) -> None:
    (report,) = llama.run(llama.engine.report())
    assert report["runner"] == "v2"
    llama.run(check_steering(llama.engine))
    llama.check(llama.mixture()[::3])
    check_preemption(llama)
    check_reading(llama)
    check_leaving(llama)


def steered(seed: int, n: int, max_tokens: int, number: int = 2) -> Case:
    rng = np.random.default_rng(seed)
    write = Write(
        HookPlace(1, "resid_post"), Method.SIMPLE_ADDITIVE, rng.standard_normal(WIDTH).astype(np.float32), 2.0
    )
    positions = ("prompt", "generated", "all")[number % 3]
    return Case(tokens(rng, n, VOCABULARY), (write,), positions, (0, 5, n - 1), number % 2 == 0, max_tokens)


def check_preemption(llama: World) -> None:
    before = preemptions()
    llama.check([steered(number, 60, 40, number) for number in range(5)])
    assert preemptions() > before


def check_reading(llama: World) -> None:
    case = steered(9, 40, 3)
    read = llama.run(llama.engine.read(case.continuation, case.interventions, 2, [(0, 9), (9, 42)], deadline()))
    whole = llama.truth.write(case)
    for found, truth in ((read.before, whole.before[2]), (read.after, whole.after[2])):
        np.testing.assert_allclose(found, [truth[:9].mean(0), truth[9:42].mean(0)], atol=1e-4)


def check_leaving(llama: World) -> None:
    case = steered(10, 20, 200)

    async def leave() -> None:
        reports = llama.engine.stream([case.continuation], [case.interventions], deadline())
        await anext(reports)
        assert await llama.sequences()
        await reports.aclose()

        async def gone() -> bool:
            return not await llama.sequences()

        await until(gone)

    llama.run(leave())


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        engine = {"max_num_batched_tokens": 48, "num_gpu_blocks_override": 12, "max_model_len": 256}
        with world(save_llama(Path(folder)), max_num_seqs=6, engine=engine) as running:
            check(running)
