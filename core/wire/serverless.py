"""Bodies of the serverless surface: `{"input": {...}}` in, a job's envelope out, as RunPod's clients know them.

Two handlers were called this way, so the input is either of theirs: a conversation to steer, told by `action`, or a
request of the graph routes, told by `request_type`, which jobs that make a graph may leave out.

The envelope is camelCase, what is inside `output` is the seed's snake_case. The input is read leniently, as its handler
read it: `"0.7"` is a temperature. What is missing or out of order is the job's failure, not the request's: its envelope
says FAILED and why.
"""

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Final, Literal, TypeAlias, cast

from pydantic import Discriminator, Field, Tag

from core.job_state import Status
from core.wire.base import Case, RequestModel, WireModel
from core.wire.graph import COUNTING
from core.wire.graph_jobs import GraphServerlessInput
from core.wire.prompts import examples
from core.wire.steering import NPSteerMethod, NPSteerType
from core.wire.steering_chat import NPSteerChatMessage

_LARGEST_SEED: Final = 2**53
_GRAPH_KEYS: Final = frozenset({"request_type", "requestType", "slug_identifier", "slugIdentifier"})
_Finite: TypeAlias = Annotated[float, Field(allow_inf_nan=False)]


class ServerlessVector(RequestModel):
    """A direction to steer with."""

    hook: str = Field(description="Where it is written, such as blocks.1.hook_resid_post.")
    strength: _Finite = Field(default=1.0, description="How hard to push; for PROJECTION_CAP the largest projection.")
    steering_vector: list[float] = Field(description="The direction, as wide as the hook point.")


class ServerlessInput(RequestModel):
    """What a job is about."""

    action: Literal["generate", "health"] = Field(
        default="generate", description="Answer a conversation, or say how busy the model is."
    )
    model: str | None = Field(
        default=None, description="Model to run. May be left out where only one that is served can chat."
    )
    prompt: list[NPSteerChatMessage] = Field(default=[], description="The conversation, oldest message first.")
    types: Annotated[list[NPSteerType], Field(min_length=1)] = Field(
        default=[NPSteerType.DEFAULT], description="What to write: STEERED, DEFAULT, or both in this order."
    )
    vectors: list[ServerlessVector] = Field(default=[], description="Directions to steer with.")
    strength_multiplier: _Finite = Field(default=1.0, description="Multiplies every strength.")
    seed: Annotated[int, Field(ge=-_LARGEST_SEED, le=_LARGEST_SEED)] | None = Field(
        default=None, description="Makes the text repeatable."
    )
    temperature: Annotated[_Finite, Field(ge=0)] = Field(default=0.7, description="0 takes the likeliest token.")
    freq_penalty: _Finite = Field(
        default=0.0, description="Taken off a token's logit once per time that it was written."
    )
    n_completion_tokens: Annotated[int, Field(ge=1)] = Field(default=512, description="Most tokens to generate.")
    steer_method: NPSteerMethod = Field(
        default=NPSteerMethod.SIMPLE_ADDITIVE, description="How the directions act on the residual stream."
    )
    normalize_steering: bool = Field(default=False, description="Scale every direction to length 1 first.")
    steer_special_tokens: bool = Field(default=False, description="Steer the prompt's special tokens, too.")


def _handler(value: object) -> Literal["steering", "graph"]:
    """Whose input it is."""
    if isinstance(value, Mapping):
        return "steering" if _GRAPH_KEYS.isdisjoint(cast("Mapping[str, object]", value)) else "graph"
    return "graph" if isinstance(value, GraphServerlessInput) else "steering"


JobInput: TypeAlias = Annotated[
    Annotated[ServerlessInput, Tag("steering")] | Annotated[GraphServerlessInput, Tag("graph")],
    Discriminator(_handler),
]


class ServerlessRequest(RequestModel):
    """Body of /run and /runsync: a job."""

    model_config = examples(
        {
            "input": {
                "prompt": [{"role": "user", "content": "What does the cat eat?"}],
                "types": ["DEFAULT"],
                "vectors": [],
                "n_completion_tokens": 16,
                "temperature": 0,
            }
        },
        {"input": {"request_type": "graph", **COUNTING}},
    )

    input: JobInput = Field(description="What the job is about.")


class JobResponse(WireModel):
    """A job: how far it has come and what has come of it."""

    wire_case: ClassVar[Case | None] = "camel"
    drops_nulls: ClassVar[bool] = True

    id: str = Field(description="Name of the job.")
    status: Status = Field(description="IN_QUEUE, IN_PROGRESS, COMPLETED, FAILED or CANCELLED.")
    output: Any = Field(
        default=None,
        description="The answer: `outputs`, `input` and, where known, `assistant_axis`; to a request of the graph "
        "routes what its route answers.",
    )
    error: str | None = Field(default=None, description="Why it failed.")
    delay_time: int = Field(description="Milliseconds that it waited.")
    execution_time: int | None = Field(default=None, description="Milliseconds that it was worked on.")


class StreamedOutput(WireModel):
    """One output."""

    output: Any = Field(description="The answer so far.")


class JobStreamResponse(WireModel):
    """What a job has put out since it was last asked."""

    wire_case: ClassVar[Case | None] = "camel"
    drops_nulls: ClassVar[bool] = True

    status: Status = Field(description="IN_QUEUE, IN_PROGRESS, COMPLETED, FAILED or CANCELLED.")
    stream: list[StreamedOutput] = Field(description="The newest answer so far, if it is news.")
    error: str | None = Field(default=None, description="Why it failed.")
