"""Weights in 8 or 4 bits, computed with as they are; adapters, norms and vocabulary matrices stay as they were.

Only weights are rounded, never activations, and every row by itself: what a row gives does not depend on what else is
in its batch, so a latent made today equals one made tomorrow. (bitsandbytes' own int8 rounds activations and picks
outlier columns batch by batch.) 4 bits are bitsandbytes' NF4 in blocks of 64, as the reference's `quantization` says.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn import functional

from .exceptions import CheckpointError
from .lora import Linear

WeightFormat = Literal["int8", "int4"]


def make_linear(weight: Tensor, weight_format: WeightFormat | None) -> Linear:
    """Return x [..., in] -> [..., out] for a weight [out, in], which is let go when it was rounded.

    Raises `CheckpointError` for int4 without bitsandbytes.
    """
    make = {None: _make_exact_linear, "int8": _make_int8_linear, "int4": _make_int4_linear}
    return make[weight_format](weight)


def _make_exact_linear(weight: Tensor) -> Linear:
    return partial(functional.linear, weight=weight)


def _make_int8_linear(weight: Tensor) -> Linear:
    scale = weight.abs().amax(dim=1).float().clamp_min(torch.finfo(torch.float32).tiny) / 127  # [out]
    codes = torch.round(weight.float() / scale[:, None]).to(torch.int8)
    scale = scale.to(weight.dtype)

    def apply(x: Tensor) -> Tensor:
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
