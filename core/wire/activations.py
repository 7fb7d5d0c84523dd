"""Bodies of `/v1/activation/*`: what features, vectors, attention heads and residual streams do on a prompt.

Names, types and strictness are the published ones of the peer (`tests/contract/data/inference.json`);
`featureFilter` is ours. What JSON schema can say is a schema error (422); what it cannot, and what needs no knowledge
of the cluster, is a method here that raises `InvalidRequest` (400) in the peer's words. Range checks against a model
(number of layers, of tokens) take that number as an argument.

The peer cuts every batch at four prompts; here the limit is the caller's, because a batcher sits behind it.
"""

import re
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Final

from pydantic import ConfigDict, Field, StrictBool, StrictInt, StrictStr, WithJsonSchema

from core.errors import InvalidRequest
from core.wire.base import Case, Number, RequestModel, WireModel

DEFAULT_NUM_RESULTS: Final = 25
DEFAULT_TOP_K: Final = 5

_DECIMAL: Final = re.compile(r"[0-9]{1,18}")
_RAW_HOOK_POINT: Final = "residual_stream"
_RAW_TYPE: Final = "final_output_token"

_DEMO_PROMPTS: Final = ["Le chat dort sur le tapis.", "The cat sleeps on the mat."]


def _examples(*examples: dict[str, Any]) -> ConfigDict:
    return ConfigDict(json_schema_extra={"examples": list(examples)})


def parse_index(index: str) -> int:
    """Read a feature index that travels as a string.

    Raises:
        InvalidRequest: It is not a plain non-negative decimal.
    """
    if not _DECIMAL.fullmatch(index):
        raise InvalidRequest(
            f"Invalid index {index[:32]!r}: expected a non-negative integer",
            'Send the feature\'s index in decimal digits, for example "14057".',
        )
    return int(index)


def check_batch_size(n_prompts: int, limit: int) -> None:
    """Refuse an empty batch and one of more than `limit` prompts.

    Raises:
        InvalidRequest: It is one of the two.
    """
    if n_prompts == 0:
        raise InvalidRequest("At least one prompt is required")
    if n_prompts > limit:
        raise InvalidRequest(
            f"Batch size {n_prompts} exceeds maximum of {limit}",
            f"Send at most {limit} prompts in one request.",
        )


@dataclass(frozen=True, slots=True)
class FeatureTarget:
    """One feature of one source."""

    source: str
    index: int


@dataclass(frozen=True, slots=True)
class VectorTarget:
    """A caller's own direction, `[d_hook]`, read at a hook point."""

    vector: tuple[float, ...]
    hook: str


class PromptBatch(RequestModel):
    """The part of a request that lists prompts."""

    prompts: list[StrictStr] = Field(description="The prompts, in the order of the results.")

    def check_batch(self, limit: int) -> None:
        """Refuse an empty batch and one of more than `limit` prompts.

        Raises:
            InvalidRequest: It is one of the two.
        """
        check_batch_size(len(self.prompts), limit)


class FeatureOrVector(RequestModel):
    """The part of a request that names what to measure: `source` with `index`, or `vector` with `hook`."""

    model: StrictStr = Field(description="Model to run: a name or alias from /v1/models.")
    source: StrictStr | None = Field(default=None, description="Source of the feature. Goes with `index`.")
    index: StrictStr | None = Field(
        default=None, description="Index of the feature in its source, as a string. Goes with `source`."
    )
    vector: list[Number] | None = Field(
        default=None, description="Direction to project activations on, not normalised. Goes with `hook`."
    )
    hook: StrictStr | None = Field(
        default=None,
        description="Hook point that `vector` reads, such as blocks.2.hook_resid_post. Goes with `vector`.",
    )

    def target(self) -> FeatureTarget | VectorTarget:
        """What to measure. Half a pair next to a whole one is tolerated, as the peer tolerates it.

        Raises:
            InvalidRequest: Not exactly one pair is complete, the index is no index, or the vector is empty.
        """
        by_feature = self.source is not None and self.index is not None
        by_vector = self.vector is not None and self.hook is not None
        if by_feature == by_vector:
            raise InvalidRequest(
                "Invalid request data: exactly one of layer/index or vector must be provided",
                "Send `source` and `index`, or `vector` and `hook`.",
            )
        if self.source is not None and self.index is not None:
            return FeatureTarget(self.source, parse_index(self.index))
        if not self.vector or self.hook is None:
            raise InvalidRequest("Invalid request data: vector is empty")
        return VectorTarget(tuple(self.vector), self.hook)


