"""Latents in their stored form: exact, or rounded to 8 bits in blocks that share a scale.

The states after the last norm are several units large, with a few entries far above the rest. With a scale for every 32
entries, a large entry costs precision in its own block only.

Shapes: M memory tokens, H hidden size.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Literal

import torch
from safetensors import torch as safetensors_torch
from torch import Tensor
from torch.nn import functional

Precision = Literal["exact", "int8"]
BLOCK_SIZE = 32

# "memories" [M, H], or "codes" int8 [M, H] and "scales" [blocks] in the dtype of the latent.
PackedLatent = Mapping[str, Tensor]


def pack_latent(memories: Tensor, precision: Precision) -> dict[str, Tensor]:
    """Return the stored form of memories [M, H], a copy on the CPU."""
    copy = memories.detach().cpu().clone()
    if precision == "exact":
        return {"memories": copy}
    blocks = _split_into_blocks(copy.float())  # [blocks, BLOCK_SIZE]
    scales = (blocks.abs().amax(dim=1) / 127).clamp_min(torch.finfo(torch.float32).tiny).to(copy.dtype)  # [blocks]
    scales = scales.clamp_min(torch.finfo(copy.dtype).tiny)
    codes = torch.round(blocks / scales.float()[:, None]).clamp(-127, 127).to(torch.int8)
    return {"codes": codes.flatten()[: copy.numel()].view(copy.shape).clone(), "scales": scales}


def unpack_latent(packed: PackedLatent) -> Tensor:
    """Return the memories [M, H]. Raises KeyError if a part is missing."""
    if "memories" in packed:
        return packed["memories"]
    codes, scales = packed["codes"], packed["scales"]
    values = _split_into_blocks(codes.float()) * scales.float()[:, None]
    return values.flatten()[: codes.numel()].view(codes.shape).to(scales.dtype)


def packed_bytes(packed: PackedLatent) -> int:
    """Return the size of a packed latent in bytes."""
    return sum(tensor.nbytes for tensor in packed.values())


def serialize(packed: PackedLatent) -> bytes:
    """Return a latent in its stored form as safetensors."""
    return safetensors_torch.save(dict(packed))  # pyright: ignore[reportUnknownMemberType]


def deserialize(data: bytes) -> dict[str, Tensor]:
    """Return a latent in its stored form from safetensors."""
    return safetensors_torch.load(data)  # pyright: ignore[reportUnknownMemberType]


def load_file(path: Path) -> dict[str, Tensor]:
    """Read a stored latent."""
    return safetensors_torch.load_file(path)  # pyright: ignore[reportUnknownMemberType]


def save_file(packed: PackedLatent, path: Path) -> None:
    """Write a latent in its stored form."""
    safetensors_torch.save_file(dict(packed), path)  # pyright: ignore[reportUnknownMemberType]


def _split_into_blocks(values: Tensor) -> Tensor:
    flat = values.flatten()
    return functional.pad(flat, (0, -len(flat) % BLOCK_SIZE)).view(-1, BLOCK_SIZE)
