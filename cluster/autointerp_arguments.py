"""Typed arguments of automatic interpretability: who is asked, at whose cost, and by how many replicas."""

from pathlib import Path
from typing import Any, Literal, Self

from pydantic import Field, model_validator

from cluster.arguments import SecretSource
from cluster.autointerp_job_arguments import JobsArgs
from cluster.replica_arguments import ReplicaArgs
from cluster.strict import StrictArguments
from core.autointerp.providers.endpoint import OPENROUTER


class LanguageModelArgs(StrictArguments):
    """What is known of one language model at its provider."""

    prompt_usd: float | None = Field(None, ge=0, description="Dollars per million tokens read. Default: nobody knows.")
    completion_usd: float | None = Field(None, ge=0, description="Dollars per million tokens written.")
    requests_per_minute: float | None = Field(None, gt=0, description="Calls begun per minute. Default: no limit.")
    tokens_per_minute: float | None = Field(
        None, gt=0, description="Tokens read and written per minute. Default: no limit."
    )
    in_flight: int = Field(256, ge=1, description="Calls at once.")

    @model_validator(mode="after")
    def _check(self) -> Self:
        if (self.prompt_usd is None) != (self.completion_usd is None):
            raise ValueError("give both prompt_usd and completion_usd, or neither")
        return self


class ProviderArgs(StrictArguments):
    """One OpenAI-compatible address, and what the cluster has there. Limits and prices hold for callers' keys too."""

    base_url: str = Field(OPENROUTER, description="What /chat/completions is added to.")
    key: SecretSource | None = Field(
        None, description="Where the cluster's own key is found. None, or nothing found: callers bring theirs."
    )
    daily_usd: float | None = Field(
        None, gt=0, description="Dollars per day that the cluster's own key may cost; needs the models' prices."
    )
    daily_tokens: int | None = Field(None, gt=0, description="Tokens per day that it may be used for.")
    models: dict[str, LanguageModelArgs] = Field(
        default_factory=dict, description="Limits and prices by the provider's names; '*' stands for all others."
    )


class LocalModelsArgs(StrictArguments):
    """Models of this cluster that explain and judge."""

    names: list[str] | None = Field(
        None, description="Which served models may be asked. Default: every one; [] for none."
    )
    models: dict[str, LanguageModelArgs] = Field(
        default_factory=dict, description="Limits by name; '*' stands for all others."
    )


class WorkerArgs(ReplicaArgs):
    """Replicas that mostly wait for others."""

    target_ongoing_requests: float = Field(100, gt=0, description="Requests per replica that autoscaling aims for.")
    max_ongoing_requests: int = Field(200, ge=1, description="Requests in progress per replica at most.")
    max_queued_requests: int = Field(1000, ge=1, description="Requests that may wait per caller before it answers 429.")
    num_cpus: float = Field(0.1, ge=0, description="CPUs that each replica reserves for scheduling.")

    def options(self) -> dict[str, Any]:
        """Serve's options for the deployment."""
        return {**super().options(), "max_queued_requests": self.max_queued_requests}


class EmbedderArgs(WorkerArgs):
    """The embedding model."""

    model: str = Field(
        "sentence-transformers/all-MiniLM-L6-v2",
        description="Hugging Face id, local folder, or 'package:NAME' for weights that a Python package carries.",
    )
    query_prefix: str = Field("", description="Put in front of an explanation; some models are trained with one.")
    text_prefix: str = Field("", description="Put in front of an example.")
    device: Literal["auto", "cpu", "cuda", "mps"] = Field("auto", description="Where it runs.")
    threads: int | None = Field(None, ge=1, description="Threads of one replica on a CPU. Default: all cores.")
    offline: bool = Field(False, description="Never fetch the model: it has to be in the cache.")
    trusts_code: bool = Field(False, description="Run Python files that come with the model. Only for models you know.")
    max_tokens: int | None = Field(None, ge=1, description="Longest text; the rest is cut off. Default: the model's.")
    preload: bool = Field(True, description="Load at start-up. Otherwise the first request waits for it.")


class AutointerpArgs(StrictArguments):
    """The application that explains and scores features."""

    folder: str = Field(
        "~/.rayscope/autointerp",
        description="Where ledger, replies, jobs and caches of activations are kept. On a cluster of several machines "
        "name a shared folder for caches in `caches`, and keep this one where `state_resource` is.",
    )
    caches: list[str] = Field(
        default_factory=list, description="More folders that caches of activations lie in, at any depth."
    )
    state_resource: str | None = Field(
        None, description="Custom Ray resource of the machine that `folder` is on. Default: any machine."
    )
    providers: list[ProviderArgs] = Field(
        default_factory=lambda: [ProviderArgs.model_validate({})],
        description="Providers that the cluster knows, the first for requests that name none. Their hosts are called.",
    )
    allowed_hosts: list[str] = Field(
        default_factory=list, description="More hosts that callers may name in baseUrl: names, or '*.suffix'."
    )
    allow_loopback: bool = Field(False, description="Allow http to this machine, for tests and a local vLLM.")
    local: LocalModelsArgs = Field(
        default_factory=lambda: LocalModelsArgs.model_validate({}), description="Models of this cluster."
    )
    attempts: int = Field(6, ge=1, description="Times that a provider is asked the same before it has failed.")
    attempt_timeout_s: float = Field(100.0, gt=0, description="Time for one attempt.")
    retry_s: float = Field(120.0, ge=0, description="No attempt begins later than this after the first.")
    in_flight: int = Field(256, ge=1, description="Calls at once to a model whose provider lists no limits for it.")
    kept_replies: int = Field(1_000_000, ge=1, description="Replies kept, so that nothing is paid for twice.")
    explainer: WorkerArgs = Field(
        default_factory=lambda: WorkerArgs.model_validate({}), description="Replicas that explain."
    )
    scorer: WorkerArgs = Field(
        default_factory=lambda: WorkerArgs.model_validate({}), description="Replicas that score."
    )
    embedder: EmbedderArgs | None = Field(
        None, description="The embedding model. Default: none, and scorers that need one are refused."
    )

    jobs: JobsArgs = Field(
        default_factory=lambda: JobsArgs.model_validate({}), description="The replica that works on jobs."
    )

    @model_validator(mode="after")
    def _check(self) -> Self:
        addresses = [provider.base_url.rstrip("/") for provider in self.providers]
        if len(set(addresses)) != len(addresses):
            raise ValueError("two providers have the same base_url")
        return self

    @property
    def default_base_url(self) -> str:
        """Where a model outside is, unless a request says otherwise."""
        return self.providers[0].base_url.rstrip("/") if self.providers else OPENROUTER

    @property
    def state_folder(self) -> Path:
        """Where the ledger, replies and jobs are kept."""
        return Path(self.folder).expanduser()

    @property
    def cache_folders(self) -> list[Path]:
        """Where caches of activations lie, those that jobs make in the first."""
        return [self.state_folder / "caches", *(Path(folder).expanduser() for folder in self.caches)]
