"""Attention that attends as it did in an earlier pass: patterns are given, values are computed anew.

The pass runs the unmodified model; only the function that its attention layers call is another one for its duration, as
in `core.engine.attention`, which also records the patterns. Both passes must be over the same positions.
"""

from collections.abc import Generator, Mapping
from contextlib import contextmanager
from typing import Any, Final

import torch
from torch import Tensor, nn

from core.engine.attention import AttentionReading, readable_attention
from core.engine.model import EagerModel

_NAME: Final = "rayscope_replaying"


@contextmanager
def replayed_attention(model: EagerModel, readings: Mapping[int, AttentionReading]) -> Generator[None]:
    """While active, a forward pass attends as `readings` says, layer by layer.

    Raises:
        InvalidRequest: A layer's attention can not be replaced.
    """
    from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS, eager_mask
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

    patterns = {readable_attention(model.hook_points, layer): one.pattern for layer, one in readings.items()}
    config = model.module.config.get_text_config()
    usual = config._attn_implementation

    def attend(module: nn.Module, _: Tensor, __: Tensor, value: Tensor, *___: Any, **____: Any) -> tuple[Tensor, None]:
        pattern = patterns[module]
        heads = value.repeat_interleave(pattern.shape[1] // value.shape[1], dim=1)
        return torch.matmul(pattern, heads).transpose(1, 2).contiguous(), None

    ALL_ATTENTION_FUNCTIONS.register(_NAME, attend)
    ALL_MASK_ATTENTION_FUNCTIONS.register(_NAME, eager_mask)
    config._attn_implementation = _NAME
    try:
        yield
    finally:
        config._attn_implementation = usual
        ALL_ATTENTION_FUNCTIONS.register(_NAME, _idle)  # the registry is the library's and lasts; patterns must not


def _idle(*_: Any, **__: Any) -> Any:
    """Stands in the registry between passes."""
    raise RuntimeError("no attention is being replayed")
