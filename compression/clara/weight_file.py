"""Reads tensors from safetensors files without holding Python's interpreter lock.

`safe_open` holds it while it reads a tensor, which takes 0.1 s for a large one: so long, a proxy would answer nobody.
"""

import json
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, cast

import torch
from torch import Tensor

_DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}
_MAX_HEADER_BYTES = 100_000_000  # as in the format's specification


class WeightFile(NamedTuple):
    """A safetensors file: its metadata, and the descriptions of its tensors by name."""

    path: Path
    metadata: dict[str, str]
    tensors: dict[str, dict[str, Any]]
    start: int  # of the tensors' bytes

    @classmethod
    def open(cls, path: Path) -> "WeightFile":
        """Read the header. Raises `OSError`, or `ValueError` if it is not one."""
        with path.open("rb") as file:
            size = int.from_bytes(file.read(8), "little")
            text = file.read(min(size, _MAX_HEADER_BYTES))
        header: object = json.loads(text) if len(text) == size else None
        if not isinstance(header, dict):
            raise ValueError("not a safetensors file")
        tensors = cast("dict[str, dict[str, Any]]", header)
        metadata = cast("dict[str, str]", tensors.pop("__metadata__", {}))
        return cls(path, metadata, tensors, 8 + size)

    def read(self, name: str) -> Tensor:
        """Return a tensor on the CPU. Raises `KeyError`, `OSError`, or `ValueError` if the file is damaged."""
        description = self.tensors[name]
        start, end = (int(offset) for offset in description["data_offsets"])
        tensor = torch.empty([int(size) for size in description["shape"]], dtype=_DTYPES[description["dtype"]])
        if tensor.nbytes != end - start:
            raise ValueError(f"{name} has {end - start} bytes, but its shape needs {tensor.nbytes}")
        with self.path.open("rb", buffering=0) as file:
            file.seek(self.start + start)
            _read_exactly(cast("BinaryIO", file), memoryview(cast("Any", tensor.reshape(-1).view(torch.uint8).numpy())))
        return tensor


def _read_exactly(file: BinaryIO, buffer: memoryview) -> None:
    done = 0
    while done < len(buffer):
        count = cast("Any", file).readinto(buffer[done:])
        if not count:
            raise ValueError("the file is cut short")
        done += count
