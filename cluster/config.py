"""`serve_config.yaml`, read and written: the one form in which a cluster is described.

The command line's flags become the same document, so the two ways of starting cannot drift. Ray Serve takes any mapping
as an application's `args`; `check` finds a misspelt key before a cluster is started for it.
"""

from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from cluster.arguments import GatewayArgs, ModelAppArgs
from cluster.autointerp_arguments import AutointerpArgs
from cluster.graph_arguments import GraphAppArgs
from core.errors import InvalidRequest

_BUILDERS: dict[str, type[BaseModel]] = {
    "deployments.app:build_gateway": GatewayArgs,
    "deployments.app:build_model_app": ModelAppArgs,
    "deployments.graph.app:build_graph_app": GraphAppArgs,
    "deployments.autointerp.app:build_autointerp_app": AutointerpArgs,
}
_REQUEST_TIMEOUT_S = 310


class SingleModel(BaseModel):
    """A cluster of one model, in the words of the command line."""

    model_config = ConfigDict(extra="forbid", protected_namespaces=())

    model_id: str = Field(description="Model whose source sets are looked up.")
    override_model_id: str | None = Field(None, description="Weights to load instead.")
    sae_sets: list[str] = Field(default_factory=list, description="Source sets to serve.")
    include_sae: list[str] = Field(default_factory=list, description="Keep sources that match one of these.")
    exclude_sae: list[str] = Field(default_factory=list, description="Then drop sources that match one of these.")
    model_dtype: str = Field("auto", description="Precision of the model.")
    sae_dtype: str = Field("float32", description="Precision of the SAEs.")
    device: str = Field("auto", description="Device of the model and its SAEs.")
    num_gpus: float = Field(0.0, description="Share of a GPU to reserve.")
    token_limit: int = Field(200, description="Tokens of one prompt.")
    max_loaded_saes: int | None = Field(None, description="SAEs in memory at most.")
    vllm: bool = Field(False, description="Write texts with vLLM: a Steerer instead of a Runner.")
    tensor_parallel_size: int | None = Field(None, description="GPUs that share the model; implies vllm.")
    max_model_len: int | None = Field(None, description="Tokens of a prompt and its completion; implies vllm.")
    gpu_memory_utilization: float | None = Field(None, description="Share of each GPU to fill; implies vllm.")
    persona_data_path: str | None = Field(None, description="Folder with persona assets.")
    transcoder_set: str | None = Field(None, description="Transcoders to make attribution graphs with, too.")
    lazy_encoder: bool = Field(False, description="Graphs: leave encoders in their files.")
    max_feature_nodes: int = Field(10_000, description="Graphs: features of a graph whose request does not say.")
    update_interval: int = Field(1000, description="Graphs: batches of rows between two rankings.")
    host: str = Field("127.0.0.1", description="Address to listen on.")
    port: int = Field(5002, description="Port to listen on.")


def config_of(flags: SingleModel) -> dict[str, Any]:
    """The configuration document that says the same as the flags."""
    steerer: dict[str, Any] = {
        "tensor_parallel_size": flags.tensor_parallel_size,
        "max_model_len": flags.max_model_len,
        "gpu_memory_utilization": flags.gpu_memory_utilization,
    }
    by_vllm = flags.vllm or any(value is not None for value in steerer.values())
    runner: dict[str, Any] = {
        "source_sets": flags.sae_sets,
        "include": flags.include_sae,
        "exclude": flags.exclude_sae,
        "sae_dtype": flags.sae_dtype,
        "max_loaded_saes": flags.max_loaded_saes,
        "num_gpus": flags.num_gpus,
    }
    model: dict[str, Any] = {
        "model": flags.model_id,
        "weights": flags.override_model_id,
        "model_dtype": flags.model_dtype,
        "device": flags.device,
        "token_limit": flags.token_limit,
        "generation_limit": flags.max_model_len,
        "persona_data_path": flags.persona_data_path,
        "runners": [] if by_vllm else [_said(runner)],
        "steerer": _said(steerer | {"source_sets": flags.sae_sets}) if by_vllm else None,
    }
    return {
        "proxy_location": "EveryNode",
        "http_options": {"host": flags.host, "port": flags.port, "request_timeout_s": _REQUEST_TIMEOUT_S},
        "logging_config": {"enable_access_log": False},
        "applications": [
            {
                "name": "gateway",
                "route_prefix": "/",
                "import_path": "deployments.app:build_gateway",
                "args": {"secret": {"env": "SECRET"}},
            },
            {
                "name": flags.model_id.replace("/", "--"),
                "route_prefix": None,
                "import_path": "deployments.app:build_model_app",
                "args": {key: value for key, value in model.items() if value is not None},
            },
            *([] if flags.transcoder_set is None else [_graphs(flags)]),
        ],
    }


def _graphs(flags: SingleModel) -> dict[str, Any]:
    stage = _said({"num_gpus": flags.num_gpus or None})
    graphs: dict[str, Any] = {
        "model": flags.model_id,
        "weights": flags.override_model_id,
        "model_dtype": flags.model_dtype,
        "device": flags.device,
        "transcoder_set": flags.transcoder_set,
        "lazy_encoder": flags.lazy_encoder,
        "max_feature_nodes": flags.max_feature_nodes,
        "update_interval": flags.update_interval,
        "tracer": stage,
        "attributor": stage,
    }
    return {
        "name": f"{flags.model_id.replace('/', '--')}-graphs",
        "route_prefix": None,
        "import_path": "deployments.graph.app:build_graph_app",
        "args": {key: value for key, value in graphs.items() if value not in (None, {})},
    }


def _said(arguments: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in arguments.items() if value not in (None, [])}


def read_config(path: Path) -> dict[str, Any]:
    """Reads and checks a configuration file.

    Raises:
        InvalidRequest: It is not there, not YAML, or its arguments are wrong.
    """
    try:
        config = yaml.safe_load(path.read_text())
    except OSError as error:
        raise InvalidRequest(f"{path} can not be read: {error.strerror}.", "Name a configuration file.") from None
    except yaml.YAMLError as error:
        raise InvalidRequest(f"{path} is not valid YAML: {error}") from None
    check(config)
    return config


def check(config: Any) -> None:
    """Refuses arguments that an application's builder would refuse.

    Raises:
        InvalidRequest: With the application, the key's path and the reason, for every problem.
    """
    if not isinstance(config, dict) or not isinstance(config.get("applications"), list):
        raise InvalidRequest("The configuration has no list of applications.", "See serve_config.yaml.")
    problems: list[str] = []
    for application in config["applications"]:
        arguments = _BUILDERS.get(str(application.get("import_path")))
        if arguments is None:
            continue
        try:
            arguments.model_validate(application.get("args") or {})
        except ValidationError as error:
            problems += [
                f"{application.get('name')}: args.{'.'.join(map(str, problem['loc']))}: {problem['msg']}"
                for problem in error.errors(include_input=False, include_url=False)
            ]
    if problems:
        raise InvalidRequest("The configuration is wrong:\n  " + "\n  ".join(problems), "See cluster/arguments.py.")