class ActivationSingleRequest(FeatureOrVector):
    """Activations of one feature, or along one vector, over a prompt."""

    model_config = _examples(
        {"prompt": _DEMO_PROMPTS[0], "model": "rayscope-demo", "source": "0-res-demo", "index": "17"}
    )

    prompt: StrictStr = Field(description="The prompt.")


class ActivationSingleBatchRequest(PromptBatch, FeatureOrVector):
    """Activations of one feature, or along one vector, over several prompts."""

    model_config = _examples(
        {"prompts": _DEMO_PROMPTS, "model": "rayscope-demo", "source": "0-res-demo", "index": "17"}
    )


class ActivationValues(WireModel):
    """One feature over one prompt."""

    values: list[float] = Field(description="Activation at each token of `tokens`.")
    max_value: float = Field(description="Largest of `values`.")
    max_value_index: int = Field(description="Position of the first largest value in `values`.")
    dfa_values: list[float] | None = Field(
        default=None,
        description="Direct feature attribution of each token to the token of the maximum; null without attention.",
    )
    dfa_max_value: float | None = Field(default=None, description="Largest of `dfaValues`.")
    dfa_target_index: int | None = Field(default=None, description="Position that `dfaValues` attribute.")


class ActivationSingleBatchResult(WireModel):
    """Answer for one prompt."""

    activation: ActivationValues = Field(description="The activations.")
    tokens: list[str] = Field(description="The prompt's tokens; for a feature, without the leading BOS.")
    tokens_is_special: list[bool] = Field(
        description="For each token, whether it is BOS, EOS, padding, a chat turn marker or the like."
    )


class ActivationSingleResponse(ActivationSingleBatchResult):
    """Answer of /v1/activation/single."""


class ActivationSingleBatchResponse(WireModel):
    """Answer of /v1/activation/single-batch."""

    results: list[ActivationSingleBatchResult] = Field(description="One result per prompt, in order.")


class TopFeatures(RequestModel):
    """The part of a request that asks for the strongest features of a source set."""

    model: StrictStr = Field(description="Model to run: a name or alias from /v1/models.")
    source_set: StrictStr = Field(description="Source set to search, such as res-demo.")
    selected_sources: list[StrictStr] = Field(description="Sources of the set to search; empty means all of them.")
    sort_by_token_indexes: list[StrictInt] = Field(
        description="Rank by the sum of activations at these tokens; empty ranks by the maximum over the prompt."
    )
    ignore_bos: StrictBool = Field(description="Count the activation at BOS as zero.")
    num_results: StrictInt | None = Field(
        default=DEFAULT_NUM_RESULTS, description="Number of features to return; null means 25."
    )
    feature_filter: list[StrictInt] | None = Field(
        default=None, description="Consider only these feature indexes of each source; null or empty means all."
    )

    def k(self, maximum: int) -> int:
        """Number of features to return: `numResults`, at most `maximum`.

        Raises:
            InvalidRequest: `numResults` is below one.
        """
        wanted = DEFAULT_NUM_RESULTS if self.num_results is None else self.num_results
        if wanted < 1:
            raise InvalidRequest(f"numResults must be at least 1, got {wanted}")
        return min(wanted, maximum)

    def check_sort_indexes(self, n_tokens: int) -> None:
        """Refuse token indexes that the prompt does not have.

        Args:
            n_tokens: Length of the prompt in tokens, BOS included.

        Raises:
            InvalidRequest: Some index is outside `[0, n_tokens)`.
        """
        wrong = sorted({index for index in self.sort_by_token_indexes if not 0 <= index < n_tokens})
        if wrong:
            raise InvalidRequest(
                f"Token indexes {wrong[:8]} to sort by are out of range; the prompt has {n_tokens} tokens "
                f"(0-{n_tokens - 1})."
            )

    def wanted_features(self) -> tuple[int, ...] | None:
        """The filter's indexes, ascending and without repeats; None when every feature is wanted.

        Raises:
            InvalidRequest: Some index is negative.
        """
        if not self.feature_filter:
            return None
        wanted = sorted(set(self.feature_filter))
        if wanted[0] < 0:
            raise InvalidRequest(f"featureFilter holds a negative feature index: {wanted[0]}")
        return tuple(wanted)


