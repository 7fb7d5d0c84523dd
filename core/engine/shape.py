"""Sizes of a model, known from its configuration alone: no weights, no torch."""

from dataclasses import dataclass
from typing import Any, Self


@dataclass(frozen=True, slots=True)
class ModelShape:
    """What a `transformers` configuration says about a model's size."""

    n_layers: int
    n_heads: int
    n_kv_heads: int
    head_dim: int
    d_model: int
    vocab_size: int
    max_positions: int

    @property
    def d_heads(self) -> int:
        """Width of the concatenated heads, `hook_z`."""
        return self.n_heads * self.head_dim

    def cache_bytes(self, positions: int, bytes_per_number: int) -> int:
        """Bytes of the keys and values of so many positions."""
        return 2 * self.n_layers * self.n_kv_heads * self.head_dim * positions * bytes_per_number

    @classmethod
    def from_config(cls, config: Any) -> Self:
        """Reads the sizes from a `transformers` configuration, whatever the family calls them."""
        text = config.get_text_config()
        heads = text.num_attention_heads
        return cls(
            n_layers=text.num_hidden_layers,
            n_heads=heads,
            n_kv_heads=getattr(text, "num_key_value_heads", None) or heads,
            head_dim=getattr(text, "head_dim", None) or text.hidden_size // heads,
            d_model=text.hidden_size,
            vocab_size=text.vocab_size,
            max_positions=getattr(text, "max_position_embeddings", None) or 2**31,
        )
