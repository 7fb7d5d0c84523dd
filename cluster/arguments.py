"""Typed arguments of the applications in `serve_config.yaml`.

Ray Serve accepts any mapping as an application's `args`; these models are the one place where a misspelt key is caught.
"""

import os
from pathlib import Path
from typing import Literal, Self

from pydantic import Field, model_validator

from cluster.replica_arguments import ReplicaArgs
from cluster.steerer_arguments import SteererArgs
from cluster.strict import StrictArguments

Dtype = Literal["float32", "float16", "bfloat16"]


class RunnerArgs(ReplicaArgs):
    """One Runner deployment: the model with some of its source sets, on a share of a device."""

    name: str = Field("Runner", description="Deployment name, unique within the application.")
    source_sets: list[str] = Field(default_factory=list, description="Source sets to serve, such as 'res-jb'.")
    source_folders: dict[str, str] = Field(
        default_factory=dict, description="Source sets that lie in local folders: set id to folder."
    )
    include: list[str] = Field(
        default_factory=list, description="Serve only sources whose id matches one of these regular expressions."
    )
    exclude: list[str] = Field(
        default_factory=list, description="Then leave out sources whose id matches one of these."
    )
    sae_dtype: Dtype = Field("float32", description="Precision of the SAE weights.")
    sae_budget_gib: float | None = Field(
        None, gt=0, description="Memory for resident SAEs in GiB. Default: what the model leaves of the device share."
    )
    host_budget_gib: float = Field(
        0.0, ge=0, description="Host memory in GiB that keeps SAEs evicted from a GPU, for quick return."
    )
    max_loaded_saes: int | None = Field(None, ge=1, description="Upper limit on the number of resident SAEs.")
    preload: bool = Field(True, description="Load SAEs at start-up, in listed order, until the budget is full.")
    num_cpus: float = Field(0.5, ge=0, description="CPUs that each replica reserves for scheduling.")
    threads: int | None = Field(None, ge=1, description="Threads of one replica on a CPU. Default: all cores.")
    target_ongoing_requests: float = Field(16, gt=0, description="Requests per replica that autoscaling aims for.")
    max_ongoing_requests: int = Field(64, ge=1, description="Requests in progress per replica at most.")
    max_queued_requests: int = Field(
        256, ge=1, description="Requests that may wait per Gateway replica before it answers 429."
    )
    batch_tokens: int = Field(4096, ge=1, description="Tokens of one forward pass, padding included.")
    batch_entries: int = Field(64, ge=1, description="Prompts of one forward pass.")
    max_queued_tokens: int = Field(65536, ge=1, description="Tokens that may wait in a replica before it answers 429.")
    generation_rows: int = Field(32, ge=1, description="Texts that one replica writes at once.")
    generation_cache_tokens: int = Field(
        16384, ge=1, description="Positions that the cache of those texts may hold, padding included."
    )
    max_waiting_texts: int = Field(256, ge=1, description="Texts that may wait in a replica before it answers 429.")

    @model_validator(mode="after")
    def _check(self) -> Self:
        unlisted = set(self.source_folders) - set(self.source_sets)
        if unlisted:
            raise ValueError(f"source_folders names sets that source_sets does not list: {sorted(unlisted)}")
        return self


class ModelAppArgs(StrictArguments):
    """One model's application."""

    model: str = Field(description="Catalogue id, Hugging Face id, local folder, or 'rayscope-demo'.")
    weights: str | None = Field(
        None, description="Other weights to load under the model's name: an instruct or quantised checkpoint."
    )
    revision: str | None = Field(None, description="Revision of the weights.")
    model_dtype: Literal["auto", "float32", "float16", "bfloat16"] = Field(
        "auto", description="Precision of the model; 'auto' takes the checkpoint's."
    )
    device: Literal["auto", "cpu", "cuda", "mps"] = Field("auto", description="Device of every Runner.")
    token_limit: int = Field(200, ge=1, description="Tokens of one prompt, BOS included.")
    generation_limit: int = Field(
        4096, ge=2, description="Tokens of a prompt and its completion; never more than the model's positions."
    )
    batch_limit: int = Field(4, ge=1, description="Prompts of one batch request.")
    max_num_results: int = Field(1000, ge=1, description="Features that one request may ask for.")
    persona_data_path: str | None = Field(
        None, description="Folder with persona assets, one per model name. Default: only the demo has one."
    )
    runners: list[RunnerArgs] = Field(
        default_factory=lambda: [RunnerArgs.model_validate({})],
        description="Runner deployments, each with its own source sets, share of a device and autoscaling.",
    )
    steerer: SteererArgs | None = Field(
        None, description="Writes the model's texts with vLLM. Default: the Runners do. Large models have no Runners."
    )

    @model_validator(mode="after")
    def _check(self) -> Self:
        names = [runner.name for runner in self.runners]
        if self.steerer is not None:
            names.append(self.steerer.name)
        if not names:
            raise ValueError("a model needs at least one runner, or a steerer")
        if len(set(names)) != len(names):
            raise ValueError(f"deployment names must be unique within an application: {names}")
        sets = [source_set for runner in self.runners for source_set in runner.source_sets]
        twice = sorted({source_set for source_set in sets if sets.count(source_set) > 1})
        if twice:
            raise ValueError(f"source sets are listed in two runners: {twice}")
        short = [r.name for r in self.runners if r.max_queued_tokens < self.token_limit]
        if short:
            raise ValueError(f"max_queued_tokens is below token_limit in {short}: no prompt of full length would fit")
        return self


class SecretSource(StrictArguments):
    """Where the Gateway finds a secret: never in the configuration itself."""

    env: str | None = Field(None, description="Environment variable that holds it.")
    file: str | None = Field(None, description="File that holds it; surrounding white space is ignored.")

    @model_validator(mode="after")
    def _one_of(self) -> Self:
        if (self.env is None) == (self.file is None):
            raise ValueError("name exactly one of env and file")
        return self

    def read(self) -> str | None:
        """The secret, or None where the variable is unset or empty.

        Raises:
            ValueError: The file can not be read or is empty.
        """
        if self.env is not None:
            return os.environ.get(self.env) or None
        try:
            secret = Path(self.file or "").read_text().strip()
        except OSError as error:
            raise ValueError(f"the secret file can not be read: {error.strerror}") from None
        if not secret:
            raise ValueError("the secret file is empty")
        return secret


class GatewayArgs(StrictArguments):
    """The front door."""

    secret: SecretSource = Field(
        default_factory=lambda: SecretSource(env="SECRET", file=None),
        description="Where the value of the x-secret-key header is found. Nothing found: the door is open.",
    )
    wire_case: Literal["camel", "snake"] = Field(
        "camel", description="Casing of replies to requests whose keys show none."
    )
    default_timeout_s: float = Field(
        60.0, gt=0, description="Deadline of a request that sets no x-request-timeout-seconds."
    )
    max_timeout_s: float = Field(300.0, gt=0, description="Longest deadline that a request may set.")
    max_body_bytes: int = Field(10_000_000, ge=1, description="Largest request body.")
    refresh_s: float = Field(5.0, gt=0, description="How often to look for added and removed models.")
    min_replicas: int = Field(1, ge=1, description="Gateway replicas kept.")
    max_replicas: int = Field(2, ge=1, description="Gateway replicas at most.")
    num_cpus: float = Field(0.5, ge=0, description="CPUs that each replica reserves for scheduling.")
    max_ongoing_requests: int = Field(256, ge=1, description="Requests in progress per replica at most.")
    max_queued_requests: int = Field(512, ge=1, description="Requests that may wait per proxy before it answers 429.")
