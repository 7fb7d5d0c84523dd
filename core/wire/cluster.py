"""Bodies about the cluster itself: what it serves, whether it is up, and why it refused.

`/v1/capabilities` answers in the peer's snake_case keys, so its classes have no camelCase spelling at all. Error bodies
carry the peer's `error` next to `code`, `hint` and `requestId`; they never repeat what the client sent, because a body
may hold a secret.
"""

from collections.abc import Iterable, Mapping
from typing import Annotated, Any, ClassVar, Literal, TypeAlias

from pydantic import BeforeValidator, ConfigDict, Field, computed_field

from core.wire.base import Case, WireModel


def _encodable(value: Any) -> Any:
    # An error may quote the request, and JSON can carry half a surrogate pair, which UTF-8 cannot.
    return value.encode("utf-8", "replace").decode() if isinstance(value, str) else value


_Message: TypeAlias = Annotated[str, BeforeValidator(_encodable)]


class JobsInfo(WireModel):
    """Jobs of the serverless surface."""

    completed: int = Field(description="Ended with an answer, since the job board started.")
    failed: int = Field(description="Ended with an error, since the job board started.")
    in_progress: int = Field(description="Being worked on.")
    in_queue: int = Field(description="Waiting.")
    retried: int = Field(default=0, description="Always 0: a job is tried once.")


class WorkersInfo(WireModel):
    """Replicas of the models' deployments."""

    idle: int = Field(description="Ready, with no job for them.")
    initializing: int = Field(description="Starting.")
    ready: int = Field(description="Up.")
    running: int = Field(description="Ready, with a job for them.")
    throttled: int = Field(default=0, description="Always 0.")
    unhealthy: int = Field(default=0, description="Always 0: an unhealthy replica is replaced, and then initializing.")


class HealthResponse(WireModel):
    """Answer of /health: the process is up, which says nothing about models. Next to it the serverless counts."""

    wire_case: ClassVar[Case | None] = "camel"

    status: str = Field(description="Always healthy.")
    jobs: JobsInfo | None = Field(default=None, description="Serverless jobs; null while their board does not answer.")
    workers: WorkersInfo | None = Field(default=None, description="What works on them, as last looked at.")


class ReadyResponse(WireModel):
    """Answer of /ready: whether every application can take requests."""

    status: Literal["ready", "starting", "unhealthy"] = Field(description="The worst state of any application.")
    applications: dict[str, str] = Field(description="Ray Serve's status of each application, by name.")


class SourceInfo(WireModel):
    """One source of a set."""

    id: str = Field(description="Name of the source, `<layer>-<set>`.")
    layer: int = Field(description="Layer that it reads.")
    hook_name: str = Field(description="Hook point that it reads.")
    d_sae: int = Field(description="Number of features.")
    d_in: int = Field(description="Width of what it reads.")
    architecture: str = Field(description="Kind of SAE, such as standard or jumprelu.")
    dfa: bool = Field(description="Whether direct feature attribution is computed for it.")


class SourceSetInfo(WireModel):
    """One source set of a model."""

    id: str = Field(description="Name of the set, such as res-demo.")
    sources: list[SourceInfo] = Field(description="Its sources, by layer.")
    n_sources: int = Field(description="Number of sources.")


class RunnerInfo(WireModel):
    """One deployment that runs a model."""

    name: str = Field(description="Name of the deployment.")
    source_sets: list[str] = Field(description="Source sets that it holds.")


class Limits(WireModel):
    """How much one request may ask for."""

    token_limit: int = Field(description="Tokens in one prompt.")
    generation_limit: int = Field(description="Tokens in one prompt and its completion.")
    batch_limit: int = Field(description="Prompts in one request.")
    max_num_results: int = Field(description="Features in one result.")


class ModelInfo(WireModel):
    """One model that the cluster serves."""

    id: str = Field(description="Name to use in requests.")
    aliases: list[str] = Field(description="Other names that requests may use.")
    weights: str = Field(description="Hugging Face repository of the weights.")
    dtype: str = Field(description="Number format of the weights.")
    device: str = Field(description="Kind of device that runs it.")
    n_layers: int = Field(description="Number of layers.")
    d_model: int = Field(description="Width of the residual stream.")
    vocab_size: int = Field(description="Number of token ids.")
    chat_template: bool = Field(description="Whether its tokenizer has a chat template.")
    source_sets: list[SourceSetInfo] = Field(description="Its source sets.")
    runners: list[RunnerInfo] = Field(description="Deployments that run it.")
    limits: Limits = Field(description="How much one request to it may ask for.")


class OpenAIModelInfo(WireModel):
    """One model as OpenAI's clients know it, in its snake_case keys."""

    model_config = ConfigDict(alias_generator=None)

    id: str = Field(description="Name to use in requests.")
    object: Literal["model"] = Field(default="model", description="Always model.")
    created: int = Field(default=0, description="Always 0: weights do not say when they were made.")
    owned_by: str = Field(default="rayscope", description="Always rayscope.")


class TranscoderSetInfo(WireModel):
    """A set of transcoders that graphs are made with."""

    model: str = Field(description="Name of its model.")
    transcoder_set: str = Field(description="Its name; graph requests may ask for it.")
    n_layers: int = Field(description="Layers.")
    n_features: int = Field(description="Features of each layer.")
    token_limit: int = Field(description="Most tokens of a graph's prompt.")
    max_feature_nodes: int = Field(description="Most features of a graph.")


