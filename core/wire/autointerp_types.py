"""Bodies of the typed automatic interpretability routes: which types there are, and to explain or score by any of them.

Examples come in the body, or the server takes them from a cache of activations (`source`). A type's own parameters are
in `params`; `GET /v1/autointerp/types` has their schemas. Unlike on the peer's routes, a result that is none says so:
an explanation that could not be read is null with status `parse_failed`, a score that rests on too little null with
status `invalid` and a reason.
"""

from typing import Any, Final, Literal

from pydantic import Field, StrictBool, StrictInt, StrictStr

from core.wire.autointerp import FRENCH, ProviderChoice, UsageBody
from core.wire.base import Number, RequestModel, WireModel
from core.wire.prompts import examples

_ASKED: Final[dict[str, Any]] = {"openrouterKey": "YOUR_OPENROUTER_KEY", "model": "openai/gpt-4o-mini"}
_SOURCE: Final[dict[str, Any]] = {"modelId": "rayscope-demo", "saeId": "2-res-demo", "index": 17}
_ORACLE: Final[dict[str, Any]] = {"model": "rayscope-demo-oracle", "provider": "local"}


class TypedActivation(RequestModel):
    """One text: its tokens and how strongly the feature fires at each."""

    tokens: list[StrictStr] = Field(description="Texts of the tokens.")
    values: list[Number] = Field(description="The feature's activation at each token.")
    quantile: StrictInt | None = Field(
        default=None, ge=1, description="Which part of the feature's range it comes from, 1 the weakest."
    )
    is_activating: StrictBool | None = Field(
        default=None, description="Whether the feature fires in it; null: if a value is above 0."
    )


class FeatureSource(RequestModel):
    """A feature whose examples the server has."""

    model_id: StrictStr = Field(description="Model.")
    sae_id: StrictStr = Field(description="Source, such as 7-res-jb.")
    index: StrictInt = Field(ge=0, description="Index of the feature there.")


class SamplingBody(RequestModel):
    """How many of the examples that the server has are used."""

    n_train: StrictInt = Field(default=40, ge=1, le=1000, description="Texts to explain by, at most.")
    n_test: StrictInt = Field(default=50, ge=0, le=1000, description="Active texts to judge on, at most.")
    n_silent: StrictInt = Field(default=50, ge=0, le=1000, description="Silent texts to judge on, at most.")
    train_type: Literal["top", "random", "quantiles", "mix"] = Field(
        default="top", description="Whether the strongest texts explain, any, some of each quantile, or a mix."
    )
    seed: StrictInt = Field(default=22, ge=0, lt=2**53, description="Gives another draw.")


class _TypedRequest(ProviderChoice):
    activations: list[TypedActivation] | None = Field(
        default=None, description="The texts; null: the server's own of `source`."
    )
    source: FeatureSource | None = Field(default=None, description="The feature, if the server has its texts.")
    sampling: SamplingBody | None = Field(default=None, description="How the server's texts are chosen.")
    top_logits: list[StrictStr] | None = Field(
        default=None, description="Tokens whose logits the feature raises most; null: those that the server has."
    )
    bottom_logits: list[StrictStr] | None = Field(default=None, description="Tokens whose logits it lowers most.")
    model: StrictStr | None = Field(
        default=None, description="Which language model, as its provider calls it; not every type asks one."
    )
    params: dict[str, Any] = Field(default_factory=dict, description="The type's parameters.")
    force: StrictBool = Field(default=False, description="Ask anew what was answered before.")


class ExplainTypedRequest(_TypedRequest):
    """A feature to be explained by any type of explainer."""

    model_config = examples(
        {"activations": FRENCH, **_ASKED, "params": {"temperature": 0.5}},
        {"source": _SOURCE, **_ORACLE},
    )


class ScoreTypedRequest(_TypedRequest):
    """An explanation, or a feature, to be scored by any type of scorer."""

    model_config = examples(
        {"activations": FRENCH, "explanation": "Cats in French text", **_ASKED},
        {"source": _SOURCE, "explanation": "Cats in French text", **_ORACLE},
    )

    explanation: StrictStr | None = Field(
        default=None, description="The explanation; a scorer of features does without."
    )


class ExplainTypedResponse(WireModel):
    """An explanation."""

    explanation: str | None = Field(description="What the feature stands for; null if no answer could be read.")
    status: Literal["ok", "parse_failed"] = Field(description="Whether there is an explanation.")
    alternatives: list[str] = Field(description="Other explanations that were considered, best first.")
    prompt_hash: str = Field(description="sha256 of what was asked, to tell results of different prompts apart.")
    usage: UsageBody = Field(description="What it cost.")
    request_id: str = Field(description="Name of this request in logs.")


class QuantileScore(WireModel):
    """The score on one part of the feature's range."""

    quantile: int = Field(description="Which part, 1 the weakest.")
    score: float = Field(description="The figure there.")


class ScoreTypedResponse(WireModel):
    """A score."""

    score: float | None = Field(description="The figure; null if it would tell nothing.")
    metric: str = Field(description="What it is a figure of.")
    status: Literal["ok", "partial", "invalid"] = Field(
        description="ok if every row was judged, partial if some were not, invalid if too many."
    )
    reason: str | None = Field(description="Why it is invalid.")
    ci95: tuple[float, float] | None = Field(description="The score's 95 % interval, where it has one.")
    metrics: dict[str, float] = Field(description="All figures that the rows have.")
    by_quantile: list[QuantileScore] = Field(description="The score on each part of the feature's range.")
    n_failed: int = Field(description="Rows that nobody could read a judgement of.")
    breakdown: list[dict[str, Any]] = Field(
        description="What was judged, in the order asked; `kind` says which fields a row has."
    )
    usage: UsageBody = Field(description="What it cost.")
    request_id: str = Field(description="Name of this request in logs.")


class TypeBody(WireModel):
    """One explainer or scorer."""

    type: str = Field(description="Its name in routes.")
    summary: str = Field(description="What it does.")
    needs: list[str] = Field(description="What it can not do without.")
    cost: str = Field(description="What a feature costs by it.")
    aliases: list[str] = Field(description="Names that others know it by, which work too.")
    parameters: dict[str, Any] = Field(description="JSON schema of `params`, with defaults.")
    available: bool = Field(description="Whether this cluster has what it needs besides a language model.")


class TypesResponse(WireModel):
    """All types of explainers and scorers."""

    explainers: list[TypeBody] = Field(description="Explainers.")
    scorers: list[TypeBody] = Field(description="Scorers.")
    embedding_model: str | None = Field(description="The embedding model that is served; null if there is none.")
    local_models: list[str] | None = Field(
        description="Models of the cluster that may be asked by provider `local`; null: every one that is served."
    )
    base_url: str = Field(description="Where a model outside is, unless a request says otherwise.")
    own_keys: list[str] = Field(description="Addresses that the cluster has a key of its own for.")
