"""`vector_reads` in a request: named directions of the caller's own, read over messages while text is generated.

The assistant axis in its general form: any model, any hook point, nothing on the cluster's disk.
"""

from typing import Final, Literal

from pydantic import Field, StrictStr

from core.errors import InvalidRequest
from core.wire.base import Number, RequestModel, WireModel

MAX_READS: Final = 32


class VectorRead(RequestModel):
    """One direction to read."""

    name: StrictStr = Field(min_length=1, max_length=200, description="What the answer calls it.")
    hook: StrictStr = Field(description="Hook point to read, such as blocks.7.hook_resid_post.")
    direction: list[Number] = Field(min_length=1, description="The direction, as wide as the hook point.")
    pooling: Literal["mean", "last", "max"] = Field(
        default="mean",
        description="Read the mean activation of a run of tokens, its last one, or the largest reading of all.",
    )
    over: Literal["message", "prompt", "all"] = Field(
        default="message",
        description="What is pooled: each message (in a completion the prompt and the new text), everything before "
        "the new text, or everything.",
    )
    normalize: Literal["none", "l2"] = Field(
        default="none", description="l2 scales an activation, once centred, to length 1 before it is read."
    )
    centre: list[Number] | None = Field(
        default=None, description="Subtracted from an activation first; as wide as the direction."
    )


class VectorReadResult(WireModel):
    """What one direction read."""

    name: str = Field(description="Name from the request.")
    values: list[float] = Field(description="One value per message in order, or a single one.")


def check_reads(reads: list[VectorRead]) -> None:
    """Refuse too many reads, a name that is used twice, and vectors that do not fit each other.

    Raises:
        InvalidRequest: It is one of these.
    """
    if len(reads) > MAX_READS:
        raise InvalidRequest(f"vectorReads has {len(reads)} entries, max is {MAX_READS}")
    names = [read.name for read in reads]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise InvalidRequest(f"vectorReads names '{twice}' twice", "Give every read a name of its own.")
    for read in reads:
        if read.centre is not None and len(read.centre) != len(read.direction):
            raise InvalidRequest(
                f"The centre of '{read.name}' has {len(read.centre)} numbers, its direction {len(read.direction)}"
            )
        if not any(read.direction):
            raise InvalidRequest(f"The direction of '{read.name}' is zero, so it reads nothing")
