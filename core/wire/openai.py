"""Bodies of the OpenAI-compatible routes: what clients of `/v1/completions` and `/v1/chat/completions` send.

OpenAI's names and defaults, always snake_case. What would change the answer and is not done here is refused by name:
a client that asks for JSON and gets prose was not served. What changes nothing (`user`, `metadata`, an empty list of
tools) is accepted. A name that nobody knows is refused as well, because a misspelt `steering` would go unnoticed.

`steering` is ours; OpenAI's client sends it with `extra_body={"steering": {...}}`.
"""

from typing import Annotated, Any, ClassVar, Final, Literal, Self, TypeAlias, TypeVar

from pydantic import ConfigDict, Field, StrictBool, StrictInt, StrictStr, model_validator
from pydantic_core import PydanticCustomError

from core.steering.specification import Method
from core.wire.base import Case, Number, WireModel
from core.wire.prompts import DEMO_PROMPTS, examples

MOST_LOGPROBS: Final = 20
_LARGEST_SEED: Final = 2**63 - 1

# Parameters that change nothing about the text, whatever they say.
_HARMLESS: Final = frozenset(
    {
        "metadata",
        "parallel_tool_calls",
        "prompt_cache_key",
        "prompt_cache_options",
        "prompt_cache_retention",
        "safety_identifier",
        "service_tier",
        "store",
        "user",
    }
)
# Parameters with values that ask for nothing.
_NEUTRAL: Final[dict[str, tuple[Any, ...]]] = {
    "best_of": (1,),
    "function_call": ("none", "auto"),
    "functions": ([],),
    "logit_bias": ({},),
    "modalities": (["text"],),
    "response_format": ({"type": "text"},),
    "suffix": ("",),
    "tool_choice": ("none", "auto"),
    "tools": ([],),
}

Item = TypeVar("Item")
_Temperature: TypeAlias = Annotated[Number, Field(ge=0, le=2)]
_Share: TypeAlias = Annotated[Number, Field(gt=0, le=1)]
_Penalty: TypeAlias = Annotated[Number, Field(ge=-2, le=2)]
_Count: TypeAlias = Annotated[StrictInt, Field(ge=1)]
_Seed: TypeAlias = Annotated[StrictInt, Field(ge=-_LARGEST_SEED, le=_LARGEST_SEED)]
_StopString: TypeAlias = Annotated[StrictStr, Field(min_length=1, max_length=200)]
_NotEmpty: TypeAlias = Annotated[list[Item], Field(min_length=1)]
_TokenIds: TypeAlias = _NotEmpty[Annotated[StrictInt, Field(ge=0)]]


class OpenAIModel(WireModel):
    """A JSON object of these routes."""

    model_config = ConfigDict(alias_generator=None)

    wire_case: ClassVar[Case | None] = "snake"


class _SteeringPart(OpenAIModel):
    model_config = ConfigDict(extra="forbid")


class SteeringFeature(_SteeringPart):
    """A feature to steer with: the decoder row of an SAE."""

    source: StrictStr = Field(description="Source of the feature, such as 1-res-demo.")
    index: StrictInt = Field(description="Index of the feature in its source.")
    strength: Number = Field(description="How hard to push; for PROJECTION_CAP the largest projection.")
    at_least: Number | None = Field(default=None, description="PROJECTION_CAP only: the smallest projection.")


class SteeringVector(_SteeringPart):
    """A direction of the caller's own to steer with."""

    hook: StrictStr = Field(description="Where it is written, such as blocks.1.hook_resid_post.")
    vector: list[Number] = Field(description="The direction: one number per dimension of the hook point.")
    strength: Number = Field(description="How hard to push; for PROJECTION_CAP the largest projection.")
    at_least: Number | None = Field(default=None, description="PROJECTION_CAP only: the smallest projection.")


class SteeringCondition(_SteeringPart):
    """Steer only where a feature is active."""

    source: StrictStr = Field(description="Source of the feature; it must be read before the steering is written.")
    index: StrictInt = Field(description="Index of the feature in its source.")
    above: Number = Field(default=0.0, description="Positions where its activation is larger than this are steered.")


class SteeringObject(_SteeringPart):
    """How the text is steered: at least one feature or vector, applied in the order given, features first."""

    features: list[SteeringFeature] = Field(default=[], description="Features to steer with.")
    vectors: list[SteeringVector] = Field(default=[], description="Directions to steer with.")
    method: Method = Field(default=Method.SIMPLE_ADDITIVE, description="How the directions act.")
    normalize: StrictBool = Field(default=False, description="Scale every direction to length 1 first.")
    multiplier: Number = Field(default=1.0, description="Multiplies every strength.")
    positions: Literal["all", "prompt", "generated"] = Field(default="all", description="Which positions are steered.")
    steer_special_tokens: StrictBool = Field(
        default=True, description="Steer the prompt's special tokens, too. Generated ones always are."
    )
    condition: SteeringCondition | None = Field(default=None, description="Steer only where a feature is active.")


class StreamOptions(OpenAIModel):
    """What a stream holds besides text."""

    include_usage: StrictBool | None = Field(default=None, description="End with a chunk that counts the tokens.")
    include_obfuscation: StrictBool | None = Field(default=None, description="Accepted; nothing is padded here.")


