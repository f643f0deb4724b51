"""Linear layers with weights in 8 or 4 bits; adapters, norms and vocabulary matrices are not quantized.

Only weights are rounded, never activations, and each output row has its own scale. So a row of a batch does not depend
on the others, and a latent computed today equals one computed tomorrow. (bitsandbytes' own int8 rounds activations and
picks outlier columns per batch.) 4 bits are bitsandbytes' NF4 in blocks of 64, as in the reference.
"""

from collections.abc import Callable, Mapping
from functools import partial
from importlib.metadata import version
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from ..models.errors import CheckpointError
from .checkpoint_config import WeightFormat

Linear = Callable[[Tensor], Tensor]

# Rows up to which `_weight_int8pack_mm` is faster than multiplying with the codes converted, measured at 4096 x 4096.
_MAX_PACKED_ROWS = {torch.bfloat16: 64, torch.float16: 64, torch.float32: 4}
_torch: Any = torch  # the kernel has no public name
_multiply_packed: Callable[[Tensor, Tensor, Tensor], Tensor] = _torch._weight_int8pack_mm


def make_linear(weight: Tensor, weight_format: WeightFormat | None) -> Linear:
    """Return x [..., in] -> [..., out] for a weight [out, in]; a quantized layer holds no reference to it.

    Raises `CheckpointError` for int4 without bitsandbytes.
    """
    if weight_format is None:
        return make_exact_linear(weight)
    return make_quantized_linear(quantize_weight(weight, weight_format), weight_format)


def make_exact_linear(weight: Tensor) -> Linear:
    """Return x [..., in] -> [..., out] for a weight [out, in]."""
    return partial(functional.linear, weight=weight)


def describe_format(weight_format: WeightFormat) -> str:
    """Return a name that changes when the quantized form of a weight does."""
    return f"int4 bitsandbytes {version('bitsandbytes')}" if weight_format == "int4" else weight_format


def quantize_weight(weight: Tensor, weight_format: WeightFormat) -> dict[str, Tensor]:
    """Return a weight [out, in] in 8 or 4 bits, as named tensors.

    Raises `CheckpointError` for int4 without bitsandbytes.
    """
    if weight_format == "int4":
        codes, state = _import_bitsandbytes().functional.quantize_4bit(weight.contiguous(), quant_type="nf4")
        return {"codes": codes, **state.as_dict(packed=True)}
    scale = weight.abs().amax(dim=1).float().clamp_min(torch.finfo(torch.float32).tiny) / 127  # [out]
    codes = torch.round(weight.float() / scale[:, None]).to(torch.int8)  # [out, in]
    return {"codes": codes, "scale": scale.to(weight.dtype)}


def make_quantized_linear(parts: Mapping[str, Tensor], weight_format: WeightFormat) -> Linear:
    """Return x [..., in] -> [..., out] for the result of `quantize_weight`."""
    return _make_int8_linear(parts) if weight_format == "int8" else _make_int4_linear(parts)


def _make_int8_linear(parts: Mapping[str, Tensor]) -> Linear:
    codes, scale = parts["codes"], parts["scale"]

    # torch's kernel reads the codes as they are, which is faster for the few rows of a decoding step. Encoding rows
    # never take it, so that the memories of a short document are computed as in a batch.
    max_packed_rows = _MAX_PACKED_ROWS.get(scale.dtype, 0) if codes.device.type == "cpu" else 0

    def apply(x: Tensor) -> Tensor:
        if x.shape[-2] == 1 and x.numel() // x.shape[-1] <= max_packed_rows:
            rows = x.reshape(-1, x.shape[-1])
            return _multiply_packed(rows, codes, scale).view(*x.shape[:-1], -1)
        return functional.linear(x, codes.to(x.dtype)) * scale

    return apply


def _make_int4_linear(parts: Mapping[str, Tensor]) -> Linear:
    library = _import_bitsandbytes()
    codes = parts["codes"]
    packed_state = {name: tensor for name, tensor in parts.items() if name != "codes"}
    state = library.functional.QuantState.from_dict(packed_state, device=codes.device)
    multiply: Callable[..., Tensor] = library.matmul_4bit

    def apply(x: Tensor) -> Tensor:
        return multiply(x, codes, quant_state=state)

    return apply


def _import_bitsandbytes() -> Any:
    try:
        import bitsandbytes  # noqa: PLC0415 - slow, and only needed here  # pyright: ignore[reportMissingTypeStubs]
    except ImportError as error:
        raise CheckpointError("quantization int4 needs bitsandbytes: pip install 'clara-proxy[quantized]'") from error
    return bitsandbytes
