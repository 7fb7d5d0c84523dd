"""Typed arguments of a Steerer: a model on vLLM, and what Ray reserves for each of its replicas."""

from typing import Any, Literal

from pydantic import Field

from cluster.replica_arguments import ScalingArgs
from core.steerer.settings import EngineSettings


class SteererArgs(ScalingArgs):
    """One Steerer deployment: the model on vLLM, spread over the GPUs of a replica."""

    name: str = Field("Steerer", description="Deployment name, unique within the application.")
    source_sets: list[str] = Field(
        default_factory=list, description="Source sets whose features it can steer with, besides those of the Runners."
    )
    source_folders: dict[str, str] = Field(
        default_factory=dict, description="Source sets that lie in local folders: set id to folder."
    )
    quantization: str | None = Field(
        None, description="How the checkpoint is quantised, such as 'awq_marlin'. Default: as its configuration says."
    )
    tensor_parallel_size: int = Field(1, ge=1, description="GPUs that share the model.")
    gpus: int | None = Field(
        None, ge=0, description="GPUs that a replica reserves. Default: tensor_parallel_size; 0 on a CPU."
    )
    num_cpus: float = Field(1.0, ge=0, description="CPUs that each replica reserves for scheduling.")
    executor: Literal["mp", "ray"] = Field(
        "mp", description="Who starts the model's workers: the replica itself, on one node, or Ray."
    )
    gpu_memory_utilization: float | None = Field(
        None, gt=0, le=1, description="Share of each GPU's memory that vLLM fills. Default: vLLM's own."
    )
    max_model_len: int | None = Field(
        None, ge=1, description="Tokens of one sequence, prompt included. Default: what the model was made for."
    )
    max_num_seqs: int = Field(64, ge=1, description="Sequences of one step.")
    max_waiting: int = Field(
        256, ge=1, description="Sequences in a replica, running or waiting, before it answers 429."
    )
    graphs: Literal["auto", "eager", "decode", "compile"] = Field(
        "auto",
        description="What runs as CUDA graphs: nothing, decoding steps, or all of a compiled model. "
        "'auto' is decode on a GPU and eager on a CPU.",
    )
    sites: list[int] | None = Field(
        None,
        description="Residual sites that can be steered: 0 for the embeddings, L + 1 for what layer L returns. "
        "Default: all.",
    )
    operators_per_site: int = Field(8, ge=1, description="Directions along which one sequence is steered at one site.")
    max_vectors: int = Field(1024, ge=1, description="Steering directions kept on the device.")
    max_segments: int = Field(256, ge=16, description="Spans of text whose mean activations are read at once.")
    canary_period_s: float = Field(600.0, gt=0, description="How often to prove that steering still works.")
    engine: dict[str, Any] = Field(
        default_factory=dict, description="Any other argument of vLLM's engine, such as kv_cache_dtype."
    )
    env: dict[str, str] = Field(
        default_factory=dict, description="Environment variables of its processes, such as VLLM_CPU_KVCACHE_SPACE."
    )
    target_ongoing_requests: float = Field(32, gt=0, description="Requests per replica that autoscaling aims for.")
    upscale_delay_s: float = Field(30.0, ge=0, description="Load must last this long before a replica is added.")
    downscale_delay_s: float = Field(600.0, ge=0, description="Idleness must last this long before one is removed.")
    max_ongoing_requests: int = Field(128, ge=1, description="Requests in progress per replica at most.")
    max_queued_requests: int = Field(
        256, ge=1, description="Requests that may wait per Gateway replica before it answers 429."
    )

    def settings(self, weights: str, revision: str | None = None, dtype: str = "auto") -> EngineSettings:
        """What the engine is started with.

        Args:
            weights: Where the weights are.
            revision: Their revision.
            dtype: Precision of the model.
        """
        return EngineSettings(
            weights=weights,
            revision=revision,
            dtype=dtype,
            quantization=self.quantization,
            tensor_parallel_size=self.tensor_parallel_size,
            gpu_memory_utilization=self.gpu_memory_utilization,
            max_model_len=self.max_model_len,
            max_num_seqs=self.max_num_seqs,
            executor=self.executor,
            graphs=self.graphs,
            sites=None if self.sites is None else tuple(self.sites),
            operators_per_site=self.operators_per_site,
            max_vectors=self.max_vectors,
            max_segments=self.max_segments,
            max_waiting=self.max_waiting,
            canary_period_s=self.canary_period_s,
            engine=self.engine,
        )

    def resources(self, device: str) -> dict[str, Any]:
        """Options of the deployment that say what a replica needs.

        Args:
            device: `cpu` reserves no GPU.
        """
        gpus = (0 if device == "cpu" else self.tensor_parallel_size) if self.gpus is None else self.gpus
        environment: dict[str, Any] = {"runtime_env": {"env_vars": self.env}} if self.env else {}
        if self.executor == "mp" or not gpus:
            return {"ray_actor_options": {"num_cpus": self.num_cpus, "num_gpus": gpus, **environment}}
        # Ray starts one worker per GPU bundle; the replica itself lives in the first bundle. All on one node.
        return {
            "ray_actor_options": {"num_cpus": self.num_cpus, **environment},
            "placement_group_bundles": [{"CPU": self.num_cpus}, *([{"GPU": 1.0}] * gpus)],
            "placement_group_strategy": "STRICT_PACK",
        }
