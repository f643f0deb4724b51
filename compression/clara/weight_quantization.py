"""Linear layers with weights in 8 or 4 bits; adapters, norms and vocabulary matrices are not quantized.

Only weights are rounded, never activations, and each output row has its own scale. So a row of a batch does not depend
on the others, and a latent computed today equals one computed tomorrow. (bitsandbytes' own int8 rounds activations and
picks outlier columns per batch.) 4 bits are bitsandbytes' NF4 in blocks of 64, as in the reference; the scales of the
blocks are quantized to 8 bits themselves, which saves a fifteenth of the memory.
"""

from collections.abc import Mapping, Sequence
from importlib.metadata import version
from typing import Any

import torch
from torch import Tensor

from ...config.extras import describe_install
from ..models.errors import CheckpointError
from .checkpoint_config import WeightFormat
from .linear_layers import ExactLinear, Int4Linear, Int8Linear, Linear

_torch: Any = torch  # `split` has no types
_ROWS_AT_ONCE = 256  # that are quantized together: a whole weight takes several times its size on the way
_REVISIONS: dict[WeightFormat, str] = {"int8": "int8", "int4": "int4 with scales in 8 bits"}


def make_linear(weight: Tensor, weight_format: WeightFormat | None) -> Linear:
    """Return x [..., in] -> [..., out] for a weight [out, in]; a quantized layer holds no reference to it.

    Raises `CheckpointError` for int4 without bitsandbytes.
    """
    if weight_format is None:
        return ExactLinear(weight)
    return make_quantized_linear(quantize_weight(weight, weight_format), weight_format)


def describe_format(weight_format: WeightFormat) -> str:
    """Return a name that changes when the stored form of a quantized weight does."""
    library = f" bitsandbytes {version('bitsandbytes')}" if weight_format == "int4" else ""
    return f"{name_revision(weight_format)}{library}"


def name_revision(weight_format: WeightFormat) -> str:
    """Return a name that changes when the quantized numbers do."""
    return _REVISIONS[weight_format]


def quantize_weight(weight: Tensor, weight_format: WeightFormat) -> dict[str, Tensor]:
    """Return a weight [out, in] in 8 or 4 bits, as named tensors.

    Raises `CheckpointError` for int4 without bitsandbytes.
    """
    blocks: tuple[Tensor, ...] = _torch.split(weight.contiguous(), _ROWS_AT_ONCE)
    if weight_format == "int4":
        return _quantize_nf4(blocks, weight.shape)
    codes, scales = zip(*map(_quantize_rows, blocks), strict=True)
    return {"codes": torch.cat(codes), "scale": torch.cat(scales).to(weight.dtype)}


def _quantize_nf4(blocks: Sequence[Tensor], shape: torch.Size) -> dict[str, Tensor]:
    """Return bitsandbytes' codes and state of a weight, given as blocks of rows: as `quantize_4bit` on the whole."""
    library = _import_bitsandbytes().functional
    quantized = [library.quantize_4bit(block, quant_type="nf4") for block in blocks]
    scales = torch.cat([state.absmax for _, state in quantized])
    offset = scales.mean()
    state = quantized[0][1]
    state.absmax, state.state2 = library.quantize_blockwise(scales - offset, blocksize=256)
    state.shape, state.offset, state.nested = shape, offset, True
    return {"codes": torch.cat([codes for codes, _ in quantized]), **state.as_dict(packed=True)}


def _quantize_rows(weight: Tensor) -> tuple[Tensor, Tensor]:
    """Return the codes [rows, in] of a weight in int8, and their scales [rows] in float32."""
    wide = weight.float()
    scale = wide.abs().amax(dim=1).clamp_min_(torch.finfo(torch.float32).tiny).div_(127)
    return (wide / scale[:, None]).round_().to(torch.int8), scale


def make_quantized_linear(parts: Mapping[str, Tensor], weight_format: WeightFormat) -> Linear:
    """Return x [..., in] -> [..., out] for the result of `quantize_weight`."""
    codes = parts["codes"]
    if weight_format == "int8":
        return Int8Linear(codes, parts["scale"])
    library = _import_bitsandbytes()
    packed_state = {name: tensor for name, tensor in parts.items() if name != "codes"}
    state = library.functional.QuantState.from_dict(packed_state, device=codes.device)
    return Int4Linear(codes, state, library.matmul_4bit)


def _import_bitsandbytes() -> Any:
    try:
        import bitsandbytes  # noqa: PLC0415 - slow, and only needed here  # pyright: ignore[reportMissingTypeStubs]
    except ImportError as error:
        raise CheckpointError(f"quantization int4 needs bitsandbytes: {describe_install('quantized')}") from error
    return bitsandbytes
