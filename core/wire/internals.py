"""Bodies of `/v1/activation/raw` and `attention`: the model itself, no SAE involved."""

from typing import Final

from pydantic import Field

from core.errors import InvalidRequest
from core.wire.base import RequestModel, WireModel
from core.wire.prompts import DEMO_PROMPTS, check_batch_size, examples

_RAW_HOOK_POINT: Final = "residual_stream"
_RAW_TYPE: Final = "final_output_token"


class ActivationRawRequest(RequestModel):
    """Residual-stream vectors at each prompt's last token; no SAE is involved."""

    model_config = examples({"prompts": DEMO_PROMPTS, "model": "rayscope-demo", "layers": [0, 2]})

    prompts: list[str] = Field(description="The prompts, in the order of the results.")
    layers: list[int] | None = Field(default=None, description="Layers to read; null or empty means all.")
    model: str | None = Field(
        default=None, description="Model to run. May be left out where the cluster serves only one."
    )
    hook_point: str = Field(default=_RAW_HOOK_POINT, description="What to read: residual_stream.")
    type: str = Field(default=_RAW_TYPE, description="Where to read it: final_output_token.")

    def check(self, batch_limit: int) -> None:
        """Refuse what this route cannot read, and empty or too large batches.

        Raises:
            InvalidRequest: The request is one of these.
        """
        if self.hook_point != _RAW_HOOK_POINT:
            raise InvalidRequest(
                f"Unsupported hook_point '{self.hook_point[:64]}'. Only '{_RAW_HOOK_POINT}' is supported."
            )
        if self.type != _RAW_TYPE:
            raise InvalidRequest(f"Unsupported type '{self.type[:64]}'. Only '{_RAW_TYPE}' is supported.")
        check_batch_size(len(self.prompts), batch_limit)

    def wanted_layers(self, n_layers: int) -> tuple[int, ...]:
        """The layers to read, ascending and without repeats; all `n_layers` of them by default.

        Raises:
            InvalidRequest: The model has no such layer.
        """
        wanted = sorted(set(self.layers or range(n_layers)))
        wrong = [layer for layer in wanted if not 0 <= layer < n_layers]
        if wrong:
            raise InvalidRequest(
                f"Layers {wrong[:8]} are out of range; this model has {n_layers} layers (0-{n_layers - 1})."
            )
        return tuple(wanted)


class ActivationRawLayer(WireModel):
    """One layer's vectors."""

    layer: int = Field(description="The layer.")
    token_indices: list[int] = Field(description="Positions read.")
    values: list[list[float]] = Field(description="One vector of d_model numbers per position.")


class ActivationRawPromptResult(WireModel):
    """Answer for one prompt."""

    token_strings: list[str] = Field(description="The prompt's tokens.")
    token_ids: list[int] = Field(description="Their ids.")
    activations: list[ActivationRawLayer] = Field(description="One entry per layer, ascending.")


class ActivationRawResponse(WireModel):
    """Answer of /v1/activation/raw."""

    hook_point: str = Field(description="What was read.")
    type: str = Field(description="Where it was read.")
    dtype: str = Field(description="Number format of the model.")
    device: str = Field(description="Kind of device that computed it.")
    results: list[ActivationRawPromptResult] = Field(description="One result per prompt, in order.")


class ActivationAttentionRequest(RequestModel):
    """Attention pattern of one head."""

    model_config = examples({"prompt": DEMO_PROMPTS[0], "model": "rayscope-demo", "layer": 0, "head": 0})

    prompt: str = Field(description="The prompt.")
    model: str = Field(description="Model to run: a name or alias from /v1/models.")
    layer: int = Field(description="Layer of the head.")
    head: int = Field(description="The head.")

    def check(self, n_layers: int, n_heads: int) -> None:
        """Refuse a head that the model does not have.

        Raises:
            InvalidRequest: The layer or the head is out of range.
        """
        if not 0 <= self.layer < n_layers:
            raise InvalidRequest(f"Invalid layer: {self.layer}. Must be in [0, {n_layers}).")
        if not 0 <= self.head < n_heads:
            raise InvalidRequest(f"Invalid head: {self.head}. Must be in [0, {n_heads}).")


class ActivationAttentionResponse(WireModel):
    """Answer of /v1/activation/attention: the pattern's largest entries, sparse."""

    seq_len: int = Field(description="Length of the prompt in tokens, BOS included.")
    attention_indices: list[int] = Field(description="Flat positions, `query * seqLen + key`, ascending.")
    attention_values: list[float] = Field(description="The probability at each of them.")
    max_activation: float = Field(description="Largest probability outside the first row and column.")
    tokens: list[str] = Field(description="The prompt's tokens, BOS included.")
