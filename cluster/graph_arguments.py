"""Typed arguments of an attribution-graph application: one model with one set of transcoders, in four stages."""

from typing import Literal, Self

from pydantic import Field, model_validator

from cluster.replica_arguments import ReplicaArgs
from cluster.strict import StrictArguments

Engine = Literal["auto", "replay", "autograd", "circuit-tracer"]


class StageArgs(ReplicaArgs):
    """One stage's replicas. Under an application-level policy the limits stay, the number is the policy's."""

    min_replicas: int = Field(1, ge=1, description="Replicas kept when idle.")
    threads: int | None = Field(
        None,
        ge=1,
        description="Threads of one replica on a CPU. Default: all cores. Products too small to share take one.",
    )


class UploadArgs(StrictArguments):
    """Where finished graphs may go."""

    allowed_hosts: list[str] = Field(
        default_factory=list,
        description="Hosts of signed URLs: names, or '*.suffix'. Empty: every public host over https.",
    )
    allow_loopback: bool = Field(False, description="Allow http to this machine, for tests and local stores.")
    allowed_buckets: list[str] = Field(
        default_factory=list, description="Buckets, or 'bucket/prefix', of s3:// destinations. Empty: none."
    )
    timeout_s: float = Field(60.0, gt=0, description="Time for one upload, retries included.")


class GraphAppArgs(StrictArguments):
    """One graph application."""

    model: str = Field(description="Catalogue id, Hugging Face id, local folder, or 'rayscope-demo'.")
    weights: str | None = Field(None, description="Other weights to load under the model's name.")
    revision: str | None = Field(None, description="Revision of the weights.")
    model_dtype: Literal["auto", "float32", "float16", "bfloat16"] = Field("auto", description="Precision.")
    device: Literal["auto", "cpu", "cuda", "mps"] = Field("auto", description="Device of the tracer and attributor.")
    transcoder_set: str = Field(
        description="Hugging Face repo, local folder with a config.yaml, 'gemma', 'llama', or the demo's 'plt-demo'."
    )
    engine: Engine = Field(
        "auto", description="replay is fastest; autograd knows every architecture; auto takes replay where it can."
    )
    oracle_python: str | None = Field(
        None, description="Python of the environment that holds circuit-tracer; see `make oracle`."
    )
    lazy_encoder: bool = Field(False, description="Read encoder weights from disk per use instead of keeping them.")
    decoder_budget_gib: float = Field(2.0, gt=0, description="Memory for decoder rows that were read, in GiB.")
    scan: str | None = Field(None, description="Name that viewers look features up under. Default: the model's id.")
    token_limit: int = Field(64, ge=1, description="Tokens of a graph's prompt, without what is put in front of it.")
    prompt_limit: int = Field(2048, ge=1, description="Tokens of a prompt that is looked ahead of or steered.")
    generation_limit: int = Field(256, ge=1, description="Tokens that an intervention may generate.")
    max_feature_nodes: int = Field(10_000, ge=1, description="Features of a graph whose request does not say.")
    most_feature_nodes: int = Field(50_000, ge=1, description="Features of a graph at most.")
    most_logits: int = Field(100, ge=1, description="Logits of a graph at most.")
    batch_rows: int = Field(256, ge=1, description="Rows of one step at most, over all graphs in it.")
    update_interval: int = Field(
        1000, ge=1, description="Blocks of rows between two rankings; a large number ranks once."
    )
    row_shards: int = Field(1, ge=1, description="Attributors that share the rows of one graph.")
    working_gib: float = Field(
        8.0, gt=0, description="Memory for graphs in progress per attributor, in GiB; more than that waits."
    )
    max_graphs: int = Field(8, ge=1, description="Graphs in progress at most.")
    max_queued_graphs: int = Field(
        32, ge=0, description="Graphs that may wait before the answer is 429; 0: 503 while one is in progress."
    )
    kept_gib: float = Field(
        4.0, ge=0, description="Object store for the effects of finished graphs, kept for other thresholds, in GiB."
    )
    job_timeout_s: float = Field(3600.0, gt=0, description="Longest time for a graph that is made in the background.")
    uploads: UploadArgs = Field(
        default_factory=lambda: UploadArgs.model_validate({}), description="Where finished graphs may go."
    )
    tracer: StageArgs = Field(default_factory=lambda: StageArgs.model_validate({}), description="Forward passes.")
    attributor: StageArgs = Field(
        default_factory=lambda: StageArgs.model_validate({}), description="Rows of graphs, and pruning."
    )
    publisher: StageArgs = Field(
        default_factory=lambda: StageArgs.model_validate({"num_cpus": 0.1}), description="Writing and uploading."
    )

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.engine == "circuit-tracer" and self.oracle_python is None:
            raise ValueError("engine circuit-tracer needs oracle_python; `make oracle` builds that environment")
        if self.max_feature_nodes > self.most_feature_nodes:
            raise ValueError("max_feature_nodes is above most_feature_nodes")
        return self
