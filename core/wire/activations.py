"""Bodies of `/v1/activation/single` and `single-batch`: one feature, or a direction of the caller's, over prompts.

Names, types and strictness are the published ones of the peer (`tests/contract/data/inference.json`), here and in the
modules beside this one. What JSON schema can say is a schema error (422); what it cannot, and what needs no knowledge
of the cluster, is a method that raises `InvalidRequest` (400) in the peer's words. Range checks against a model (number
of layers, of tokens) take that number as an argument.
"""

import re
from dataclasses import dataclass
from typing import Final

from pydantic import Field, StrictStr

from core.errors import InvalidRequest
from core.wire.base import Number, RequestModel, WireModel
from core.wire.prompts import DEMO_PROMPTS, PromptBatch, examples

_DECIMAL: Final = re.compile(r"[0-9]{1,18}")


def parse_index(index: str) -> int:
    """Read a feature index that travels as a string.

    Raises:
        InvalidRequest: It is not a plain non-negative decimal.
    """
    if not _DECIMAL.fullmatch(index):
        raise InvalidRequest(
            f"Invalid index {index[:32]!r}: expected a non-negative integer",
            'Send the feature\'s index in decimal digits, for example "14057".',
        )
    return int(index)


@dataclass(frozen=True, slots=True)
class FeatureTarget:
    """One feature of one source."""

    source: str
    index: int


@dataclass(frozen=True, slots=True)
class VectorTarget:
    """A caller's own direction, `[d_hook]`, read at a hook point."""

    vector: tuple[float, ...]
    hook: str


class FeatureOrVector(RequestModel):
    """The part of a request that names what to measure: `source` with `index`, or `vector` with `hook`."""

    model: StrictStr = Field(description="Model to run: a name or alias from /v1/models.")
    source: StrictStr | None = Field(default=None, description="Source of the feature. Goes with `index`.")
    index: StrictStr | None = Field(
        default=None, description="Index of the feature in its source, as a string. Goes with `source`."
    )
    vector: list[Number] | None = Field(
        default=None, description="Direction to project activations on, not normalised. Goes with `hook`."
    )
    hook: StrictStr | None = Field(
        default=None,
        description="Hook point that `vector` reads, such as blocks.2.hook_resid_post. Goes with `vector`.",
    )

    def target(self) -> FeatureTarget | VectorTarget:
        """What to measure. Half a pair next to a whole one is tolerated, as the peer tolerates it.

        Raises:
            InvalidRequest: Not exactly one pair is complete, the index is no index, or the vector is empty.
        """
        by_feature = self.source is not None and self.index is not None
        by_vector = self.vector is not None and self.hook is not None
        if by_feature == by_vector:
            raise InvalidRequest(
                "Invalid request data: exactly one of layer/index or vector must be provided",
                "Send `source` and `index`, or `vector` and `hook`.",
            )
        if self.source is not None and self.index is not None:
            return FeatureTarget(self.source, parse_index(self.index))
        if not self.vector or self.hook is None:
            raise InvalidRequest("Invalid request data: vector is empty")
        return VectorTarget(tuple(self.vector), self.hook)


class ActivationSingleRequest(FeatureOrVector):
    """Activations of one feature, or along one vector, over a prompt."""

    model_config = examples(
        {"prompt": DEMO_PROMPTS[0], "model": "rayscope-demo", "source": "0-res-demo", "index": "17"}
    )

    prompt: StrictStr = Field(description="The prompt.")


class ActivationSingleBatchRequest(PromptBatch, FeatureOrVector):
    """Activations of one feature, or along one vector, over several prompts."""

    model_config = examples({"prompts": DEMO_PROMPTS, "model": "rayscope-demo", "source": "0-res-demo", "index": "17"})


class ActivationValues(WireModel):
    """One feature over one prompt."""

    values: list[float] = Field(description="Activation at each token of `tokens`.")
    max_value: float = Field(description="Largest of `values`.")
    max_value_index: int = Field(description="Position of the first largest value in `values`.")
    dfa_values: list[float] | None = Field(
        default=None,
        description="Direct feature attribution of each token to the token of the maximum; null without attention.",
    )
    dfa_max_value: float | None = Field(default=None, description="Largest of `dfaValues`.")
    dfa_target_index: int | None = Field(default=None, description="Position that `dfaValues` attribute.")


class ActivationSingleBatchResult(WireModel):
    """Answer for one prompt."""

    activation: ActivationValues = Field(description="The activations.")
    tokens: list[str] = Field(description="The prompt's tokens; for a feature, without the leading BOS.")
    tokens_is_special: list[bool] = Field(
        description="For each token, whether it is BOS, EOS, padding, a chat turn marker or the like."
    )


class ActivationSingleResponse(ActivationSingleBatchResult):
    """Answer of /v1/activation/single."""


class ActivationSingleBatchResponse(WireModel):
    """Answer of /v1/activation/single-batch."""

    results: list[ActivationSingleBatchResult] = Field(description="One result per prompt, in order.")
