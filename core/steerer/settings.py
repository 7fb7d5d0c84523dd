"""What an engine is started with, and the arguments that vLLM gets from it."""

import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Literal

from core.catalogue.catalogue import weights_location
from core.errors import InvalidRequest

Graphs = Literal["auto", "eager", "decode", "compile"]
CONFIG_KEY: Final = "rayscope"
"""The entry of vLLM's `additional_config` that is ours. vLLM hashes it into the names of its compile caches, so that
an engine never loads code that was compiled without our hooks."""
EXTENSION: Final = "core.steerer.extension.SteeringExtension"
REVISION: Final = 1
"""Raised when the operation changes, so that code compiled with an older one is not loaded."""

_COMPILATION: Final[Mapping[str, dict[str, Any]]] = {
    "eager": {"enforce_eager": True},
    # Prefill runs eagerly, decoding replays one graph. Needs no torch.compile, so no compile cache can be stale.
    "decode": {"compilation_config": {"mode": 0, "cudagraph_mode": "FULL_DECODE_ONLY"}},
    "compile": {},
}


@dataclass(frozen=True, slots=True)
class EngineSettings:
    """See `cluster.steerer_arguments.SteererArgs`, whose fields these are.

    Attributes:
        weights: Where the weights are: a repository id or a folder.
        sites: Residual sites that can be steered; None for all.
        operators_per_site: Operators of one sequence at one site at most.
        max_vectors: Directions on the device at once.
        max_segments: Spans that may be read at once.
        max_waiting: Sequences in the engine, running or waiting, at most.
        graphs: Which parts of the model run as CUDA graphs.
        executor: Who starts the workers.
        engine: Any other argument of vLLM's engine; it wins over ours.
    """

    weights: str
    revision: str | None = None
    dtype: str = "auto"
    quantization: str | None = None
    tensor_parallel_size: int = 1
    gpu_memory_utilization: float | None = None
    max_model_len: int | None = None
    max_num_seqs: int = 64
    executor: Literal["mp", "ray"] = "mp"
    graphs: Graphs = "auto"
    sites: tuple[int, ...] | None = None
    operators_per_site: int = 8
    max_vectors: int = 1024
    max_segments: int = 256
    max_waiting: int = 256
    canary_period_s: float = 600.0
    engine: Mapping[str, Any] = field(default_factory=dict)


def engine_arguments(settings: EngineSettings, sites: tuple[int, ...], *, on_gpu: bool) -> dict[str, Any]:
    """Arguments of vLLM's `AsyncEngineArgs`.

    Args:
        settings: What was asked for.
        sites: Residual sites to hook.
        on_gpu: Whether there is a GPU: without one nothing is captured.

    Raises:
        InvalidRequest: `engine` sets what steering depends on.
    """
    reserved = {"worker_extension_cls", "additional_config", "skip_tokenizer_init", "model"} & set(settings.engine)
    if reserved:
        raise InvalidRequest(f"Engine arguments that steering sets itself: {', '.join(sorted(reserved))}")
    graphs = settings.graphs
    if graphs == "auto":
        graphs = "decode" if on_gpu else "eager"
    steering = {
        "revision": REVISION,
        "sites": list(sites),
        "operators_per_site": settings.operators_per_site,
        "max_vectors": settings.max_vectors,
        "max_segments": settings.max_segments,
    }
    mp = settings.executor == "mp"
    optional = {
        "revision": settings.revision,
        "quantization": settings.quantization,
        "gpu_memory_utilization": settings.gpu_memory_utilization,
        "max_model_len": settings.max_model_len,
        # A single worker lives in the engine's own process unless Ray is to place it.
        "distributed_executor_backend": None if settings.tensor_parallel_size == 1 and mp else settings.executor,
    }
    return {
        "model": weights_location(settings.weights),
        "skip_tokenizer_init": True,
        "dtype": settings.dtype,
        "tensor_parallel_size": settings.tensor_parallel_size,
        "max_num_seqs": settings.max_num_seqs,
        "seed": secrets.randbelow(2**31),  # what is sampled without a seed differs from start to start
        "logprobs_mode": "raw_logprobs",
        "worker_extension_cls": EXTENSION,
        "additional_config": {CONFIG_KEY: steering},
        **{name: value for name, value in optional.items() if value is not None},
        **_COMPILATION[graphs],
        **settings.engine,
    }
