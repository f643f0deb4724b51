"""A base model's decoder layers with an adapter applied, in as few operations as possible.

Layers that read the same input share one multiplication where their weights are adjacent, and one with the adapter's
`down` factors. The base is never written to, so that calls with different adapters may run at the same time. The
adapter of a small model in float32 is merged into copies of the weights: there, its multiplications take a third of the
time. In bfloat16 a merged weight would be rounded once more, and the copy of a large one would take its size again.

Shapes: T positions, H hidden, N heads, K key heads, D head size, I intermediate, r rank.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from .base_weights import BaseWeights, DecoderLayer
from .linear_layers import ExactLinear, Linear, join_linears, pack_rows, view_adjacent
from .lora import INPUT_GROUPS, SCALING, Adapter, LoraPair

_torch: Any = torch  # `block_diag` has no types
_MAX_MERGED_BYTES = 1 << 26  # of one adapter


class AdaptedLayer(NamedTuple):
    """A decoder layer: the weights [H] of its norms, and its linear layers, joined by their input.

    `qkv` returns [..., (N + 2 K) D], `output` and `down` return [..., H], `gate_up` returns [..., 2 I].
    """

    attention_norm: Tensor
    mlp_norm: Tensor
    qkv: Linear
    output: Linear
    gate_up: Linear
    down: Linear


class _Up(NamedTuple):
    """A factor [r, columns] transposed, the columns of the output that it changes, and those of A x that it reads."""

    weight: Tensor
    outputs: slice
    ranks: slice


@dataclass(frozen=True, slots=True)
class _AdaptedLinear:
    """Joined linear layers W with an adapter: W x + 2 B (A x)."""

    linear: Linear
    down: Tensor  # [sum of r, in]
    ups: tuple[_Up, ...]

    def __call__(self, x: Tensor) -> Tensor:
        out = self.linear(x)  # [..., out]
        rows = out.view(-1, out.shape[-1])
        reduced = functional.linear(x, self.down).view(len(rows), -1)  # [rows, sum of r]
        for up in self.ups:
            rows[:, up.outputs].addmm_(reduced[:, up.ranks], up.weight, alpha=SCALING)
        return out


def adapt_layers(base: BaseWeights, adapter: Adapter | None) -> tuple[AdaptedLayer, ...]:
    """Return the layers of a base model with an adapter, or without one."""
    if adapter is None:
        return tuple(_join_layer(layer, [join_linears(linears) for linears in _group(layer)]) for layer in base.layers)
    sizes = [pair.up.shape[0] * pair.down.shape[1] for pairs in adapter for pair in pairs.values()]
    should_merge = base.dtype == torch.float32 and sum(sizes) * base.dtype.itemsize <= _MAX_MERGED_BYTES
    return tuple(
        _join_layer(
            layer,
            [
                _adapt_linears(linears, [pairs[name] for name in modules], should_merge=should_merge)
                for linears, modules in zip(_group(layer), INPUT_GROUPS, strict=True)
            ],
        )
        for layer, pairs in zip(base.layers, adapter, strict=True)
    )


def pack_adapter(adapter: Adapter) -> Adapter:
    """Return an adapter whose `down` factors of the same input are adjacent, so that joined layers need no copies."""
    packed: list[dict[str, LoraPair]] = []
    for pairs in adapter:
        downs = {
            name: down
            for modules in INPUT_GROUPS
            for name, down in zip(modules, pack_rows([pairs[name].down for name in modules]), strict=True)
        }
        packed.append({name: LoraPair(downs[name], pair.up) for name, pair in pairs.items()})
    return tuple(packed)


def _group(layer: DecoderLayer) -> list[list[Linear]]:
    """Return the linear layers by their input, in the order of `AdaptedLayer`."""
    return [[layer.linears[name] for name in modules] for modules in INPUT_GROUPS]


def _join_layer(layer: DecoderLayer, linears: Sequence[Linear]) -> AdaptedLayer:
    return AdaptedLayer(layer.attention_norm, layer.mlp_norm, *linears)


def _adapt_linears(linears: Sequence[Linear], pairs: Sequence[LoraPair], *, should_merge: bool) -> Linear:
    exact = [linear for linear in linears if isinstance(linear, ExactLinear)]
    if should_merge and len(exact) == len(linears):
        merged = [
            torch.addmm(linear.weight, pair.up, pair.down, alpha=SCALING)
            for linear, pair in zip(exact, pairs, strict=True)
        ]
        return ExactLinear(torch.cat(merged))
    downs = [pair.down for pair in pairs]
    down = view_adjacent(downs)
    # On an accelerator, a further operation costs more than zeros in a factor; elsewhere the zeros do, and take memory.
    ups = _place_ups(pairs, as_block=downs[0].device.type != "cpu")
    return _AdaptedLinear(join_linears(linears), torch.cat(downs) if down is None else down, ups)


def _place_ups(pairs: Sequence[LoraPair], *, as_block: bool) -> tuple[_Up, ...]:
    """Return the `up` factors with their places, or as one block-diagonal factor."""
    if as_block:
        block: Tensor = _torch.block_diag(*(pair.up for pair in pairs)).T.contiguous()  # [sum of r, sum of out]
        return (_Up(block, slice(0, block.shape[1]), slice(0, block.shape[0])),)
    ups: list[_Up] = []
    outputs = ranks = 0
    for pair in pairs:
        columns, rank = pair.up.shape
        ups.append(_Up(pair.up.T, slice(outputs, outputs + columns), slice(ranks, ranks + rank)))
        outputs, ranks = outputs + columns, ranks + rank
    return tuple(ups)
