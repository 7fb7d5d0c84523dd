"""Bodies of `/v1/steer/completion`: text written while features or vectors push the model. The chat route has its own.

Names, types and strictness are the published ones. Replies leave nulls out, streamed or not: `logprobs` is absent where
none were asked for. What the peer accepts and ignores works here: `freqPenalty` and `nLogprobs`.

Ours, all optional: `streamMode`, `positions`, `condition`, `topP`, `vectorReads`, `atLeast` of a direction, the method
`ABLATION`.
"""

from enum import StrEnum
from typing import Annotated, Any, ClassVar, Final, Literal, TypeAlias

from pydantic import Field, Strict, StrictBool, StrictInt, StrictStr

from core.errors import InvalidRequest
from core.wire.base import Number, RequestModel, WireModel
from core.wire.prompts import examples
from core.wire.vector_reads import VectorRead, VectorReadResult

# Python's JSON reader lets NaN and the infinities through. The check of the whole vector names them; a schema error
# would name a position in a list of thousands.
_Coordinate: TypeAlias = Annotated[float, Strict()]

SPANISH: Final[dict[str, Any]] = {"model": "rayscope-demo", "source": "1-res-demo", "index": 2, "strength": 12.8}
"""The demo's best known feature: it turns French prompts Spanish."""
GREEDY: Final[dict[str, Any]] = {
    "model": "rayscope-demo",
    "steerMethod": "SIMPLE_ADDITIVE",
    "normalizeSteering": False,
    "types": ["STEERED", "DEFAULT"],
    "features": [SPANISH],
    "nCompletionTokens": 16,
    "temperature": 0,
    "strengthMultiplier": 1,
    "freqPenalty": 0,
    "seed": 16,
}


class NPSteerMethod(StrEnum):
    """How a steering vector is combined with the residual stream."""

    SIMPLE_ADDITIVE = "SIMPLE_ADDITIVE"
    ORTHOGONAL_DECOMP = "ORTHOGONAL_DECOMP"
    PROJECTION_CAP = "PROJECTION_CAP"
    ABLATION = "ABLATION"


class NPSteerType(StrEnum):
    """Whether a given output was produced with steering applied or without it."""

    STEERED = "STEERED"
    DEFAULT = "DEFAULT"


class NPSteerFeature(RequestModel):
    """An SAE feature to steer with, and how hard."""

    model: StrictStr = Field(description="Model of the source.")
    source: StrictStr = Field(description="Source of the feature, such as 1-res-demo.")
    index: StrictInt = Field(description="Index of the feature in its source.")
    strength: Number = Field(description="How hard to push; negative pushes away.")
    steering_vector: list[_Coordinate] | None = Field(
        default=None, description="Ignored: a feature is steered by its decoder row."
    )
    at_least: Number | None = Field(
        default=None, description="PROJECTION_CAP only: the smallest projection; null leaves it open."
    )


class NPSteerVector(RequestModel):
    """A raw vector for steering, including its hook and strength."""

    steering_vector: list[_Coordinate] = Field(description="The direction, as wide as the hook point.")
    strength: Number = Field(description="How hard to push; negative pushes away.")
    hook: StrictStr = Field(description="Hook point to write, such as blocks.1.hook_resid_post.")
    at_least: Number | None = Field(
        default=None, description="PROJECTION_CAP only: the smallest projection; null leaves it open."
    )


class SteerCondition(RequestModel):
    """Steer only where a feature is active. Its hook point must not come after those that are written."""

    source: StrictStr = Field(description="Source of the feature that decides.")
    index: StrictInt = Field(description="Index of that feature.")
    above: Number = Field(default=0.0, description="Positions are steered where its activation is above this.")