class ActivationAllRequest(TopFeatures):
    """The strongest features of a source set on a prompt."""

    model_config = _examples(
        {
            "prompt": _DEMO_PROMPTS[0],
            "model": "rayscope-demo",
            "sourceSet": "res-demo",
            "selectedSources": ["0-res-demo", "2-res-demo"],
            "sortByTokenIndexes": [],
            "ignoreBos": True,
            "numResults": 10,
        }
    )

    prompt: StrictStr = Field(description="The prompt.")


class ActivationAllBatchRequest(PromptBatch, TopFeatures):
    """The strongest features of a source set, for each of several prompts."""

    model_config = _examples(
        {
            "prompts": _DEMO_PROMPTS,
            "model": "rayscope-demo",
            "sourceSet": "res-demo",
            "selectedSources": [],
            "sortByTokenIndexes": [1, 2],
            "ignoreBos": True,
            "numResults": 5,
        }
    )


class ActivationAllFeature(WireModel):
    """One of the strongest features."""

    source: str = Field(description="Source of the feature.")
    index: int = Field(description="Index of the feature in its source.")
    values: list[float] = Field(description="Activation at each token, BOS included.")
    sum_values: float | None = Field(
        default=None, description="Sum over the tokens sorted by; 0 when sorting by the maximum."
    )
    max_value: float = Field(description="Largest of `values`.")
    max_value_index: int = Field(description="Position of the first largest value in `values`.")
    dfa_values: list[float] | None = Field(
        default=None,
        description="Direct feature attribution of each token to the token of the maximum; null without attention.",
    )
    dfa_target_index: int | None = Field(default=None, description="Position that `dfaValues` attribute.")
    dfa_max_value: float | None = Field(default=None, description="Largest of `dfaValues`.")


class ActivationAllBatchResult(WireModel):
    """Answer for one prompt."""

    activations: list[ActivationAllFeature] = Field(description="The strongest features, strongest first.")
    tokens: list[str] = Field(description="The prompt's tokens, BOS included.")
    counts: list[list[float]] | None = Field(default=None, description="Always null; kept for older clients.")


class ActivationAllResponse(ActivationAllBatchResult):
    """Answer of /v1/activation/all."""


class ActivationAllBatchResponse(WireModel):
    """Answer of /v1/activation/all-batch."""

    results: list[ActivationAllBatchResult] = Field(description="One result per prompt, in order.")


class ActivationSourceRequest(PromptBatch):
    """Every active feature of one source, for each of several prompts."""

    model_config = _examples({"prompts": _DEMO_PROMPTS, "model": "rayscope-demo", "source": "0-res-demo"})

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

    model_config = _examples(
        {
            "prompt": _DEMO_PROMPTS[0],
            "model": "rayscope-demo",
            "source": "0-res-demo",
            "topK": 3,
            "ignoreBos": True,
        }
    )

    prompt: StrictStr = Field(description="The prompt.")


