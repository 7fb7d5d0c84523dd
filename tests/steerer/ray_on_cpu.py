"""vLLM's Ray executor on a platform without accelerators, for tests: the same executor, told that a worker needs none.

Imported where vLLM starts: the CPU platform names no Ray device, so the executor would refuse it.
"""

from typing import Any

import ray
from vllm.platforms import current_platform
from vllm.v1.executor import ray_executor_v2

executor: Any = ray_executor_v2
platform: Any = type(current_platform)
platform.ray_device_key = "CPU"


class CpuWorker(executor.RayWorkerProc):
    """A worker whose device is its rank."""

    def get_node_and_physical_gpu_ids(self) -> tuple[str, list[int]]:
        return ray.get_runtime_context().get_node_id(), [int(self._init_kwargs["rank"])]


executor.RayWorkerProc = CpuWorker


class CpuRayExecutor(executor.RayExecutorV2):
    """Starts workers that reserve nothing."""

    @staticmethod
    def _get_actor_resource_kwargs() -> dict[str, Any]:
        return {}
