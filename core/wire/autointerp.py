"""Bodies of the automatic interpretability routes that the peer has: explain a feature, score an explanation.

Names, types and strictness are the published ones. The peer replies in camelCase whatever it was sent; here a reply is
in the casing of the request, because the published Python client writes snake_case and reads nothing else.

Ours, all optional: how the judge is asked (`seed`, `temperature`, `maxTokens`, `promptStyle`, `showActivations`), which
one (`provider`, `baseUrl`, `embeddingModel`), and in replies `usage`, `nFailed`, `requestId`. The key may be left out
where the cluster has its own, comes in a header, or no provider is asked. It is a `SecretStr`: it shows in no
representation, no error and no dump.

Whether there are as many values as tokens, and enough of either kind of example, is checked by `core.exchange`.
"""

from enum import StrEnum
from typing import Annotated, Any, Final, Literal, TypeAlias

from pydantic import Field, SecretStr, Strict, StrictInt, StrictStr, WithJsonSchema

from core.wire.base import Number, RequestModel, WireModel
from core.wire.prompts import examples

# The document calls it a string; a masked default would say nothing.
_Key: TypeAlias = Annotated[SecretStr | None, Strict(), WithJsonSchema({"type": "string"})]

FRENCH: Final[list[dict[str, Any]]] = [
    {"tokens": ["Le", " chat", " dort"], "values": [0.0, 4.5, 0.5]},
    {"tokens": ["Un", " chat", " noir"], "values": [0.0, 4, 0]},
    {"tokens": ["The", " dog", " runs"], "values": [0, 0, 0]},
]
"""Activations of an imagined feature that fires on French cats."""
_ASKED: Final[dict[str, Any]] = {"openrouterKey": "YOUR_OPENROUTER_KEY", "model": "openai/gpt-4o-mini"}


class NPActivation(RequestModel):
    """One text: its tokens and how strongly the feature fires at each."""

    tokens: list[StrictStr] = Field(description="Texts of the tokens.")
    values: list[Number] = Field(description="The feature's activation at each token.")


class ProviderChoice(RequestModel):
    """Who answers, and by whose key."""

    openrouter_key: _Key = Field(
        default=None,
        repr=False,
        description="Key for the provider. May be left out where the cluster has one, in favour of the header "
        "X-OpenRouter-Key, or with provider `local`.",
    )
    provider: Literal["openrouter", "local"] = Field(
        default="openrouter", description="Who answers: a provider outside, or a model of this cluster."
    )
    base_url: StrictStr | None = Field(
        default=None, description="Another OpenAI-compatible provider's address, of those that the cluster allows."
    )


class _Asking(ProviderChoice):
    """What the routes share that ask a language model."""

    activations: list[NPActivation] = Field(description="The texts.")
    model: StrictStr = Field(description="Which language model, as its provider calls it.")
    temperature: Annotated[Number, Field(ge=0, le=2)] | None = Field(
        default=None, description="Randomness of the answers; null: 1, as the peer asks."
    )
    max_tokens: Annotated[StrictInt, Field(ge=1)] | None = Field(
        default=None, description="Tokens of an answer at most; null: 500, as the peer asks."
    )
    seed: Annotated[StrictInt, Field(ge=0, lt=2**53)] | None = Field(
        default=None, description="Makes order and marks repeatable, and answers where the provider can."
    )
    prompt_style: Literal["neuronpedia", "delphi"] = Field(
        default="neuronpedia", description="Whose wording: the peer's, or that of delphi 0.1.3."
    )


class ExplainDefaultRequest(_Asking):
    """Texts where a feature fires, to be explained."""

    model_config = examples({"activations": FRENCH[:2], **_ASKED}, {"activations": FRENCH[:2], **_ASKED, "seed": 1})

    show_activations: bool = Field(
        default=False, strict=True, description="Whether the explainer sees numbers, not only which tokens are marked."
    )


class ScoreFuzzDetectionType(StrEnum):
    """Whether the judge is asked of marked tokens or of whole texts."""

    FUZZ = "FUZZ"
    DETECTION = "DETECTION"


class ScoreFuzzDetectionRequest(_Asking):
    """An explanation to be judged by a language model."""

    model_config = examples(
        {"activations": FRENCH, "explanation": "Cats in French text", **_ASKED, "type": "DETECTION"},
        {"activations": FRENCH, "explanation": "Cats in French text", **_ASKED, "type": "FUZZ", "temperature": 0},
    )

    explanation: StrictStr = Field(description="The explanation.")
    type: ScoreFuzzDetectionType = Field(description="FUZZ or DETECTION.")


class ScoreEmbeddingRequest(RequestModel):
    """An explanation to be judged by the similarity of embeddings."""

    model_config = examples({"activations": FRENCH, "explanation": "Cats in French text"})

    activations: list[NPActivation] = Field(description="The texts.")
    explanation: StrictStr = Field(description="The explanation.")
    embedding_model: StrictStr | None = Field(
        default=None, description="Which embedding model, of those that are served; null: the cluster's own."
    )


class UsageBody(WireModel):
    """What the answers cost."""

    prompt_tokens: int = Field(description="Tokens read.")
    completion_tokens: int = Field(description="Tokens written.")
    cost_usd: float | None = Field(description="Dollars; null if nobody knows.")
    calls: int = Field(description="Answers.")
    retries: int = Field(description="Attempts that failed before them.")
    cached: int = Field(description="Answers that came from the cache and cost nothing.")


class _Reply(WireModel):
    request_id: str | None = Field(default=None, description="Name of this request in logs.")


class ExplainDefaultResponse(_Reply):
    """An explanation."""

    explanation: str = Field(description="What the texts have in common, in words.")
    usage: UsageBody | None = Field(default=None, description="What it cost.")


class ScoreFuzzDetectionBreakdownItem(WireModel):
    """One text as it was judged."""

    str_tokens: list[str] | None = Field(default=None, description="Its tokens.")
    activations: list[float] | None = Field(default=None, description="The feature's activations.")
    distance: int | None = Field(default=None, description="1 where it fires, -1 where it does not.")
    ground_truth: bool | None = Field(default=None, description="Whether the feature fires in it.")
    prediction: bool | None = Field(default=False, description="What the judge said; false, too, if nothing usable.")
    highlighted: bool | None = Field(default=False, description="Whether tokens were marked.")
    probability: float | None = Field(default=0.0, description="The judge's probability; 0 if there is none.")
    correct: bool | None = Field(default=False, description="Whether the judge was right.")


class ScoreFuzzDetectionResponse(_Reply):
    """A score by a language model."""

    score: float = Field(description="Balanced accuracy over the texts that were judged.")
    breakdown: list[ScoreFuzzDetectionBreakdownItem] = Field(description="All texts, in the order they were asked.")
    n_failed: int | None = Field(default=None, description="Texts that the judge gave no usable answer on.")
    usage: UsageBody | None = Field(default=None, description="What it cost.")


class ScoreEmbeddingBreakdownItem(WireModel):
    """One text and how near it is."""

    text: str = Field(description="The text.")
    distance: int = Field(description="1 where the feature fires, -1 where it does not.")
    similarity: float = Field(description="Cosine with the explanation.")


class ScoreEmbeddingResponse(_Reply):
    """A score by embeddings."""

    score: float = Field(description="Area under the ROC curve of the similarities.")
    breakdown: list[ScoreEmbeddingBreakdownItem] = Field(description="All texts.")