class _Parameters(OpenAIModel):
    """What both routes share."""

    model_config = ConfigDict(extra="allow")

    model: StrictStr = Field(description="Model to run: a name or alias from /v1/models.")
    max_tokens: _Count | None = Field(default=None, description="Most tokens to generate.")
    temperature: _Temperature | None = Field(default=None, description="0 takes the likeliest token; null means 1.")
    top_p: _Share | None = Field(
        default=None, description="Choose among the likeliest tokens that have this probability together; null means 1."
    )
    frequency_penalty: _Penalty | None = Field(
        default=None, description="Subtracted from a token's logit for each time that it was generated."
    )
    presence_penalty: _Penalty | None = Field(
        default=None, description="Subtracted from a token's logit if it was generated at all."
    )
    seed: _Seed | None = Field(
        default=None, description="Makes the text repeatable. The i-th of `n` choices is drawn with seed + i."
    )
    n: _Count | None = Field(default=None, description="Choices per prompt; null means 1.")
    stop: _StopString | Annotated[list[_StopString], Field(max_length=16)] | None = Field(
        default=None, description="Strings that end the text; they are not part of it."
    )
    stream: StrictBool | None = Field(default=None, description="Send the text while it is written.")
    stream_options: StreamOptions | None = Field(default=None, description="Only with `stream`.")
    steering: SteeringObject | None = Field(default=None, description="How the text is steered; null leaves it alone.")

    @model_validator(mode="after")
    def _refuse_what_is_not_done(self) -> Self:
        for name, value in (self.model_extra or {}).items():
            neutral = value is None or name in _HARMLESS or any(value == given for given in _NEUTRAL.get(name, ()))
            if not neutral:
                shown = name[:100].encode("utf-8", "replace").decode()
                raise PydanticCustomError(
                    "unsupported_parameter",
                    "The parameter '{param}' is not supported with this value; leave it out.",
                    {"param": shown},
                )
        return self

    @property
    def stops(self) -> list[str]:
        """The stop strings."""
        return [self.stop] if isinstance(self.stop, str) else self.stop or []

    @property
    def includes_usage(self) -> bool:
        """Whether a stream ends with the token counts."""
        return self.stream_options is not None and self.stream_options.include_usage is True


_STEERING_EXAMPLE: Final = {"features": [{"source": "1-res-demo", "index": 2, "strength": 12.8}]}


class CompletionsRequest(_Parameters):
    """Body of /v1/completions: a text to go on with."""

    model_config = examples(
        {
            "model": "rayscope-demo",
            "prompt": "Le chat dort sur",
            "max_tokens": 8,
            "temperature": 0,
            "steering": _STEERING_EXAMPLE,
        },
        {"model": "rayscope-demo", "prompt": DEMO_PROMPTS, "max_tokens": 4, "logprobs": 2, "stop": ["."], "seed": 1},
    )

    prompt: StrictStr | _NotEmpty[StrictStr] | _TokenIds | _NotEmpty[_TokenIds] = Field(
        description="A text, a list of texts, token ids, or a list of lists of token ids. A text gets the model's BOS "
        "token in front; token ids are taken as they are."
    )
    logprobs: Annotated[StrictInt, Field(ge=0, le=MOST_LOGPROBS)] | None = Field(
        default=None, description="Report log-probabilities: of each token, and of so many likeliest ones."
    )
    echo: StrictBool | None = Field(
        default=None, description="Start the text with the prompt. Not together with `logprobs`."
    )

    @property
    def prompts(self) -> list[str] | list[list[int]]:
        """The prompts, as texts or as token ids."""
        if isinstance(self.prompt, str):
            return [self.prompt]
        if all(isinstance(part, int) for part in self.prompt):
            return [self.prompt]  # pyright: ignore[reportReturnType]
        return self.prompt  # pyright: ignore[reportReturnType]


class TextPart(OpenAIModel):
    """A part of a message. Texts only: the models here read nothing else."""

    type: Literal["text"] = Field(description="Always text.")
    text: StrictStr = Field(description="The text.")


class OpenAIMessage(OpenAIModel):
    """One message of a conversation."""

    role: StrictStr = Field(description="Who speaks: system, user, assistant, or what the model's template knows.")
    content: StrictStr | list[TextPart] = Field(description="What is said.")

    @property
    def text(self) -> str:
        """The content in one piece."""
        return self.content if isinstance(self.content, str) else "".join(part.text for part in self.content)


class ChatCompletionsRequest(_Parameters):
    """Body of /v1/chat/completions: a conversation to answer."""

    model_config = examples(
        {
            "model": "rayscope-demo",
            "messages": [{"role": "user", "content": "What does the cat eat?"}],
            "max_completion_tokens": 12,
            "temperature": 0,
            "steering": _STEERING_EXAMPLE,
        }
    )

    messages: Annotated[list[OpenAIMessage], Field(min_length=1)] = Field(
        description="The conversation, oldest message first."
    )
    max_completion_tokens: _Count | None = Field(
        default=None, description="Most tokens to generate; the newer name of `max_tokens`."
    )
    logprobs: StrictBool | None = Field(default=None, description="Report each token's log-probability.")
    top_logprobs: Annotated[StrictInt, Field(ge=0, le=MOST_LOGPROBS)] | None = Field(
        default=None, description="With `logprobs`: report so many likeliest tokens, too."
    )
    chat_template_kwargs: dict[str, Any] | None = Field(
        default=None, description='Variables of the model\'s chat template, such as {"enable_thinking": false}.'
    )
