"""The keys and values of a running batch.

Rows may differ in length, join while others run, and leave early. Positions 0..lengths[b]-1 of row b are valid; later
positions are masked. The capacity grows in large steps, so that most decoding steps have the same shapes.

Shapes: B rows, K key heads, C capacity, T positions, D head size.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

_GROWTH = 64  # positions; the capacity is a multiple


class WriteSlot(NamedTuple):
    """The positions [B] that one step writes, and what it adds to attention scores [B, 1, 1, C]: 0 for valid keys."""

    rows: Tensor
    positions: Tensor
    mask: Tensor


class KVCache:
    """Keys and values [B, 2 K, C, D] of each layer, keys first, and the number of valid positions of each row."""

    def __init__(self, lengths: list[int], layers: list[Tensor]) -> None:
        self.lengths = lengths
        self._layers = layers

    @classmethod
    def empty(cls, lengths: Sequence[int]) -> "KVCache":
        """Return a cache for rows of these lengths; `add_prompt_layer` fills it."""
        return cls(list(lengths), [])

    def add_prompt_layer(self, layer: int, keys_values: Tensor) -> None:
        """Add the prompts' keys and values [B, 2 K, T, D] of a layer; layers are added in order."""
        if layer != len(self._layers):
            raise ValueError(f"layer {layer} is not in order: layer {len(self._layers)} comes next")
        length = keys_values.shape[2]
        self._layers.append(functional.pad(keys_values, (0, 0, 0, _round_capacity(length + 1) - length)))

    def open_slot(self) -> WriteSlot:
        """Make room for one more position of every row and return it."""
        self._resize(_round_capacity(max(self.lengths) + 1))
        states = self._layers[0]
        positions = torch.tensor(self.lengths, device=states.device)
        is_later = torch.arange(states.shape[2], device=states.device)[None] > positions[:, None]  # [B, C]
        mask = torch.zeros(is_later.shape, dtype=states.dtype, device=states.device).masked_fill_(is_later, -math.inf)
        return WriteSlot(torch.arange(len(self.lengths), device=states.device), positions, mask[:, None, None])

    def write(self, layer: int, keys_values: Tensor, slot: WriteSlot) -> Tensor:
        """Write keys and values [B, 2 K, 1, D] at the slot; return all [B, 2 K, C, D] of the layer."""
        self._layers[layer][slot.rows, :, slot.positions] = keys_values[:, :, 0]
        return self._layers[layer]

    def close_slot(self) -> None:
        """Count the position just written."""
        self.lengths = [length + 1 for length in self.lengths]

    def append_rows(self, other: "KVCache") -> None:
        """Append the rows of another cache."""
        capacity = max(self._layers[0].shape[2], other._layers[0].shape[2])
        self._resize(capacity)
        other._resize(capacity)
        self._layers = [torch.cat(pair) for pair in zip(self._layers, other._layers, strict=True)]
        self.lengths = [*self.lengths, *other.lengths]

    def select_rows(self, rows: Sequence[int]) -> None:
        """Keep these rows only."""
        index = torch.tensor(list(rows), device=self._layers[0].device)
        self._layers = [layer[index] for layer in self._layers]
        self.lengths = [self.lengths[row] for row in rows]

    def _resize(self, capacity: int) -> None:
        more = capacity - self._layers[0].shape[2]
        if more > 0:
            self._layers = [functional.pad(layer, (0, 0, 0, more)) for layer in self._layers]


def _round_capacity(positions: int) -> int:
    return -(-positions // _GROWTH) * _GROWTH
