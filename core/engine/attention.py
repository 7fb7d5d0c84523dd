"""Attention probabilities and values of chosen layers, read during an otherwise ordinary forward pass.

`sdpa` never forms the probabilities, so a pass that needs them switches the model to an attention function of ours for
its duration. In the chosen layers it calls the model family's own eager attention, which returns them (soft-capping,
sinks and scaling included), and everywhere else the usual function. Other passes are not touched.
"""

import sys
from collections.abc import Callable, Collection, Generator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from core.engine.hook_points import HookPoints
from core.errors import InvalidRequest

_NAME = "rayscope_recording"


@dataclass(frozen=True, slots=True)
class AttentionReading:
    """What one attention layer did.

    Attributes:
        pattern: Probabilities after the softmax, `[batch, n_heads, query_pos, key_pos]`.
        values: Value vectors, `[batch, n_kv_heads, key_pos, head_dim]`.
    """

    pattern: torch.Tensor
    values: torch.Tensor


def readable_attention(hook_points: HookPoints, layer: int) -> nn.Module:
    """The attention module of a layer whose pattern can be read.

    Raises:
        InvalidRequest: The layer has no softmax attention, or its implementation can not be replaced.
    """
    module = hook_points.attention_module(layer)
    if module is None:
        raise InvalidRequest(
            f"Layer {layer} is a linear-attention layer with no softmax attention pattern.",
            "Ask for another layer.",
        )
    if _eager_attention(module) is None:
        raise InvalidRequest(
            f"{type(module).__name__} does not expose its attention pattern.",
            "Attention and DFA need a model whose attention goes through transformers' attention interface.",
        )
    return module


@contextmanager
def recording_attention(
    model: Any,
    hook_points: HookPoints,
    layers: Collection[int],
    into: dict[int, AttentionReading],
    done: Callable[[], None],
) -> Generator[None]:
    """While active, a forward pass of `model` stores what `layers` attend to and calls `done` after each of them.

    Raises:
        InvalidRequest: A layer has no softmax attention, or its implementation can not be replaced.
    """
    if not layers:
        yield
        return
    from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS, eager_mask
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

    layer_of = {readable_attention(hook_points, layer): layer for layer in layers}
    config = model.config.get_text_config()
    usual = config._attn_implementation

    def attend(module: nn.Module, query: Any, key: Any, value: Any, mask: Any, **kwargs: Any) -> Any:
        eager = _eager_attention(module)
        layer = layer_of.get(module)
        if layer is None or eager is None:
            usual_attention: Any = ALL_ATTENTION_FUNCTIONS.get_interface(usual, eager)  # pyright: ignore[reportArgumentType]
            return usual_attention(module, query, key, value, mask, **kwargs)
        output, pattern = eager(module, query, key, value, mask, **kwargs)
        into[layer] = AttentionReading(pattern, value)
        done()
        return output, pattern

    ALL_ATTENTION_FUNCTIONS.register(_NAME, attend)
    ALL_MASK_ATTENTION_FUNCTIONS.register(_NAME, eager_mask)
    config._attn_implementation = _NAME
    try:
        yield
    finally:
        config._attn_implementation = usual
        # The registry is the library's and lasts; what was recorded must not.
        ALL_ATTENTION_FUNCTIONS.register(_NAME, _idle)


def _idle(*_: Any, **__: Any) -> Any:
    """Stands in the registry between recordings."""
    raise RuntimeError("no attention is being recorded")


def _eager_attention(module: nn.Module) -> Callable[..., Any] | None:
    """The eager attention function of the model family that `module` belongs to."""
    return getattr(sys.modules[type(module).__module__], "eager_attention_forward", None)
