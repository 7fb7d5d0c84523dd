"""Body of the older route `/completion`: a text or a conversation's opening, continued with and without steering."""

from enum import StrEnum
from typing import Any, ClassVar, Final

from pydantic import ConfigDict, Field

from core.wire.base import Number, WireModel
from core.wire.seed import SeedRequest
from core.wire.steering import NPSteerFeature, NPSteerMethod, NPSteerType, SteerOptions

_EXAMPLE: Final[dict[str, Any]] = {
    "prompt": "Où dort le chat ?",
    "features": [{"layer": "1-res-demo", "index": 2, "strength": 12.8}],
    "model": "rayscope-demo",
    "instruct": True,
    "types": ["steered", "default"],
    "n_completion_tokens": 20,
    "temperature": 0.7,
    "strength_multiplier": 1,
    "freq_penalty": 0.0,
    "seed": 42,
}


class SeedSteerType(StrEnum):
    """Whether a text is written with steering or without."""

    STEERED = "steered"
    DEFAULT = "default"


class SeedSteerFeature(WireModel):
    """A feature to steer with, and how hard."""

    layer: str = Field(description="Source of the feature, such as 1-res-demo.")
    index: int = Field(description="Index of the feature in its source.")
    strength: Number = Field(description="How hard to push; negative pushes away.")


class CompletionRequest(SeedRequest):
    """Body of /completion: a text to continue, steered, unsteered or both."""

    model_config = ConfigDict(json_schema_extra={"examples": [_EXAMPLE]})

    prompt: str = Field(description="The text; with `instruct`, what the user says.")
    features: list[SeedSteerFeature] = Field(default=[], description="Features to push.")
    instruct: bool = Field(default=False, description="Put the text into the model's chat template.")
    types: list[SeedSteerType] = Field(
        default=[SeedSteerType.STEERED, SeedSteerType.DEFAULT], min_length=1, description="What to write."
    )
    n_completion_tokens: int = Field(ge=1, description="Most tokens to write.")
    temperature: Number = Field(ge=0, description="Randomness of the choice; 0 takes the likeliest token.")
    strength_multiplier: Number = Field(default=1.0, description="Multiplies every strength.")
    freq_penalty: Number = Field(
        default=0.0, description="Taken off a token's logit once per time that it was written. From -100 to 100."
    )
    seed: Number = Field(default=16, description="Makes the choice repeatable. Read as an integer.")

    def as_options(self) -> SteerOptions:
        """The same wishes in the words of /v1/steer."""
        return SteerOptions(
            model=self.model,
            steer_method=NPSteerMethod.SIMPLE_ADDITIVE,
            normalize_steering=False,
            types=[NPSteerType(kind.upper()) for kind in dict.fromkeys(self.types)],
            features=[
                NPSteerFeature(model=self.model, source=feature.layer, index=feature.index, strength=feature.strength)
                for feature in self.features
            ],
            n_completion_tokens=self.n_completion_tokens,
            temperature=self.temperature,
            strength_multiplier=self.strength_multiplier,
            freq_penalty=self.freq_penalty,
            seed=self.seed,
        )


class SeedMessage(WireModel):
    """One message of the conversation."""

    content: str = Field(description="What is said.")
    role: str = Field(description="Who speaks: user, or model.")


class SeedCompletion(WireModel):
    """One text that was written."""

    model_config = ConfigDict(alias_generator=None)

    chat_template: list[SeedMessage] | None = Field(
        default=None, description="The conversation; absent without `instruct`."
    )
    raw: str = Field(description="All that the model read and wrote, special tokens included.")


class CompletionResponse(WireModel):
    """Answer of /completion: one entry per type that was asked for."""

    drops_nulls: ClassVar[bool] = True

    default: SeedCompletion | None = Field(default=None, description="Written without steering.")
    steered: SeedCompletion | None = Field(default=None, description="Written with steering.")
