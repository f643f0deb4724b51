"""Linear layers with weights in 8 or 4 bits; adapters, norms and vocabulary matrices are not quantized.

Only weights are rounded, never activations, and each output row has its own scale. So a row of a batch does not depend
on the others, and a latent computed today equals one computed tomorrow. (bitsandbytes' own int8 rounds activations and
picks outlier columns per batch.) 4 bits are bitsandbytes' NF4 in blocks of 64, as in the reference.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from .checkpoint_config import WeightFormat
from .exceptions import CheckpointError

Linear = Callable[[Tensor], Tensor]

# Rows up to which `_weight_int8pack_mm` is faster than multiplying with the codes converted, measured at 4096 x 4096.
_MAX_PACKED_ROWS = {torch.bfloat16: 64, torch.float16: 64, torch.float32: 4}
_torch: Any = torch  # the kernel has no public name
_multiply_packed: Callable[[Tensor, Tensor, Tensor], Tensor] = _torch._weight_int8pack_mm


def make_linear(weight: Tensor, weight_format: WeightFormat | None) -> Linear:
    """Return x [..., in] -> [..., out] for a weight [out, in]; a quantized layer holds no reference to it.

    Raises `CheckpointError` for int4 without bitsandbytes.
    """
    make = {None: _make_exact_linear, "int8": _make_int8_linear, "int4": _make_int4_linear}
    return make[weight_format](weight)


def _make_exact_linear(weight: Tensor) -> Linear:
    return partial(functional.linear, weight=weight)


def _make_int8_linear(weight: Tensor) -> Linear:
    scale = weight.abs().amax(dim=1).float().clamp_min(torch.finfo(torch.float32).tiny) / 127  # [out]
    codes = torch.round(weight.float() / scale[:, None]).to(torch.int8)  # [out, in]
    scale = scale.to(weight.dtype)

    # torch's kernel reads the codes as they are, which is faster for the few rows of a decoding step. Encoding rows
    # never take it, so that the memories of a short document are computed as in a batch.
    max_packed_rows = _MAX_PACKED_ROWS.get(weight.dtype, 0) if weight.device.type == "cpu" else 0

    def apply(x: Tensor) -> Tensor:
        if x.shape[-2] == 1 and x.numel() // x.shape[-1] <= max_packed_rows:
            rows = x.reshape(-1, x.shape[-1])
            return _multiply_packed(rows, codes, scale).view(*x.shape[:-1], -1)
        return functional.linear(x, codes.to(x.dtype)) * scale

    return apply


def _make_int4_linear(weight: Tensor) -> Linear:
    try:
        import bitsandbytes  # noqa: PLC0415 - slow, and only needed here  # pyright: ignore[reportMissingTypeStubs]
    except ImportError as error:
        raise CheckpointError("quantization int4 needs bitsandbytes: pip install 'clara-proxy[quantized]'") from error
    library: Any = bitsandbytes
    quantize: Callable[..., Any] = library.functional.quantize_4bit
    multiply: Callable[..., Tensor] = library.matmul_4bit
    codes, state = quantize(weight.contiguous(), quant_type="nf4")

    def apply(x: Tensor) -> Tensor:
        return multiply(x, codes, quant_state=state)

    return apply
