"""Bodies of jobs: explain and score many features in the background.

POST   /v1/autointerp/jobs                  JobRequest -> 202 JobResponse
POST   /v1/autointerp/jobs/estimate         JobRequest -> EstimateResponse
GET    /v1/autointerp/jobs                  JobListResponse
GET    /v1/autointerp/jobs/{id}             JobResponse
PATCH  /v1/autointerp/jobs/{id}             JobChangeRequest -> JobResponse
DELETE /v1/autointerp/jobs/{id}             JobDeletedResponse
GET    /v1/autointerp/jobs/{id}/events      server-sent events
GET    /v1/autointerp/jobs/{id}/results     lines of JobResultLine, or a parquet file
POST   /v1/autointerp/jobs/{id}/pause, /resume, /cancel -> JobResponse

A step's own parameters are in `params`, as on the typed routes. A key in a request is used for the job and held in
memory only: it is in no reply, no file and no log.
"""

from typing import Annotated, Any, Final, Literal

from pydantic import Field, SecretStr, Strict, StrictBool, StrictInt, StrictStr, WithJsonSchema

from core.wire.autointerp import ProviderChoice, UsageBody
from core.wire.autointerp_types import SamplingBody
from core.wire.base import Number, RequestModel, WireModel
from core.wire.prompts import examples

_Index = Annotated[StrictInt, Field(ge=0, lt=2**31)]
_Positive = Annotated[Number, Field(gt=0)]
_Count = Annotated[StrictInt, Field(ge=1, lt=2**53)]
_Key = Annotated[SecretStr | None, Strict(), WithJsonSchema({"type": "string"})]
_DEMO: Final[dict[str, Any]] = {
    "modelId": "rayscope-demo",
    "saeIds": ["2-res-demo"],
    "latents": {"kind": "random", "count": 10},
    "explainers": [{"type": "default"}],
    "scorers": [{"type": "detection"}, {"type": "fuzz"}],
    "model": "rayscope-demo-oracle",
    "provider": "local",
    "cache": {"name": "demo", "make": {"demoDocuments": 2000, "nTokens": 65536, "contextTokens": 64}},
}


class StepBody(RequestModel):
    """One explainer or scorer."""

    type: StrictStr = Field(description="Its type, as `GET /v1/autointerp/types` lists it, or an alias.")
    params: dict[str, Any] = Field(default_factory=dict, description="The type's parameters.")
    label: StrictStr = Field(default="", description="Tells it from another of the same type; by default the type.")


class LatentsBody(RequestModel):
    """Which latents of each source."""

    kind: Literal["all", "range", "list", "random"] = Field(default="all", description="How they are chosen.")
    start: _Index = Field(default=0, description="First latent of a range.")
    stop: _Index | None = Field(default=None, description="The one after its last; null: to the end.")
    indices: list[_Index] = Field(default_factory=list, description="The list.")
    count: _Count | None = Field(default=None, description="Latents at most, of each source; needed for `random`.")
    seed: _Index = Field(default=0, description="Gives another draw.")
    alive_only: StrictBool = Field(default=True, description="Leave out latents that never fire in the cache.")


class JobSamplingBody(SamplingBody):
    """How a latent's examples are chosen."""

    n_quantiles: StrictInt = Field(default=10, ge=1, le=100, description="Parts of a feature's range.")
    min_examples: StrictInt = Field(default=2, ge=1, description="Different active texts that a latent needs.")
    sampler: Literal["rayscope", "delphi-legacy"] = Field(
        default="rayscope", description="Ours, or delphi 0.1.3's own choice, for comparing numbers."
    )
    silent: Literal["random", "similar-features"] = Field(
        default="random", description="Silent texts at random, or those where similar features fire."
    )


class DatasetBody(RequestModel):
    """A Hugging Face data set."""

    repo: StrictStr = Field(pattern=r"^[\w-][\w.-]*(/[\w-][\w.-]*)?$", description="Repository id.")
    split: StrictStr = Field(default="train", description="Split; slices such as train[:1%] are allowed.")
    name: StrictStr | None = Field(default=None, description="Configuration, if it has several.")
    column: StrictStr = Field(default="text", description="Column that holds the text.")
    revision: StrictStr | None = Field(default=None, description="Commit or branch.")


