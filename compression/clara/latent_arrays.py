"""Latents in their stored form as numpy arrays in float32, for backends without torch; see `latent_quantization`."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from safetensors import numpy as safetensors_numpy

if TYPE_CHECKING:
    from .latent_quantization import Precision

BLOCK_SIZE = 32


def pack_latent(memories: NDArray[Any], precision: "Precision") -> dict[str, NDArray[Any]]:
    """Return the stored form of memories [M, H], a copy."""
    copy = np.array(memories, dtype=np.float32)
    if precision == "exact":
        return {"memories": copy}
    blocks = _split_into_blocks(copy)  # [blocks, BLOCK_SIZE]
    scales = np.maximum(np.abs(blocks).max(axis=1) / 127, np.finfo(np.float32).tiny)  # [blocks]
    codes = np.clip(np.rint(blocks / scales[:, None]), -127, 127).astype(np.int8)
    return {"codes": codes.reshape(-1)[: copy.size].reshape(copy.shape).copy(), "scales": scales}


def unpack_latent(packed: Mapping[str, NDArray[Any]]) -> NDArray[np.float32]:
    """Return the memories [M, H]. Raises KeyError if a part is missing."""
    if "memories" in packed:
        memories: NDArray[np.float32] = packed["memories"]
        return memories
    codes, scales = packed["codes"], packed["scales"]
    values: NDArray[np.float32] = _split_into_blocks(codes.astype(np.float32)) * scales[:, None]
    return values.reshape(-1)[: codes.size].reshape(codes.shape)


def serialize(packed: Mapping[str, NDArray[Any]]) -> bytes:
    """Return a latent in its stored form as safetensors."""
    return safetensors_numpy.save(dict(packed))  # pyright: ignore[reportUnknownMemberType]


def deserialize(data: bytes) -> dict[str, NDArray[Any]]:
    """Return a latent in its stored form from safetensors."""
    return safetensors_numpy.load(data)  # pyright: ignore[reportUnknownMemberType]


def load_file(path: Path) -> dict[str, NDArray[Any]]:
    """Read a stored latent."""
    return safetensors_numpy.load_file(path)  # pyright: ignore[reportUnknownMemberType]


def save_file(packed: Mapping[str, NDArray[Any]], path: Path) -> None:
    """Write a latent in its stored form."""
    safetensors_numpy.save_file(dict(packed), path)  # pyright: ignore[reportUnknownMemberType]


def _split_into_blocks(values: NDArray[Any]) -> NDArray[Any]:
    flat = values.reshape(-1)
    return np.pad(flat, (0, -len(flat) % BLOCK_SIZE)).reshape(-1, BLOCK_SIZE)
