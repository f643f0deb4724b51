"""Linear layers with exact weights or weights in 8 or 4 bits, each a function x [..., in] -> [..., out].

Exact layers that read the same input are computed as one where their weights are adjacent in memory, as `pack_rows`
places them. Quantization and the reasons for its formats are in `weight_quantization`.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

Linear = Callable[[Tensor], Tensor]

# Rows up to which `_weight_int8pack_mm` is faster than multiplying with the codes converted, measured at 4096 x 4096.
_MAX_PACKED_ROWS = {torch.bfloat16: 64, torch.float16: 64, torch.float32: 4}
_torch: Any = torch  # some functions have no types, and the kernel no public name
_multiply_packed: Callable[[Tensor, Tensor, Tensor], Tensor] = _torch._weight_int8pack_mm


@dataclass(frozen=True, slots=True)
class ExactLinear:
    """A layer with a weight [out, in]."""

    weight: Tensor

    def __call__(self, x: Tensor) -> Tensor:
        """Return x [..., in] -> [..., out]."""
        return functional.linear(x, self.weight)


@dataclass(frozen=True, slots=True)
class Int8Linear:
    """A layer with `codes` [out, in] in int8 and a `scale` [out] of each row."""

    codes: Tensor
    scale: Tensor

    def __call__(self, x: Tensor) -> Tensor:
        """Return x [..., in] -> [..., out].

        torch's kernel reads the codes as they are, which is faster for the few rows of a decoding step, x [B, 1, in].
        Encoding rows never take it, so that the memories of a short document are computed as in a batch.
        """
        max_packed_rows = _MAX_PACKED_ROWS.get(self.scale.dtype, 0) if self.codes.device.type == "cpu" else 0
        if x.shape[-2] == 1 and x.numel() // x.shape[-1] <= max_packed_rows:
            rows = x.reshape(-1, x.shape[-1])
            return _multiply_packed(rows, self.codes, self.scale).view(*x.shape[:-1], -1)
        return functional.linear(x, self.codes.to(x.dtype)).mul_(self.scale)


@dataclass(frozen=True, slots=True)
class Int4Linear:
    """A layer with bitsandbytes' NF4 `codes`, their `state`, and bitsandbytes' function that multiplies with them."""

    codes: Tensor
    state: Any
    multiply: Callable[..., Tensor]

    def __call__(self, x: Tensor) -> Tensor:
        """Return x [..., in] -> [..., out]."""
        return self.multiply(x, self.codes, quant_state=self.state)


@dataclass(frozen=True, slots=True)
class _SeparateLinears:
    """Layers with the same input; their outputs are concatenated."""

    linears: tuple[Linear, ...]

    def __call__(self, x: Tensor) -> Tensor:
        return torch.cat([linear(x) for linear in self.linears], dim=-1)


def join_linears(linears: Sequence[Linear]) -> Linear:
    """Return the layers as one, x [..., in] -> [..., sum of out]; no weight is copied.

    Quantized layers stay apart: a multiplication converts a whole weight, and a joined one would need the memory twice.
    """
    if len(linears) == 1:
        return linears[0]
    exact = [linear for linear in linears if isinstance(linear, ExactLinear)]
    if len(exact) == len(linears) and (weight := view_adjacent([linear.weight for linear in exact])) is not None:
        return ExactLinear(weight)
    return _SeparateLinears(tuple(linears))


def pack_rows(tensors: Sequence[Tensor]) -> list[Tensor]:
    """Return copies of tensors [rows, ...] that are adjacent in memory."""
    return list(_torch.split(torch.cat(tuple(tensors)), [len(tensor) for tensor in tensors]))


def view_adjacent(tensors: Sequence[Tensor]) -> Tensor | None:
    """Return tensors [rows, ...] as one view [sum of rows, ...]; None if they are not adjacent in memory."""
    first = tensors[0]
    end = first.storage_offset()
    for tensor in tensors:
        is_next = tensor.untyped_storage().data_ptr() == first.untyped_storage().data_ptr()
        if not (is_next and tensor.is_contiguous() and tensor.storage_offset() == end):
            return None
        end += tensor.numel()
    shape = (sum(len(tensor) for tensor in tensors), *first.shape[1:])
    return first.as_strided(shape, first.stride(), first.storage_offset())
