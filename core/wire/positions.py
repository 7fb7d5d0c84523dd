"""Bodies of `/v1/activation/source` and `topk-by-token`: the features of one source, token by token."""

from typing import Annotated, ClassVar, Final

from pydantic import Field, StrictBool, StrictInt, StrictStr, WithJsonSchema

from core.wire.base import Case, RequestModel, WireModel
from core.wire.prompts import DEMO_PROMPTS, PromptBatch, examples

DEFAULT_TOP_K: Final = 5


class ActivationSourceRequest(PromptBatch):
    """Every active feature of one source, for each of several prompts."""

    model_config = examples({"prompts": DEMO_PROMPTS, "model": "rayscope-demo", "source": "0-res-demo"})

    model: StrictStr = Field(description="Model to run: a name or alias from /v1/models.")
    source: StrictStr = Field(description="Source whose features to report.")


# The published schema says two numbers; the first is a token index and travels as an integer.
_TokenValue = Annotated[
    tuple[int, float],
    WithJsonSchema({"type": "array", "items": {"type": "number"}, "minItems": 2, "maxItems": 2}),
]


class ActivationSourceResult(WireModel):
    """Answer for one prompt."""

    tokens: list[str] = Field(description="The prompt's tokens, BOS included.")
    active_features: dict[str, list[_TokenValue]] | None = Field(
        default=None,
        description="For each active feature index, its [token index, activation] pairs, BOS left out.",
    )


class ActivationSourceResponse(WireModel):
    """Answer of /v1/activation/source. Even the snake_case clients read `activeFeatures`."""

    wire_case: ClassVar[Case | None] = "camel"

    results: list[ActivationSourceResult] = Field(description="One result per prompt, in order.")


class TopKByToken(RequestModel):
    """The part of a request that asks for the strongest features at each token."""

    model: StrictStr = Field(description="Model to run: a name or alias from /v1/models.")
    source: StrictStr = Field(description="Source whose features to rank.")
    top_k: StrictInt | None = Field(
        default=None,
        description="Features per token; null means 5. Clamped to at least 1 and at most the source's width.",
    )
    ignore_bos: StrictBool = Field(description="Leave the first token out of the results.")

    def k(self, maximum: int) -> int:
        """Features per token: `topK` clamped to `[1, maximum]`, as the peer clamps it."""
        return max(1, min(DEFAULT_TOP_K if self.top_k is None else self.top_k, maximum))


class ActivationTopkByTokenRequest(TopKByToken):
    """The strongest features of one source at each token of a prompt."""

    model_config = examples(
        {
            "prompt": DEMO_PROMPTS[0],
            "model": "rayscope-demo",
            "source": "0-res-demo",
            "topK": 3,
            "ignoreBos": True,
        }
    )

    prompt: StrictStr = Field(description="The prompt.")


class ActivationTopkByTokenBatchRequest(PromptBatch, TopKByToken):
    """The strongest features of one source at each token of several prompts."""

    model_config = examples(
        {
            "prompts": DEMO_PROMPTS,
            "model": "rayscope-demo",
            "source": "0-res-demo",
            "topK": 3,
            "ignoreBos": True,
        }
    )


class ActivationTopkByTokenFeature(WireModel):
    """One feature at one token."""

    feature_index: int = Field(description="Index of the feature in its source.")
    activation_value: float = Field(description="Its activation at this token.")


class ActivationTopkByTokenResult(WireModel):
    """The strongest features at one token."""

    token_position: int = Field(description="Position in the whole prompt, BOS included.")
    token: str = Field(description="The token.")
    is_special: bool = Field(description="Whether it is BOS, EOS, padding, a chat turn marker or the like.")
    top_features: list[ActivationTopkByTokenFeature] = Field(description="Strongest first, zeros included.")


class ActivationTopkByTokenBatchResult(WireModel):
    """Answer for one prompt."""

    results: list[ActivationTopkByTokenResult] = Field(description="One entry per token.")
    tokens: list[str] = Field(description="The tokens of `results`.")


class ActivationTopkByTokenResponse(ActivationTopkByTokenBatchResult):
    """Answer of /v1/activation/topk-by-token."""


class ActivationTopkByTokenBatchResponse(WireModel):
    """Answer of /v1/activation/topk-by-token-batch."""

    results: list[ActivationTopkByTokenBatchResult] = Field(description="One result per prompt, in order.")
