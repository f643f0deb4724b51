"""Reads files that `torch.save` has written: with torch or, for MLX, without it.

Both readers construct tensors only and run no code from the file. A file is a zip archive: `data.pkl` describes the
tensors, and each entry below `data/` is the memory of one storage, which tensors may share.
"""

import pickle
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple, cast

import numpy as np
from numpy.typing import NDArray

from ..models.errors import CheckpointError
from .checkpoint_config import is_mapped

# Names of torch's storages, the dtype of their tensors, and numpy's dtype of the same size.
_STORAGES = {
    "FloatStorage": ("float32", np.dtype(np.float32)),
    "DoubleStorage": ("float64", np.dtype(np.float64)),
    "HalfStorage": ("float16", np.dtype(np.float16)),
    "BFloat16Storage": ("bfloat16", np.dtype(np.uint16)),  # numpy has no bfloat16: the bits
}
Mapping = dict[str, Any]


class RawTensor(NamedTuple):
    """A tensor without a library: its `dtype` by name, and its values; those of bfloat16 as bits in uint16."""

    dtype: str
    values: NDArray[Any]

    @property
    def shape(self) -> tuple[int, ...]:
        """Return the shape."""
        return self.values.shape


class _Storage(NamedTuple):
    dtype: str
    values: NDArray[Any]


def read_tensors(path: Path) -> Mapping:
    """Read a mapping of tensors with torch, or as `RawTensor` where torch is not installed.

    Raises `CheckpointError` if the file is not such a mapping.
    """
    return read_torch_tensors(path) if find_spec("torch") is not None else read_raw_tensors(path)


def read_torch_tensors(path: Path) -> Mapping:
    """Read a mapping of torch's tensors, on the CPU. Raises `CheckpointError` if the file is not one.

    The tensors of a large file are mapped: those that are not converted take no memory of their own.
    """
    import torch  # noqa: PLC0415 - slow

    return _read_mapping(path, lambda: torch.load(path, map_location="cpu", weights_only=True, mmap=is_mapped(path)))


def read_raw_tensors(path: Path) -> Mapping:
    """Read a mapping of `RawTensor` without torch. Raises `CheckpointError` if the file is not one."""
    return _read_mapping(path, lambda: _read_archive(path))


def _read_mapping(path: Path, read: Callable[[], object]) -> Mapping:
    if not zipfile.is_zipfile(path):
        raise CheckpointError(f"{path}: not a file written by torch.save")
    try:
        loaded = read()
    except Exception as error:  # a broken or hostile file raises any exception
        raise CheckpointError(f"{path}: cannot be read as tensors ({error})") from error
    if not isinstance(loaded, dict):
        raise CheckpointError(f"{path}: not a mapping of tensors")
    return cast("Mapping", loaded)


def _read_archive(path: Path) -> object:
    with zipfile.ZipFile(path) as archive:
        (description,) = (name for name in archive.namelist() if name.endswith("/data.pkl"))
        folder = description.removesuffix("data.pkl")
        order = f"{folder}byteorder"
        if order in archive.namelist() and archive.read(order) != b"little":
            raise ValueError("the numbers are not little-endian")
        with archive.open(description) as file:
            return _TensorUnpickler(file, archive, folder).load()


class _TensorUnpickler(pickle.Unpickler):
    """An unpickler that can construct nothing but tensors and mappings of them."""

    def __init__(self, file: Any, archive: zipfile.ZipFile, folder: str) -> None:
        super().__init__(file)
        self._archive, self._folder = archive, folder
        self._storages: dict[str, _Storage] = {}

    def find_class(self, module: str, name: str, /) -> Any:
        """Return what a name stands for; only those of tensors are known."""
        if module == "torch" and name in _STORAGES:
            return _STORAGES[name]
        allowed = {
            ("collections", "OrderedDict"): OrderedDict,
            ("torch._utils", "_rebuild_tensor_v2"): _build_tensor,
            ("torch._utils", "_rebuild_parameter"): _unwrap_parameter,
        }
        if (module, name) not in allowed:
            raise pickle.UnpicklingError(f"{module}.{name} is not part of a tensor")
        return allowed[module, name]

    def persistent_load(self, pid: Any, /) -> _Storage:
        """Return a storage, read once."""
        kind, (dtype, numpy_dtype), key, _, count = pid
        if kind != "storage":
            raise pickle.UnpicklingError(f"{kind} is not a storage")
        if key not in self._storages:
            content = self._archive.read(f"{self._folder}data/{key}")
            values = np.frombuffer(content, numpy_dtype.newbyteorder("<"))
            if len(values) < count:
                raise pickle.UnpicklingError(f"the storage {key} is cut short")
            self._storages[key] = _Storage(dtype, values)
        return self._storages[key]


def _build_tensor(
    storage: _Storage, offset: int, size: tuple[int, ...], stride: tuple[int, ...], *_: object
) -> RawTensor:
    last = offset + sum((length - 1) * step for length, step in zip(size, stride, strict=True))
    if offset < 0 or min(stride, default=0) < 0 or (0 not in size and last >= len(storage.values)):
        raise pickle.UnpicklingError("a tensor is larger than its storage")
    steps = tuple(step * storage.values.itemsize for step in stride)
    view = np.lib.stride_tricks.as_strided(storage.values[offset:], size, steps, writeable=False)
    return RawTensor(storage.dtype, np.array(view, order="C"))


def _unwrap_parameter(data: RawTensor, *_: object) -> RawTensor:
    return data