class ActivationTopkByTokenBatchRequest(PromptBatch, TopKByToken):
    """The strongest features of one source at each token of several prompts."""

    model_config = _examples(
        {
            "prompts": _DEMO_PROMPTS,
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


class ActivationRawRequest(RequestModel):
    """Residual-stream vectors at each prompt's last token; no SAE is involved."""

    model_config = _examples({"prompts": _DEMO_PROMPTS, "model": "rayscope-demo", "layers": [0, 2]})

    prompts: list[str] = Field(description="The prompts, in the order of the results.")
    layers: list[int] | None = Field(default=None, description="Layers to read; null or empty means all.")
    model: str | None = Field(
        default=None, description="Model to run. May be left out where the cluster serves only one."
    )
    hook_point: str = Field(default=_RAW_HOOK_POINT, description="What to read: residual_stream.")
    type: str = Field(default=_RAW_TYPE, description="Where to read it: final_output_token.")

    def check(self, batch_limit: int) -> None:
        """Refuse what this route cannot read, and empty or too large batches.

        Raises:
            InvalidRequest: The request is one of these.
        """
        if self.hook_point != _RAW_HOOK_POINT:
            raise InvalidRequest(
                f"Unsupported hook_point '{self.hook_point[:64]}'. Only '{_RAW_HOOK_POINT}' is supported."
            )
        if self.type != _RAW_TYPE:
            raise InvalidRequest(f"Unsupported type '{self.type[:64]}'. Only '{_RAW_TYPE}' is supported.")
        check_batch_size(len(self.prompts), batch_limit)

    def wanted_layers(self, n_layers: int) -> tuple[int, ...]:
        """The layers to read, ascending and without repeats; all `n_layers` of them by default.

        Raises:
            InvalidRequest: The model has no such layer.
        """
        wanted = sorted(set(self.layers or range(n_layers)))
        wrong = [layer for layer in wanted if not 0 <= layer < n_layers]
        if wrong:
            raise InvalidRequest(
                f"Layers {wrong[:8]} are out of range; this model has {n_layers} layers (0-{n_layers - 1})."
            )
        return tuple(wanted)


class ActivationRawLayer(WireModel):
    """One layer's vectors."""

    layer: int = Field(description="The layer.")
    token_indices: list[int] = Field(description="Positions read.")
    values: list[list[float]] = Field(description="One vector of d_model numbers per position.")


class ActivationRawPromptResult(WireModel):
    """Answer for one prompt."""

    token_strings: list[str] = Field(description="The prompt's tokens.")
    token_ids: list[int] = Field(description="Their ids.")
    activations: list[ActivationRawLayer] = Field(description="One entry per layer, ascending.")


class ActivationRawResponse(WireModel):
    """Answer of /v1/activation/raw."""

    hook_point: str = Field(description="What was read.")
    type: str = Field(description="Where it was read.")
    dtype: str = Field(description="Number format of the model.")
    device: str = Field(description="Kind of device that computed it.")
    results: list[ActivationRawPromptResult] = Field(description="One result per prompt, in order.")


class ActivationAttentionRequest(RequestModel):
    """Attention pattern of one head."""

    model_config = _examples({"prompt": _DEMO_PROMPTS[0], "model": "rayscope-demo", "layer": 0, "head": 0})

    prompt: str = Field(description="The prompt.")
    model: str = Field(description="Model to run: a name or alias from /v1/models.")
    layer: int = Field(description="Layer of the head.")
    head: int = Field(description="The head.")

    def check(self, n_layers: int, n_heads: int) -> None:
        """Refuse a head that the model does not have.

        Raises:
            InvalidRequest: The layer or the head is out of range.
        """
        if not 0 <= self.layer < n_layers:
            raise InvalidRequest(f"Invalid layer: {self.layer}. Must be in [0, {n_layers}).")
        if not 0 <= self.head < n_heads:
            raise InvalidRequest(f"Invalid head: {self.head}. Must be in [0, {n_heads}).")


class ActivationAttentionResponse(WireModel):
    """Answer of /v1/activation/attention: the pattern's largest entries, sparse."""

    seq_len: int = Field(description="Length of the prompt in tokens, BOS included.")
    attention_indices: list[int] = Field(description="Flat positions, `query * seqLen + key`, ascending.")
    attention_values: list[float] = Field(description="The probability at each of them.")
    max_activation: float = Field(description="Largest probability outside the first row and column.")
    tokens: list[str] = Field(description="The prompt's tokens, BOS included.")
