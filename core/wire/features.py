"""Bodies of `/v1/util/*`: questions about an SAE's own weights, and one about a temporal SAE's predictions.

Whether a source exists, and how wide it is, the Gateway and the Runner know; here is only what the body itself can get
wrong.
"""

from typing import ClassVar, Final

from pydantic import ConfigDict, Field, StrictInt, StrictStr, field_validator

from core.errors import InvalidRequest
from core.wire.base import Case, Number, RequestModel, WireModel

MAX_NEIGHBOURS: Final = 128


def check_index(index: int, source: str) -> None:
    """Refuse a negative feature index, which Python would read from the end.

    Raises:
        InvalidRequest: The index is negative.
    """
    if index < 0:
        raise InvalidRequest(f"Feature index {index} is out of range for {source[:64]}: indexes start at 0")


class UtilSaeVectorRequest(RequestModel):
    """The direction of one feature."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"model": "rayscope-demo", "source": "0-res-demo", "index": 17}]}
    )

    model: StrictStr = Field(description="Model of the source: a name or alias from /v1/models.")
    source: StrictStr = Field(description="Source of the feature.")
    index: StrictInt = Field(description="Index of the feature in its source.")

    def check(self) -> None:
        """Refuse a negative index.

        Raises:
            InvalidRequest: The index is negative.
        """
        check_index(self.index, self.source)


class UtilSaeVectorResponse(WireModel):
    """Answer of /v1/util/sae-vector. Even the snake_case clients read `hookName`."""

    wire_case: ClassVar[Case | None] = "camel"

    vector: list[float] = Field(description="The feature's column of the encoder, as the peer answers it.")
    hook_name: str = Field(description="Hook point that the source reads.")


class NPFeature(RequestModel):
    """A feature by name."""

    model: StrictStr = Field(description="Model of the source.")
    source: StrictStr = Field(description="Source of the feature.")
    index: StrictInt = Field(description="Index of the feature in its source.")

    @field_validator("model", "source")
    @classmethod
    def _has_to_be_unicode(cls, name: str) -> str:
        # The reply echoes both, and half a surrogate pair cannot be written as UTF-8. The error is a ValueError.
        name.encode()
        return name


class UtilSaeTopkByDecoderCossimRequest(RequestModel):
    """The features of a source whose decoder directions are closest to a feature's, or to a vector."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "feature": {"model": "rayscope-demo", "source": "0-res-demo", "index": 17},
                    "model": "rayscope-demo",
                    "source": "0-res-demo",
                    "numResults": 5,
                }
            ]
        }
    )

    feature: NPFeature | None = Field(default=None, description="Feature to compare with. Excludes `vector`.")
    vector: list[Number] | None = Field(default=None, description="Direction to compare with. Excludes `feature`.")
    model: StrictStr = Field(description="Model of the source: a name or alias from /v1/models.")
    source: StrictStr = Field(description="Source whose features to rank.")
    num_results: StrictInt = Field(
        description="Number of features to return. Clamped to between 1 and 128, and to the source's width."
    )

    def query(self) -> NPFeature | tuple[float, ...]:
        """What to compare with.

        Raises:
            InvalidRequest: Not exactly one of the two is given, the index is negative, or the vector is empty.
        """
        if self.feature is not None and self.vector is None:
            check_index(self.feature.index, self.source)
            return self.feature
        if self.vector is not None and self.feature is None:
            if not self.vector:
                raise InvalidRequest("Invalid request data: vector is empty")
            return tuple(self.vector)
        raise InvalidRequest("Invalid request data: exactly one of feature or vector must be provided")

    def k(self) -> int:
        """Number of features to return, clamped as the peer clamps it."""
        return max(1, min(self.num_results, MAX_NEIGHBOURS))


class UtilSaeTopkByDecoderCossimFeature(WireModel):
    """One near feature."""

    feature: NPFeature | None = Field(default=None, description="The feature.")
    cosine_similarity: float | None = Field(default=None, description="Cosine of the two decoder directions.")


class UtilSaeTopkByDecoderCossimResponse(WireModel):
    """Answer of /v1/util/sae-topk-by-decoder-cossim."""

    feature: NPFeature | None = Field(default=None, description="The feature asked about; null for a vector.")
    topk_decoder_cossim_features: list[UtilSaeTopkByDecoderCossimFeature] | None = Field(
        default=None, description="The closest features, closest first."
    )


class SimilarityMatrixRequest(RequestModel):
    """Token-by-token similarity of what a temporal SAE predicts on a text."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "modelId": "rayscope-demo",
                    "sourceId": "0-res-demo",
                    "index": 0,
                    "text": "Le chat dort sur le tapis.",
                }
            ]
        }
    )

    model_id: str = Field(description="Model to run: a name or alias from /v1/models.")
    source_id: str = Field(description="Source, which has to be a temporal SAE.")
    index: int = Field(description="Ignored, as the peer ignores it.")
    text: str = Field(description="The text.")


class SimilarityMatrixResponse(WireModel):
    """Answer of /v1/util/similarity-matrix-pred, which the peer writes in snake_case whatever its document says."""

    wire_case: ClassVar[Case | None] = "snake"

    similarity_matrix: list[list[float]] = Field(description="Cosines, tokens by tokens, the first token left out.")
    tokens: list[str] = Field(description="The tokens of both axes.")
