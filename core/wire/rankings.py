"""Bodies of `/v1/activation/all` and `all-batch`: the strongest features of a source set. `featureFilter` is ours."""

from typing import Final

from pydantic import Field, StrictBool, StrictInt, StrictStr

from core.errors import InvalidRequest
from core.wire.base import RequestModel, WireModel
from core.wire.prompts import DEMO_PROMPTS, PromptBatch, examples

DEFAULT_NUM_RESULTS: Final = 25


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

    model_config = examples(
        {
            "prompt": DEMO_PROMPTS[0],
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

    model_config = examples(
        {
            "prompts": DEMO_PROMPTS,
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
