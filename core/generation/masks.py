"""Attention masks for rows of different lengths, in the form that transformers passes through untouched.

    prefill   [batch, 1, pos, pos]       causal; padding is on the right, where causality hides it
    decode    [batch, 1, 1, longest]     each row sees its own positions

Models whose layers look back only so far get a second mask for those layers.
"""

from collections.abc import Sequence
from typing import Any

import torch

from core.errors import InvalidRequest

Masks = torch.Tensor | dict[str, torch.Tensor]
_SLIDING, _FULL = "sliding_attention", "full_attention"


class AttentionMasks:
    """Builds the masks of one model.

    Raises:
        InvalidRequest: The model does not remember by attention alone, so it can not generate here.
    """

    def __init__(self, model: Any) -> None:
        config = model.config.get_text_config()
        kinds = set(getattr(config, "layer_types", None) or ())
        if getattr(model, "_is_stateful", False) or not kinds <= {_SLIDING, _FULL}:
            raise InvalidRequest(
                "This model keeps a state besides attention; generating with it is not supported.",
                "Serve it for activations only.",
            )
        self._dtype: torch.dtype = model.dtype
        window: int | None = getattr(config, "sliding_window", None)
        self._window = None if kinds == {_FULL} else window
        self._by_kind = kinds >= {_SLIDING, _FULL}

    def prefill(self, positions: int, device: torch.device) -> Masks:
        """For new prompts of up to `positions` tokens."""
        at = torch.arange(positions, device=device)
        return self._masks(at.view(1, -1, 1), at.view(1, 1, -1))

    def decode(self, lengths: Sequence[int], device: torch.device) -> Masks:
        """For one more token after rows of `lengths`."""
        query = torch.tensor(lengths, device=device).view(-1, 1, 1)
        return self._masks(query, torch.arange(max(lengths) + 1, device=device).view(1, 1, -1))

    def _masks(self, query: torch.Tensor, key: torch.Tensor) -> Masks:
        causal = key <= query
        if self._window is None:
            return self._additive(causal)
        sliding = self._additive(causal & (key > query - self._window))
        return {_FULL: self._additive(causal), _SLIDING: sliding} if self._by_kind else sliding

    def _additive(self, seen: torch.Tensor) -> torch.Tensor:
        mask = torch.zeros(seen.shape, dtype=self._dtype, device=seen.device)
        return mask.masked_fill_(~seen, torch.finfo(self._dtype).min).unsqueeze(1)