class ModelsResponse(WireModel):
    """Answer of /v1/models: the models, and the same list as OpenAI's clients read it."""

    object: Literal["list"] = Field(default="list", description="Always list; for OpenAI's clients.")
    models: list[ModelInfo] = Field(description="The models, by name.")
    transcoder_sets: list[TranscoderSetInfo] = Field(default=[], description="What graphs can be made with.")
    data: list[OpenAIModelInfo] = Field(description="The same models as OpenAI's clients know them.")


class _SnakeOnly(WireModel):
    model_config = ConfigDict(alias_generator=None)


class SaeCache(_SnakeOnly):
    """What of the SAEs is in memory."""

    enabled: bool = Field(description="Whether SAEs are held within a budget.")
    budget_bytes: int = Field(description="Device bytes that SAEs may take.")
    resident_bytes: int = Field(description="Device bytes that they take.")
    resident_count: int = Field(description="SAEs on the device.")
    registered_count: int = Field(description="SAEs that can be asked for.")
    host_bytes: int = Field(description="Bytes of SAEs in host memory.")
    pinned_bytes: int = Field(description="Those of them in page-locked memory.")
    hits: int = Field(description="Requests that found their SAE on the device.")
    misses: int = Field(description="Requests that had to load it.")
    evictions: int = Field(description="SAEs dropped to make room.")


class Endpoints(_SnakeOnly):
    """Which routes this model can answer."""

    tokenize: bool = Field(description="/v1/tokenize.")
    activation_single: bool = Field(description="/v1/activation/single and -batch.")
    activation_all: bool = Field(description="/v1/activation/all and -batch.")
    activation_source: bool = Field(description="/v1/activation/source.")
    activation_raw: bool = Field(description="/v1/activation/raw.")
    activation_topk_by_token: bool = Field(description="/v1/activation/topk-by-token and -batch.")
    activation_attention: bool = Field(description="/v1/activation/attention.")
    dfa: bool = Field(description="Direct feature attribution.")
    steer_completion: bool = Field(description="/v1/steer/completion.")
    steer_completion_chat: bool = Field(description="/v1/steer/completion-chat.")
    lens_logit: bool = Field(description="/v1/lens/prompt with the logit lens.")
    lens_jacobian: bool = Field(description="/v1/lens/prompt with the Jacobian lens.")
    neurons: bool = Field(description="MLP neurons as a source set.")


class CapabilitiesResponse(_SnakeOnly):
    """Answer of /v1/capabilities: the peer's description of one model, in its snake_case keys."""

    model: str = Field(description="The model described.")
    backend: str = Field(description="Engine that runs it: eager or vllm.")
    device: str = Field(description="Kind of device that runs it.")
    max_concurrent_requests: int = Field(description="Requests worked on at once.")
    max_tokens: int | None = Field(description="Tokens of a prompt and its completion together.")
    token_limit: int = Field(description="Tokens in a prompt.")
    lens_token_limit: int = Field(description="Tokens in a prompt of the lens.")
    activation_token_limit: int = Field(description="Tokens in a prompt of the activation routes.")
    vram_budget_bytes: int = Field(description="Device bytes for requests; 0 means unrationed.")
    vram_budget_available_bytes: int = Field(description="Those of them that are free.")
    sae_cache: SaeCache = Field(description="SAEs in memory, and how often they were found there.")
    max_num_results: int = Field(description="Features in one result.")
    capture_points: list[str] = Field(description="Points that can be read.")
    grad_support: dict[str, Any] | str = Field(description="What can be differentiated.")
    hooks_available: bool = Field(description="Whether any hook point can be read.")
    graph_replay: bool = Field(description="Whether CUDA graphs are replayed.")
    generation_only: bool = Field(description="Whether the instance only generates text.")
    static_points: list[str] = Field(description="Read sites that are compiled in.")
    static_writes: list[str] = Field(description="Write sites that are compiled in.")
    frozen_points: list[str] = Field(description="Older name of `static_points`.")
    writes_available: list[str] = Field(description="Older name of `static_writes`.")
    num_layers: int = Field(description="Number of layers.")
    sae_sets: list[str] = Field(description="Source sets.")
    endpoints: Endpoints = Field(description="Which routes it can answer.")


class ErrorBody(WireModel):
    """Why a request was refused or failed."""

    wire_case: ClassVar[Case | None] = "camel"

    error: _Message = Field(description="What happened.")
    code: str = Field(description="Kind of error, for programs.")
    hint: _Message | None = Field(description="What to do about it.")
    request_id: str = Field(description="Name of this request in the cluster's logs.")


class DetailedErrorBody(ErrorBody):
    """The same where peers have clients: some look for `error`, others for `detail`."""

    @computed_field(description="The same as `error`.")
    @property
    def detail(self) -> str:
        """The same as `error`."""
        return self.error


class SchemaProblem(WireModel):
    """One way in which a body does not fit its schema."""

    loc: list[_Message | int] = Field(description="Where: keys and positions from the body inwards.")
    msg: _Message = Field(description="What is wrong there.")
    type: str = Field(description="Kind of problem, for programs.")


class SchemaErrorBody(ErrorBody):
    """Why a body was refused with status 422."""

    detail: list[SchemaProblem] = Field(description="The problems, in the order they were found.")


def schema_problems(errors: Iterable[Mapping[str, Any]]) -> list[SchemaProblem]:
    """Keep of pydantic's errors what is safe to send back: neither inputs nor their context."""
    return [SchemaProblem(loc=list(error["loc"]), msg=error["msg"], type=error["type"]) for error in errors]
