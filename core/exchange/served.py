"""A served model as the front door sees it, and what one request turns into."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from core.catalogue.description import ModelDescription
from core.catalogue.sources import Source
from core.errors import InvalidRequest
from core.prompts import PromptTokenizer, TokenLimit
from core.questions import Question
from core.wire.base import WireModel

Response = TypeVar("Response", bound=WireModel)

BATCH_SUFFIX = " for batch requests"


@dataclass(frozen=True, slots=True)
class Exchange(Generic[Response]):
    """Questions to ask of the model, and how their answers, in the same order, become the response."""

    questions: list[Question]
    reply: Callable[[list[Any]], Response]


@dataclass(frozen=True, slots=True)
class ServedModel:
    """A model's description and tokenizer."""

    description: ModelDescription
    tokenizer: PromptTokenizer

    @property
    def limit(self) -> TokenLimit:
        """Longest prompt of a request with one prompt."""
        return TokenLimit(self.description.limits.token_limit)

    @property
    def batch_limit(self) -> TokenLimit:
        """Longest prompt of a batch. Memory is the batcher's concern, so it is no shorter than elsewhere."""
        return TokenLimit(self.description.limits.token_limit, suffix=BATCH_SUFFIX)

    def bos_positions(self, ids: tuple[int, ...]) -> tuple[int, ...]:
        """Every position that holds BOS, which for GPT-2 is also the end-of-text token."""
        return tuple(place for place, token in enumerate(ids) if token == self.tokenizer.bos_id)


def check_feature(source: Source, index: int) -> None:
    """Refuses a feature that the source does not have."""
    if not 0 <= index < source.d_sae:
        raise InvalidRequest(
            f"Feature index {index} is out of range for {source.id}, which has {source.d_sae} features",
            f"Use an index from 0 to {source.d_sae - 1}.",
        )