class CacheMakingBody(RequestModel):
    """How a cache of activations is made that is not there yet: over one of three kinds of texts."""

    dataset: DatasetBody | None = Field(default=None, description="A data set.")
    files: list[StrictStr] | None = Field(default=None, description="Files of the cluster, below its `corpora`.")
    demo_documents: _Count | None = Field(default=None, description="So many documents of the demo's micro-world.")
    text_seed: _Index = Field(default=0, description="Which documents of the demo's.")
    text_column: StrictStr = Field(default="text", description="Field of `files` that holds the text.")
    n_tokens: _Count = Field(description="Tokens to read.")
    context_tokens: StrictInt = Field(default=256, ge=2, le=2**16, description="Tokens of a window.")
    example_tokens: StrictInt = Field(default=32, ge=1, description="Tokens of an example; windows are cut into these.")
    top: StrictInt = Field(default=40, ge=1, le=10_000, description="Strongest examples kept of each latent.")
    per_octave: StrictInt = Field(default=12, ge=1, le=1000, description="Random examples kept of each octave.")
    silent_pool: StrictInt = Field(default=512, ge=1, description="Random windows that silent ones are taken from.")
    threshold: Annotated[Number, Field(ge=0)] = Field(default=0.0, description="Activations above it are kept.")


class CacheBody(RequestModel):
    """Where examples come from."""

    name: StrictStr = Field(description="Name of the cache.")
    make: CacheMakingBody | None = Field(default=None, description="How to make it; null: it has to be there.")


class JudgeBody(RequestModel):
    """Another language model, which judges."""

    model: StrictStr = Field(description="Its name, as its provider has it.")
    provider: Literal["openrouter", "local"] = Field(default="openrouter", description="Who has it.")
    base_url: StrictStr | None = Field(default=None, description="Another provider's address.")


class JobRequest(ProviderChoice):
    """Many features to be explained and scored in the background."""

    model_config = examples(_DEMO, _DEMO | {"budgetUsd": 1.5, "baselines": ["random-explanation"]})

    model_id: StrictStr = Field(description="Model whose features are explained.")
    sae_ids: list[StrictStr] = Field(description="Sources, such as 7-res-jb.")
    latents: LatentsBody = Field(default_factory=LatentsBody, description="Which latents of each source.")
    explainers: list[StepBody] = Field(default_factory=list[StepBody], description="How they are explained.")
    scorers: list[StepBody] = Field(
        default_factory=list[StepBody], description="How explanations, and latents, are scored."
    )
    cache: CacheBody = Field(description="Where examples come from.")
    sampling: JobSamplingBody = Field(default_factory=JobSamplingBody, description="How they are chosen.")
    model: StrictStr | None = Field(
        default=None, description="Which language model explains and judges, as its provider calls it."
    )
    judge: JudgeBody | None = Field(default=None, description="Another that judges, asked by the same key.")
    baselines: list[Literal["random-explanation", "random-sae"]] = Field(
        default_factory=list[Literal["random-explanation", "random-sae"]],
        description="Score other latents' explanations, and an SAE without learned directions, too.",
    )
    budget_usd: _Positive | None = Field(default=None, description="Dollars that it may cost; needs a known price.")
    max_tokens_total: _Count | None = Field(default=None, description="Tokens that it may take, read and written.")
    deadline: _Positive | None = Field(
        default=None, description="Seconds since 1970 after which nothing is begun any more."
    )
    concurrency: StrictInt = Field(default=64, ge=1, le=10_000, description="Units of work at once.")
    priority: StrictInt = Field(default=0, ge=-1000, le=1000, description="Jobs with a higher one go first.")
    force: StrictBool = Field(default=False, description="Ask anew what was answered before.")
    seed: _Index = Field(default=0, description="Of baselines.")
    pause_after: StrictInt = Field(
        default=10, ge=1, description="So many first units that all fail alike pause the job."
    )


class JobChangeRequest(RequestModel):
    """What is to be different about a job; null leaves a thing as it is."""

    model_config = examples({"budgetUsd": 5.0}, {"concurrency": 128})

    budget_usd: _Positive | None = Field(default=None, description="Dollars that it may cost in all.")
    max_tokens_total: _Count | None = Field(default=None, description="Tokens that it may take in all.")
    concurrency: StrictInt | None = Field(default=None, ge=1, le=10_000, description="Units of work at once.")
    priority: StrictInt | None = Field(default=None, ge=-1000, le=1000, description="Its priority.")
    deadline: _Positive | None = Field(default=None, description="Seconds since 1970.")


class JobResumeRequest(RequestModel):
    """A job that is to go on."""

    openrouter_key: _Key = Field(
        default=None, repr=False, description="Key for the provider, if the job needs one that is not here any more."
    )


class CachingBody(WireModel):
    """How far a cache is."""

    stage: str = Field(description="recording or distilling.")
    done: int = Field(description="Windows or latents done.")
    of: int = Field(description="How many there are.")
    tokens_per_s: float | None = Field(description="Tokens recorded per second; null while unknown.")
    eta_s: float | None = Field(description="Seconds that the stage still takes; null while unknown.")


