"""Bodies of `/v1/steer/completion-chat`: the next turn of a conversation, and of `/v1/steer/health`."""

from typing import ClassVar

from pydantic import ConfigDict, Field, StrictBool, StrictStr

from core.wire.base import RequestModel, WireModel
from core.wire.prompts import examples
from core.wire.steering import GREEDY, NPLogprob, NPSteerType, SteerOptions, SteerVectorReads


class NPSteerChatMessage(RequestModel):
    """One message in a steered chat exchange."""

    role: StrictStr = Field(description="Who speaks: system, user, assistant, or what the model's template knows.")
    content: StrictStr = Field(description="What is said.")


class SteerCompletionChatRequest(SteerOptions):
    """A conversation to continue, steered, unsteered or both."""

    model_config = examples(
        {
            "prompt": [{"role": "user", "content": "Où dort le chat ?"}],
            **GREEDY,
            "steerSpecialTokens": False,
        }
    )

    prompt: list[NPSteerChatMessage] = Field(description="The conversation, oldest first.")
    steer_special_tokens: StrictBool = Field(
        description="Steer the prompt's special tokens too: BOS and turn markers. Written ones are always steered."
    )
    is_assistant_axis: StrictBool | None = Field(
        default=False, description="Report where each assistant turn lies on the model's persona directions, if any."
    )


class NPSteerChatResult(WireModel):
    """A conversation, as messages and as the model reads it."""

    chat_template: list[NPSteerChatMessage] = Field(description="The messages; what was written is the last of them.")
    raw: str = Field(description="The conversation as the model reads it, special tokens included.")
    type: NPSteerType | None = Field(default=None, description="Whether it was steered; absent for the input.")
    logprobs: list[NPLogprob] | None = Field(
        default=None, description="One entry per token written; absent unless asked for."
    )


class SteerAssistantAxisTurn(WireModel):
    """One assistant turn's projection onto the persona axes."""

    pc_values: dict[str, float] | None = Field(default=None, description="Projection by title, without steering.")
    pc_values_post_cap: dict[str, float] | None = Field(default=None, description="Projection by title, with steering.")
    snippet: str | None = Field(default=None, description="The beginning of the turn.")


class SteerAssistantAxis(WireModel):
    """Persona monitoring for one steer type, across the assistant's turns."""

    type: NPSteerType | None = Field(default=None, description="Which of the outputs.")
    pc_titles: list[str] | None = Field(default=None, description="Titles of the directions.")
    turns: list[SteerAssistantAxisTurn] | None = Field(default=None, description="One entry per assistant turn.")


class SteerCompletionChatResponse(WireModel):
    """Answer of /v1/steer/completion-chat, or one event of it."""

    drops_nulls: ClassVar[bool] = True

    outputs: list[NPSteerChatResult] = Field(description="One conversation per entry of `types`, in order.")
    input: NPSteerChatResult = Field(description="The conversation that was sent.")
    assistant_axis: list[SteerAssistantAxis] | None = Field(
        default=None, description="One entry per type; absent unless asked for and known for this model."
    )
    vector_reads: list[SteerVectorReads] | None = Field(
        default=None, description="One entry per output; absent unless asked for, and in a stream until the last event."
    )


class _SnakeOnly(WireModel):
    model_config = ConfigDict(alias_generator=None)


class SteerHealthStats(_SnakeOnly):
    """Figures of one model, summed over one replica of each of its deployments."""

    timestamp: float = Field(description="When they were taken, in seconds since 1970.")
    model_name: str = Field(description="The model.")
    engine_initialized: bool = Field(description="Whether texts can be written; true wherever this is answered.")
    num_running_requests: int = Field(description="Texts that are being written.")
    num_waiting_requests: int = Field(description="Texts that wait for a place.")
    process_ram_mb: float = Field(description="Memory of the processes that hold the model, in MiB.")
    queue_time_s: float = Field(description="Seconds that a question about activations would wait now.")
    sae_resident_bytes: int = Field(description="Device bytes that SAEs take.")
    sae_budget_bytes: int = Field(description="Device bytes that they may take.")


class SteerHealthResponse(_SnakeOnly):
    """Answer of /v1/steer/health, in the peer's keys where there is something of the kind here."""

    stats: SteerHealthStats = Field(description="The figures.")
    summary: str = Field(description="The same in words.")
