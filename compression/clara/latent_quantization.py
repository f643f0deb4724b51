"""Latents as they are kept: as they are, or rounded to 8 bits in blocks that share a scale.

States behind the last norm are several units large, with single entries far above the rest; a scale for every 32
entries keeps such a one from flattening the others. Knows nothing of files or keys.
"""

from collections.abc import Mapping
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

Precision = Literal["exact", "int8"]
BLOCK_SIZE = 32

PackedLatent = Mapping[
    str, Tensor
]  # "memories", or "codes" int8 [M, H] and "scales" [blocks] in the dtype of the latent


def pack_latent(memories: Tensor, precision: Precision) -> dict[str, Tensor]:
    """Return what is kept of memories [M, H]; a copy on the CPU."""
    kept = memories.detach().cpu().clone()
    if precision == "exact":
        return {"memories": kept}
    blocks = _split_into_blocks(kept.float())
    scales = (blocks.abs().amax(dim=1) / 127).clamp_min(torch.finfo(torch.float32).tiny).to(kept.dtype)
    scales = scales.clamp_min(torch.finfo(kept.dtype).tiny)
    codes = torch.round(blocks / scales.float()[:, None]).clamp(-127, 127).to(torch.int8)
    return {"codes": codes.flatten()[: kept.numel()].view(kept.shape).clone(), "scales": scales}


def unpack_latent(packed: PackedLatent) -> Tensor:
    """Return the memories [M, H]; a KeyError when parts are missing."""
    if "memories" in packed:
        return packed["memories"]
    codes, scales = packed["codes"], packed["scales"]
    values = _split_into_blocks(codes.float()) * scales.float()[:, None]
    return values.flatten()[: codes.numel()].view(codes.shape).to(scales.dtype)


def packed_bytes(packed: PackedLatent) -> int:
    """Return its bytes."""
    return sum(tensor.nbytes for tensor in packed.values())


def _split_into_blocks(values: Tensor) -> Tensor:
    flat = values.flatten()
    return functional.pad(flat, (0, -len(flat) % BLOCK_SIZE)).view(-1, BLOCK_SIZE)