class SteerOptions(RequestModel):
    """What both steering requests share: how to push, and how to choose tokens."""

    model: StrictStr = Field(description="Model to run: a name or alias from /v1/models.")
    steer_method: NPSteerMethod = Field(description="How directions change an activation; ABLATION is Rayscope's own.")
    normalize_steering: StrictBool = Field(description="Scale every direction to length 1 first.")
    types: list[NPSteerType] = Field(min_length=1, description="What to write: STEERED, DEFAULT (unsteered), or both.")
    features: list[NPSteerFeature] | None = Field(default=None, description="Features to push. Excludes `vectors`.")
    vectors: list[NPSteerVector] | None = Field(default=None, description="Vectors to push. Excludes `features`.")
    n_completion_tokens: StrictInt = Field(ge=1, description="Most tokens to write.")
    temperature: Number = Field(ge=0, description="Randomness of the choice; 0 takes the likeliest token.")
    strength_multiplier: Number = Field(description="Multiplies every strength.")
    freq_penalty: Number = Field(
        description="Taken off a token's logit once per time that it was written. From -100 to 100."
    )
    seed: Number = Field(description="Makes the choice repeatable. Read as an integer.")
    stream: StrictBool | None = Field(
        default=False, description="Answer with server-sent events instead of one body; see `streamMode`."
    )
    n_logprobs: Annotated[StrictInt, Field(ge=0, le=10)] | None = Field(
        default=0, description="Candidates to report for each token written. 0 reports no scores."
    )
    stream_mode: Literal["cumulative", "delta"] = Field(
        default="cumulative",
        description=(
            "What an event holds: the whole answer so far, or only what is new. Joining the strings and lists of all "
            "delta events gives the whole answer."
        ),
    )
    positions: Literal["all", "prompt", "generated"] = Field(
        default="all", description="Which positions are steered: the prompt's, those of written tokens, or all."
    )
    condition: SteerCondition | None = Field(default=None, description="Where to steer; null steers unconditionally.")
    vector_reads: list[VectorRead] | None = Field(
        default=None, description="Directions to read, without steering, over what was sent and what was written."
    )
    top_p: Annotated[Number, Field(gt=0, le=1)] | None = Field(
        default=None, description="Choose among the likeliest tokens that reach this share together; null: all."
    )

    def directions(self) -> list[NPSteerFeature] | list[NPSteerVector]:
        """What to push. An empty list counts as given, as the peer counts it.

        Raises:
            InvalidRequest: Not exactly one of the two lists is given.
        """
        if self.features is not None and self.vectors is None:
            return self.features
        if self.vectors is not None and self.features is None:
            return self.vectors
        raise InvalidRequest("Invalid request data: exactly one of features or vectors must be provided")


class SteerCompletionRequest(SteerOptions):
    """A text to continue, steered, unsteered or both."""

    model_config = examples(
        {"prompt": "Le chat dort sur", **GREEDY},
        {"prompt": "Le chat dort sur", **GREEDY, "types": ["DEFAULT"], "features": [], "nLogprobs": 3},
    )

    prompt: StrictStr = Field(description="The text.")


class NPLogprobTop(WireModel):
    """One token the model considered at a single position."""

    token: str = Field(description="The candidate token, as text.")
    logprob: float = Field(description="Natural log of the probability the model gave it.")


class NPLogprob(WireModel):
    """What the model was weighing at one position of the output, before temperature and penalties."""

    token: str = Field(description="The token that was written, as text.")
    logprob: float = Field(description="Natural log of its probability.")
    top_logprobs: list[NPLogprobTop] = Field(description="The likeliest candidates, likeliest first.")


class NPSteerCompletionOutput(WireModel):
    """One text that was written."""

    type: NPSteerType = Field(description="Whether it was steered.")
    output: str = Field(description="The text, without the prompt.")
    logprobs: list[NPLogprob] | None = Field(
        default=None, description="One entry per token of the text; absent unless asked for."
    )


class SteerVectorReads(WireModel):
    """What the request's directions read over one text."""

    type: NPSteerType = Field(description="Which of the outputs.")
    reads: list[VectorReadResult] = Field(description="One entry per direction, in order.")


class SteerCompletionResponse(WireModel):
    """Answer of /v1/steer/completion, or one event of it."""

    drops_nulls: ClassVar[bool] = True

    outputs: list[NPSteerCompletionOutput] = Field(description="One text per entry of `types`, in order.")
    vector_reads: list[SteerVectorReads] | None = Field(
        default=None, description="One entry per output; absent unless asked for, and in a stream until the last event."
    )
