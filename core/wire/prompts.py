"""What the bodies of the activation routes share: batches of prompts, and the prompts of the documented examples.

The peer cuts every batch at four prompts; here the limit is the caller's, because a batcher sits behind it.
"""

from typing import Any, Final

from pydantic import ConfigDict, Field, StrictStr

from core.errors import InvalidRequest
from core.wire.base import RequestModel

DEMO_PROMPTS: Final = ["Le chat dort sur le tapis.", "The cat sleeps on the mat."]


def examples(*examples: dict[str, Any]) -> ConfigDict:
    """Model configuration that puts examples into the JSON schema."""
    return ConfigDict(json_schema_extra={"examples": list(examples)})


def check_batch_size(n_prompts: int, limit: int) -> None:
    """Refuse an empty batch and one of more than `limit` prompts.

    Raises:
        InvalidRequest: It is one of the two.
    """
    if n_prompts == 0:
        raise InvalidRequest("At least one prompt is required")
    if n_prompts > limit:
        raise InvalidRequest(
            f"Batch size {n_prompts} exceeds maximum of {limit}",
            f"Send at most {limit} prompts in one request.",
        )


class PromptBatch(RequestModel):
    """The part of a request that lists prompts."""

    prompts: list[StrictStr] = Field(description="The prompts, in the order of the results.")

    def check_batch(self, limit: int) -> None:
        """Refuse an empty batch and one of more than `limit` prompts.

        Raises:
            InvalidRequest: It is one of the two.
        """
        check_batch_size(len(self.prompts), limit)
