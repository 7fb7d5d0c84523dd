"""Keys and values of the rows of a running batch: rows of different lengths, which come and go between tokens.

    keys[layer]: [rows, kv heads, positions, head_dim]       row r holds its `lengths[r]` positions from the left

Rows in use are always the first ones: a row that leaves is replaced by the last. transformers' own caches grow all rows
together, so they can neither add nor drop one.

What lies behind a row's positions is hidden from it by the mask and always zero: a mask adds, and infinity or NaN that
an earlier row left there would come through.
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
                store[row, :, length:] = 0
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
            store = self._room(stores, layer, new, used + new.shape[0], max([new.shape[2], *self.lengths]))
            store[used : used + new.shape[0], :, : new.shape[2]] = new
            store[used : used + new.shape[0], :, new.shape[2] :] = 0
        else:
            store = self._room(stores, layer, new, used, max(self.lengths) + 1)
            store[torch.arange(used, device=new.device), :, self._positions] = new[:, :, 0]
        return store

    def _room(
        self, stores: dict[int, torch.Tensor], layer: int, like: torch.Tensor, rows: int, positions: int
    ) -> torch.Tensor:
        """A store with room for `rows` and `positions`; replaced in steps, so that it is rare.

        The new one is as large as its rows need, not as the old one was: it may have held more rows, or longer ones.
        """
        store = stores.get(layer)
        if store is not None and store.shape[0] >= rows and store.shape[2] >= positions:
            return store
        positions = -(-positions // _POSITIONS_STEP) * _POSITIONS_STEP
        grown = like.new_zeros(1 << (rows - 1).bit_length(), like.shape[1], positions, like.shape[3])
        if store is not None and self.lengths:
            used, longest = len(self.lengths), max(self.lengths)
            grown[:used, :, :longest] = store[:used, :, :longest]
        stores[layer] = grown
        return grown
