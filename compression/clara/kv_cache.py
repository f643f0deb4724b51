"""The keys and values of a running batch.

Rows may differ in length, join while others run, and leave early. Positions 0..lengths[b]-1 of row b are valid; later
positions are never read.

Shapes: B rows, K key heads, C capacity, T positions, D head size.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

_GROWTH = 64  # positions added at once


class WriteSlot(NamedTuple):
    """The positions [B] that one step writes, and its attention mask [B, 1, 1, used_length], true for valid keys."""

    rows: Tensor
    positions: Tensor
    mask: Tensor
    used_length: int


class KVCache:
    """Keys and values [B, K, C, D] of each layer, and the number of valid positions of each row."""

    def __init__(self, lengths: list[int], keys: list[Tensor], values: list[Tensor]) -> None:
        self.lengths = lengths
        self._keys, self._values = keys, values

    @classmethod
    def empty(cls, lengths: Sequence[int]) -> "KVCache":
        """Return a cache for rows of these lengths; `add_prompt_layer` fills it."""
        return cls(list(lengths), [], [])

    def add_prompt_layer(self, layer: int, keys: Tensor, values: Tensor) -> None:
        """Add the prompts' keys and values [B, K, T, D] of a layer; layers are added in order."""
        if layer != len(self._keys):
            raise ValueError(f"layer {layer} is not in order: layer {len(self._keys)} comes next")
        self._keys.append(functional.pad(keys, (0, 0, 0, _GROWTH)))
        self._values.append(functional.pad(values, (0, 0, 0, _GROWTH)))

    def open_slot(self, device: torch.device) -> WriteSlot:
        """Make room for one more position of every row and return it."""
        used = max(self.lengths) + 1
        if used > self._keys[0].shape[2]:
            self._resize(used + _GROWTH - 1)
        positions = torch.tensor(self.lengths, device=device)
        mask = torch.arange(used, device=device)[None] <= positions[:, None]
        return WriteSlot(torch.arange(len(self.lengths), device=device), positions, mask[:, None, None], used)

    def write(self, layer: int, keys: Tensor, values: Tensor, slot: WriteSlot) -> tuple[Tensor, Tensor]:
        """Write keys and values [B, K, 1, D] at the slot; return both [B, K, used_length, D] up to the longest row."""
        self._keys[layer][slot.rows, :, slot.positions] = keys[:, :, 0]
        self._values[layer][slot.rows, :, slot.positions] = values[:, :, 0]
        return self._keys[layer][:, :, : slot.used_length], self._values[layer][:, :, : slot.used_length]

    def close_slot(self) -> None:
        """Count the position just written."""
        self.lengths = [length + 1 for length in self.lengths]

    def append_rows(self, other: "KVCache") -> None:
        """Append the rows of another cache."""
        capacity = max(self._keys[0].shape[2], other._keys[0].shape[2])
        self._resize(capacity)
        other._resize(capacity)
        self._keys = [torch.cat(pair) for pair in zip(self._keys, other._keys, strict=True)]
        self._values = [torch.cat(pair) for pair in zip(self._values, other._values, strict=True)]
        self.lengths = [*self.lengths, *other.lengths]

    def select_rows(self, rows: Sequence[int]) -> None:
        """Keep these rows only."""
        index = torch.tensor(list(rows), device=self._keys[0].device)
        self._keys = [tensor[index] for tensor in self._keys]
        self._values = [tensor[index] for tensor in self._values]
        self.lengths = [self.lengths[row] for row in rows]

    def _resize(self, capacity: int) -> None:
        more = capacity - self._keys[0].shape[2]
        if more > 0:
            self._keys = [functional.pad(tensor, (0, 0, 0, more)) for tensor in self._keys]
            self._values = [functional.pad(tensor, (0, 0, 0, more)) for tensor in self._values]
