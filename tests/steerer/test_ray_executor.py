"""Two workers that Ray starts: they steer like any others."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import ray

from core.generation.requests import Growth
from tests.ray_testing import ray_instance
from tests.steerer.truth import Case, Truth, mixture
from tests.steerer.world import LAYERS, VOCABULARY, WIDTH, deadline, save_llama

ENVIRON = {
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "VLLM_CPU_OMP_THREADS_BIND": "0|1",
    "VLLM_LOGGING_LEVEL": "WARNING",
    "VLLM_NO_USAGE_STATS": "1",
}


class Replica:
    """What a Steerer's replica does, with the executor under test."""

    async def start(self, folder: str) -> None:
        from core.steerer.engine import SteeredEngine
        from core.steerer.settings import EngineSettings
        from tests.steerer.ray_on_cpu import CpuRayExecutor

        engine = {"block_size": 32, "distributed_executor_backend": CpuRayExecutor}
        self.engine: Any = await SteeredEngine.start(
            EngineSettings(folder, dtype="float32", tensor_parallel_size=2, executor="ray", engine=engine)
        )

    async def write(self, cases: list[Case]) -> list[Growth]:
        return await self.engine.generate(
            [case.continuation for case in cases], [case.interventions for case in cases], deadline()
        )

    async def report(self) -> list[dict[str, Any]]:
        return await self.engine.report()

    async def stop(self) -> None:
        await self.engine.aclose()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("llama")
    save_llama(folder)
    return folder


@pytest.fixture(scope="module")
def replica(folder: Path) -> Iterator[Any]:
    with ray_instance(num_cpus=4):
        actor: Any = ray.remote(Replica).options(num_cpus=0, runtime_env={"env_vars": ENVIRON}).remote()
        ray.get(actor.start.remote(str(folder)), timeout=240)
        yield actor
        ray.get(actor.stop.remote(), timeout=60)


def test_a_mixed_batch_writes_what_plain_hugging_face_with_hooks_writes(replica: Any, folder: Path) -> None:
    cases = mixture(WIDTH, LAYERS, VOCABULARY)
    truth = Truth(str(folder))
    written: list[Growth] = ray.get(replica.write.remote(cases), timeout=240)
    assert [growth.tokens for growth in written] == [truth.write(case).tokens for case in cases]


def test_both_workers_steer_and_hold_nothing_afterwards(replica: Any) -> None:
    reports = ray.get(replica.report.remote(), timeout=60)
    assert len(reports) == 2
    assert all(report["faults"] == 0 and not report["sequences"] for report in reports)
