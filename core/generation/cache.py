"""Keys and values of the rows of a running batch: rows of different lengths, which come and go between tokens.

    keys[layer]: [rows, kv heads, positions, head_dim]       row r holds its `lengths[r]` positions from the left

Rows in use are always the first ones: a row that leaves is replaced by the last. transformers' own caches grow all rows
together, so they can neither add nor drop one.
"""

from typing import Any

import torch
from transformers.cache_utils import Cache

_POSITIONS_STEP = 64


class RowCache(Cache):
    """What a model's attention layers call instead of a transformers cache.

    Attributes:
        lengths: Positions that each row in use holds.
    """

    def __init__(self) -> None:
        super().__init__(layers=[])
        self.lengths: list[int] = []
        self._keys: dict[int, torch.Tensor] = {}
        self._values: dict[int, torch.Tensor] = {}
        self._joining: list[int] = []
        self._positions: torch.Tensor | None = None

    def join(self, lengths: list[int]) -> None:
        """The next forward pass is over new prompts of these lengths, padded right."""
        self._joining = lengths
        self._positions = None

    def extend(self, device: torch.device) -> None:
        """The next forward pass is over one more token of every row."""
        self._joining = []
        self._positions = torch.tensor(self.lengths, device=device)

    def commit(self) -> None:
        """The forward pass is over: what it wrote counts."""
        if self._joining:
            self.lengths += self._joining
        else:
            self.lengths = [length + 1 for length in self.lengths]

    def drop(self, row: int) -> None:
        """Forgets a row and puts the last one in its place."""
        last = len(self.lengths) - 1
        if row != last:
            length = self.lengths[last]
            for store in (*self._keys.values(), *self._values.values()):
                store[row, :, :length] = store[last, :, :length]
            self.lengths[row] = self.lengths[last]
        self.lengths.pop()
        if not self.lengths:
            self._keys.clear()
            self._values.clear()

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, layer_idx: int, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Stores new keys and values, `[rows, kv heads, new positions, head_dim]`; returns those to attend to."""
        keys = self._store(self._keys, layer_idx, key_states)
        values = self._store(self._values, layer_idx, value_states)
        if self._positions is None:
            return key_states, value_states
        longest = max(self.lengths) + 1
        return keys[: len(self.lengths), :, :longest], values[: len(self.lengths), :, :longest]

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """Positions that a forward pass finds in the cache. Positions and masks are passed explicitly."""
        return 0 if self._positions is None else max(self.lengths)

    def _store(self, stores: dict[int, torch.Tensor], layer: int, new: torch.Tensor) -> torch.Tensor:
        used = len(self.lengths)
        if self._positions is None:
            store = self._room(stores, layer, new, used + new.shape[0], new.shape[2])
            store[used : used + new.shape[0], :, : new.shape[2]] = new
        else:
            store = self._room(stores, layer, new, used, max(self.lengths) + 1)
            store[torch.arange(used, device=new.device), :, self._positions] = new[:, :, 0]
        return store

    def _room(
        self, stores: dict[int, torch.Tensor], layer: int, like: torch.Tensor, rows: int, positions: int
    ) -> torch.Tensor:
        """A store with room for `rows` and `positions`; grown in steps, so that growing is rare."""
        store = stores.get(layer)
        if store is not None and store.shape[0] >= rows and store.shape[2] >= positions:
            return store
        held_rows, held_positions = (0, 0) if store is None else (store.shape[0], store.shape[2])
        rows = max(held_rows, 1 << (rows - 1).bit_length())
        positions = max(held_positions, -(-positions // _POSITIONS_STEP) * _POSITIONS_STEP)
        grown = like.new_zeros(rows, like.shape[1], positions, like.shape[3])
        if store is not None:
            grown[:held_rows, :, :held_positions] = store
        stores[layer] = grown
        return grown
