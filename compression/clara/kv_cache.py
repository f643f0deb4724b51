"""The keys and values of a running generation; owned by whoever runs it, never by the model.

Rows may be of different length, may join while others run and may leave early. Row b's positions 0..lengths[b]-1 are
valid, what lies behind is never read. Shapes: B rows, K key heads, C capacity, D head size.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

_GROWTH = 64


class WriteSlot(NamedTuple):
    """The position that one step writes: `positions` [B], `mask` [B, 1, 1, used] true where a row may look."""

    rows: Tensor
    positions: Tensor
    mask: Tensor
    used_length: int


class KVCache:
    """Keys and values [B, K, C, D] per layer, and how many positions of each row are filled."""

    def __init__(self, lengths: list[int], keys: list[Tensor], values: list[Tensor]) -> None:
        self.lengths = lengths
        self._keys, self._values = keys, values

    @classmethod
    def empty(cls, lengths: Sequence[int]) -> "KVCache":
        """Return a cache for rows of these lengths that `begin` will fill."""
        return cls(list(lengths), [], [])

    def add_prompt_layer(self, layer: int, keys: Tensor, values: Tensor) -> None:
        """Take a layer's keys and values [B, K, T, D] of the prompts; layers come in order."""
        if layer != len(self._keys):
            raise ValueError("layers begin in order")
        self._keys.append(functional.pad(keys, (0, 0, 0, _GROWTH)))
        self._values.append(functional.pad(values, (0, 0, 0, _GROWTH)))

    def open_slot(self, device: torch.device) -> WriteSlot:
        """Make room for one more position of every row and say where it is."""
        used = max(self.lengths) + 1
        if used > self._keys[0].shape[2]:
            self._resize(used + _GROWTH - 1)
        positions = torch.tensor(self.lengths, device=device)
        mask = torch.arange(used, device=device)[None] <= positions[:, None]
        return WriteSlot(torch.arange(len(self.lengths), device=device), positions, mask[:, None, None], used)

    def write(self, layer: int, keys: Tensor, values: Tensor, slot: WriteSlot) -> tuple[Tensor, Tensor]:
        """Write [B, K, 1, D] at the slot; return all keys and values up to the longest row."""
        self._keys[layer][slot.rows, :, slot.positions] = keys[:, :, 0]
        self._values[layer][slot.rows, :, slot.positions] = values[:, :, 0]
        return self._keys[layer][:, :, : slot.used_length], self._values[layer][:, :, : slot.used_length]

    def close_slot(self) -> None:
        """Count the position just written."""
        self.lengths = [length + 1 for length in self.lengths]

    def append_rows(self, other: "KVCache") -> None:
        """Take another cache's rows behind the own ones."""
        capacity = max(self._keys[0].shape[2], other._keys[0].shape[2])
        self._resize(capacity)
        other._resize(capacity)
        self._keys = [torch.cat(pair) for pair in zip(self._keys, other._keys, strict=True)]
        self._values = [torch.cat(pair) for pair in zip(self._values, other._values, strict=True)]
        self.lengths = [*self.lengths, *other.lengths]

    def select_rows(self, rows: Sequence[int]) -> None:
        """Drop all rows but these."""
        index = torch.tensor(list(rows), device=self._keys[0].device)
        self._keys = [tensor[index] for tensor in self._keys]
        self._values = [tensor[index] for tensor in self._values]
        self.lengths = [self.lengths[row] for row in rows]

    def _resize(self, capacity: int) -> None:
        more = capacity - self._keys[0].shape[2]
        if more > 0:
            self._keys = [functional.pad(tensor, (0, 0, 0, more)) for tensor in self._keys]
            self._values = [functional.pad(tensor, (0, 0, 0, more)) for tensor in self._values]
