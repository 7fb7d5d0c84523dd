"""The serverless surface: a job's input as a conversation to continue, and a job's state as its envelope.

Everything about writing is `steering_chat`'s; here are the handler's rules: its errors, in its order and in its words,
its system prompt, and its replies in snake_case.
"""

import json
import secrets
from typing import Any, Final

from core.errors import InvalidRequest
from core.job_state import JobState
from core.wire.base import WireModel, render
from core.wire.serverless import JobResponse, JobStreamResponse, ServerlessInput, StreamedOutput
from core.wire.steering import NPSteerType, NPSteerVector
from core.wire.steering_chat import NPSteerChatMessage, SteerCompletionChatRequest

SYSTEM_PROMPT: Final = (
    "Keep your responses short and to the point, ideally less than 3 sentences unless asked otherwise."
)
_SEED_BITS: Final = 53  # what a JSON number carries exactly
_SYSTEM: Final = "system"


def as_chat(asked: ServerlessInput, model: str) -> SteerCompletionChatRequest:
    """The same question in the words of `/v1/steer/completion-chat`.

    Args:
        asked: The job's input.
        model: The model's id.

    Raises:
        InvalidRequest: It is no question; the message is the handler's.
    """
    if not asked.prompt:
        raise InvalidRequest("prompt is required")
    if not asked.vectors and NPSteerType.STEERED in asked.types:
        raise InvalidRequest("vectors are required when STEERED type is requested")
    if asked.types != sorted(asked.types, key=[NPSteerType.STEERED, NPSteerType.DEFAULT].index):
        raise InvalidRequest("STEERED must come before DEFAULT")
    return SteerCompletionChatRequest(
        prompt=with_system_prompt(asked.prompt),
        model=model,
        steer_method=asked.steer_method,
        normalize_steering=asked.normalize_steering,
        types=asked.types,
        vectors=[
            NPSteerVector(steering_vector=one.steering_vector, strength=one.strength, hook=one.hook)
            for one in asked.vectors
        ],
        n_completion_tokens=asked.n_completion_tokens,
        temperature=asked.temperature,
        strength_multiplier=asked.strength_multiplier,
        freq_penalty=asked.freq_penalty,
        seed=secrets.randbits(_SEED_BITS) if asked.seed is None else asked.seed,
        steer_special_tokens=asked.steer_special_tokens,
        is_assistant_axis=True,
    )


def with_system_prompt(messages: list[NPSteerChatMessage]) -> list[NPSteerChatMessage]:
    """The conversation with the handler's system prompt in front, unless it is there already."""
    first, *rest = messages
    if first.role != _SYSTEM:
        return [NPSteerChatMessage(role=_SYSTEM, content=SYSTEM_PROMPT), *messages]
    if SYSTEM_PROMPT in first.content:
        return messages
    content = f"{SYSTEM_PROMPT}\n\n{first.content}" if first.content else SYSTEM_PROMPT
    return [NPSteerChatMessage(role=_SYSTEM, content=content), *rest]


def job_output(response: WireModel) -> Any:
    """A response as a job holds it: JSON in snake_case."""
    return json.loads(render(response, "snake"))


def job_response(job: JobState) -> JobResponse:
    """A job's envelope. What a failed job has written is no answer."""
    return JobResponse(
        id=job.id,
        status=job.status,
        output=job.output if job.status == "COMPLETED" else None,
        error=job.error,
        delay_time=round(job.delay_s * 1000),
        execution_time=None if job.execution_s is None else round(job.execution_s * 1000),
    )


def job_stream(job: JobState, *, news: bool) -> JobStreamResponse:
    """What a job says to a reader of its stream.

    Args:
        job: The job.
        news: Whether its output has not been read yet.
    """
    stream = [StreamedOutput(output=job.output)] if news else []
    return JobStreamResponse(status=job.status, stream=stream, error=job.error)
