"""Bodies of the routes that came before `/v1`: a few, flat, and with the secret inside the body.

Their clients are frozen, so are these shapes: requests in snake_case (camelCase is understood), replies in the casing
that each route always had. The secret is a `SecretStr`; it shows in no representation and in no error.
"""

from typing import Annotated, ClassVar, TypeAlias

from pydantic import AliasChoices, AliasGenerator, ConfigDict, Field, SecretStr
from pydantic.alias_generators import to_camel

from core.errors import InvalidRequest
from core.wire.activations import FeatureTarget, parse_index
from core.wire.base import Case, WireModel
from core.wire.features import check_index
from core.wire.rankings import TopFeatures

_Secret: TypeAlias = Annotated[
    SecretStr, Field(default=SecretStr(""), description="The cluster's secret; may be left out where there is none.")
]


def _either_spelling(name: str) -> AliasChoices:
    return AliasChoices(name, to_camel(name))


class SeedRequest(WireModel):
    """What the older requests share."""

    model_config = ConfigDict(alias_generator=AliasGenerator(validation_alias=_either_spelling))

    model: str = Field(description="Model to run: a name or alias from /v1/models.")
    secret: _Secret


class ActivationsTestRequest(SeedRequest):
    """Body of /activations-test: one feature over a text."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "text": "Le chat dort sur le tapis.",
                    "model": "rayscope-demo",
                    "layer": "0-res-demo",
                    "index": "17",
                }
            ]
        }
    )

    text: str = Field(description="The text.")
    layer: str = Field(description="Source of the feature, such as 0-res-demo.")
    index: str = Field(
        coerce_numbers_to_str=True, description="Index of the feature in its source; a number is understood too."
    )

    def target(self) -> FeatureTarget:
        """The feature to measure.

        Raises:
            InvalidRequest: The index is no index.
        """
        return FeatureTarget(self.layer, parse_index(self.index))


class SeedActivation(WireModel):
    """One feature over a text."""

    index: int = Field(description="Index of the feature in its source.")
    layer: str = Field(description="Source of the feature.")
    max_value: float = Field(description="Largest of `values`.")
    max_value_index: int = Field(description="Position of the first largest value.")
    values: list[float] = Field(description="Activation at each token, BOS included and zero there.")


class ActivationsTestResponse(WireModel):
    """Answer of /activations-test."""

    wire_case: ClassVar[Case | None] = "camel"

    activations: SeedActivation = Field(description="The feature's activations.")
    tokens: list[str] = Field(description="The text's tokens, BOS included.")


class ActivationsAllRequest(SeedRequest):
    """Body of /activations-all: the strongest features of a source set on a text."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "text": "Le chat dort sur le tapis.",
                    "model": "rayscope-demo",
                    "source_set": "res-demo",
                    "selected_layers": ["0-res-demo"],
                    "feature_filter": [17, 42],
                }
            ]
        }
    )

    text: str = Field(description="The text.")
    source_set: str = Field(description="Source set to search.")
    selected_layers: list[str] = Field(default=[], description="Sources of the set to search; empty means all.")
    sort_indexes: list[int] = Field(default=[], description="Rank by the sum of activations at these tokens.")
    ignore_bos: bool = Field(default=True, description="Count the activation at BOS as zero.")
    num_results: int | None = Field(default=None, description="Number of features to return; null means 25.")
    feature_filter: list[int] | None = Field(
        default=None, description="Consider only these feature indexes; null or empty means all."
    )

    def as_top_features(self) -> TopFeatures:
        """The same question in the words of /v1/activation/all."""
        return TopFeatures(
            model=self.model,
            source_set=self.source_set,
            selected_sources=self.selected_layers,
            sort_by_token_indexes=self.sort_indexes,
            ignore_bos=self.ignore_bos,
            num_results=self.num_results,
            feature_filter=self.feature_filter,
        )


class SeedTopActivation(SeedActivation):
    """One of the strongest features on a text."""

    sum_values: float = Field(description="Sum over the tokens sorted by; 0 when sorting by the maximum.")
    dfa_values: list[float] | None = Field(default=None, description="Direct feature attribution of each token.")
    dfa_target_index: int | None = Field(default=None, description="Position that `dfaValues` attribute.")
    dfa_max_value: float | None = Field(default=None, description="Largest of `dfaValues`.")


class ActivationsAllResponse(WireModel):
    """Answer of /activations-all."""

    wire_case: ClassVar[Case | None] = "camel"

    activations: list[SeedTopActivation] = Field(description="The strongest features, strongest first.")
    tokens: list[str] = Field(description="The text's tokens, BOS included.")
    counts: list[list[float]] | None = Field(default=None, description="Always null; kept for older clients.")


class TopKByDecoderCosineSimilarityRequest(SeedRequest):
    """Body of /top-k-by-decoder-cosine-similarity: the features closest to one feature of the same source."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"sae_id": "0-res-demo", "feature_id": 17, "model": "rayscope-demo", "k": 5}]}
    )

    sae_id: str = Field(description="Source of the feature.")
    feature_id: int = Field(description="Index of the feature in its source.")
    k: int = Field(description="Number of features to return, the feature itself included.")

    def check(self) -> None:
        """Refuse a negative index and an empty answer.

        Raises:
            InvalidRequest: The request is one of these.
        """
        check_index(self.feature_id, self.sae_id)
        if self.k < 1:
            raise InvalidRequest(f"k must be at least 1, got {self.k}")


class SeedNeighbour(WireModel):
    """One near feature."""

    model_config = ConfigDict(alias_generator=None)

    cosine_similarity: float = Field(description="Cosine of the two decoder directions.")
    index: int = Field(description="Index of the feature in the source.")


class TopKByDecoderCosineSimilarityResponse(WireModel):
    """Answer of /top-k-by-decoder-cosine-similarity."""

    model_config = ConfigDict(alias_generator=None)

    feature_id: int = Field(description="The feature asked about.")
    top_k_features: list[SeedNeighbour] = Field(description="The closest features, closest first.")