class JobResponse(WireModel):
    """A job."""

    job_id: str = Field(description="Its name.")
    status: str = Field(
        description="queued, running, paused, paused_budget, paused_credits, paused_key, succeeded, failed, cancelled."
    )
    reason: str | None = Field(description="Why it is paused or has failed.")
    model_id: str = Field(description="Model whose features are explained.")
    sae_ids: list[str] = Field(description="Sources.")
    stages: list[str] = Field(description="What is done with each latent.")
    total: int | None = Field(description="Units of work; null while they are not known.")
    done: int = Field(description="Units that were done.")
    failed: int = Field(description="Units that failed.")
    skipped: int = Field(description="Units with nothing to do.")
    in_flight: int = Field(description="Units in progress.")
    units_per_s: float | None = Field(description="Units that end per second; null while unknown.")
    eta_s: float | None = Field(description="Seconds that it still takes; null while unknown.")
    caching: CachingBody | None = Field(description="How far its cache is, while it is made.")
    usage: UsageBody = Field(description="What its results cost.")
    spent_tokens: int = Field(description="Tokens that its account was charged with, failures included.")
    spent_usd: float = Field(description="Dollars likewise.")
    budget_usd: float | None = Field(description="Dollars that it may cost.")
    max_tokens_total: int | None = Field(description="Tokens that it may take.")
    concurrency: int = Field(description="Units at once.")
    priority: int = Field(description="Its priority.")
    deadline: float | None = Field(description="Seconds since 1970 after which nothing is begun.")
    created_at: float = Field(description="When it was asked for, seconds since 1970.")
    started_at: float | None = Field(description="When it was first worked on.")
    ended_at: float | None = Field(description="When it ended.")
    last_event_id: int = Field(description="Number of its newest event.")


class JobListResponse(WireModel):
    """Jobs, newest first."""

    jobs: list[JobResponse] = Field(description="The jobs.")
    next: str | None = Field(description="What to send as `before` for older ones; null: there are none.")


class JobDeletedResponse(WireModel):
    """A job that is forgotten."""

    job_id: str = Field(description="Its name.")
    deleted: bool = Field(description="Whether it is gone.")


class EstimateResponse(WireModel):
    """What a job will take."""

    latents: int = Field(description="Latents.")
    units: int = Field(description="Units of work.")
    calls: int = Field(description="Questions to language models.")
    prompt_tokens: int = Field(description="Tokens read.")
    completion_tokens: int = Field(description="Tokens written, as answers of the kind usually have.")
    most_completion_tokens: int = Field(description="Tokens written at most.")
    usd: float | None = Field(description="Dollars; null if nobody knows a model's price.")
    most_usd: float | None = Field(description="Dollars at most.")
    minutes: float = Field(description="At two seconds a call and the limits that are known.")
    sampled: int = Field(description="Latents whose real questions were counted; 0: their cache is not there yet.")
    left_out: dict[str, str] = Field(description="Stages that could not be counted, and why.")


class JobResultLine(WireModel):
    """What came of one unit of work."""

    cursor: int = Field(description="What to send as `cursor` for all that came later.")
    model: str = Field(description="Model.")
    source: str = Field(description="Source.")
    index: int = Field(description="Latent.")
    stage: str = Field(description="What was done.")
    kind: str = Field(description="explain or score.")
    explainer: str | None = Field(description="Label of the explainer whose explanation it is.")
    scorer: str | None = Field(description="Label of the scorer.")
    baseline: str | None = Field(description="Whether it is a baseline's, and which.")
    state: str = Field(description="done, failed or skipped.")
    attempts: int = Field(description="How often it was tried.")
    code: str | None = Field(description="What kind of failure, or why it was skipped.")
    reason: str | None = Field(description="The same in words.")
    explanation: str | None = Field(description="The explanation.")
    alternatives: list[str] | None = Field(description="Others that were considered.")
    prompt_hash: str | None = Field(description="sha256 of what was asked.")
    value: float | None = Field(description="The score; null if it would tell nothing.")
    metric: str | None = Field(description="What it is a figure of.")
    status: str | None = Field(description="ok, partial, invalid, or parse_failed.")
    ci_low: float | None = Field(description="Lower end of its 95 % interval.")
    ci_high: float | None = Field(description="Upper end.")
    metrics: dict[str, float] | None = Field(description="All figures of the score.")
    by_quantile: dict[str, float] | None = Field(description="The score on each part of the feature's range.")
    n_rows: int | None = Field(description="Rows that were judged.")
    n_failed_rows: int | None = Field(description="Rows that nobody could read a judgement of.")
    explanation_of: int | None = Field(description="Whose explanation was scored, for the random one.")
    prompt_tokens: int | None = Field(description="Tokens read.")
    completion_tokens: int | None = Field(description="Tokens written.")
    cost_usd: float | None = Field(description="Dollars.")
    calls: int | None = Field(description="Answers.")
    retries: int | None = Field(description="Attempts that failed before them.")
    cached: int | None = Field(description="Answers that came from the cache.")
    at_s: float = Field(description="When, seconds since 1970.")
