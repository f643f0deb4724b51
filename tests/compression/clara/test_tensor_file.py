"""The reader of torch's files without torch: equal tensors, and nothing but tensors."""

import pickle
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch", reason="the files are written with torch")

import torch
from torch import Tensor

from clara_proxy.compression.clara import tensor_file
from clara_proxy.compression.clara.tensor_file import RawTensor
from clara_proxy.compression.models.errors import CheckpointError


def to_float32(tensor: RawTensor) -> Any:
    if tensor.dtype != "bfloat16":
        return tensor.values.astype(np.float32)
    return (tensor.values.astype(np.uint32) << 16).view(np.float32)


def test_tensors_equal_those_that_torch_reads(tmp_path: Path) -> None:
    values = torch.arange(24.0).reshape(4, 6) / 7
    tensors: dict[str, Tensor] = {
        "float32": values,
        "bfloat16": values.bfloat16(),
        "float16": values.half(),
        "float64": values.double(),
        "transposed": values.T,
        "slice": values[1:3, ::2],
        "scalar": torch.tensor(1.5),
        "empty": torch.empty(0, 6),
        "parameter": torch.nn.Parameter(values),
        "gradient": values.clone().requires_grad_(),
    }
    torch.save({"tensors": OrderedDict(tensors)}, tmp_path / "file.pth")
    read = tensor_file.read_raw_tensors(tmp_path / "file.pth")["tensors"]
    assert list(read) == list(tensors)
    for name, tensor in tensors.items():
        assert read[name].shape == tuple(tensor.shape)
        assert np.array_equal(to_float32(read[name]), tensor.detach().float().numpy())


class Hostile:
    def __reduce__(self) -> Any:
        return (eval, ("1",))


@pytest.mark.parametrize("content", [{"a": Hostile()}, {"a": pytest}, {"a": torch.device("cpu")}])
def test_other_objects_are_refused(content: Any, tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "file.pth", "w") as archive:
        name = "pytest" if content["a"] is pytest else None
        archive.writestr("file/data.pkl", f"c{name}\nskip\n.".encode() if name else pickle.dumps(content))
    with pytest.raises(CheckpointError, match="is not part of a tensor"):
        tensor_file.read_raw_tensors(tmp_path / "file.pth")


def test_broken_files_are_named(tmp_path: Path) -> None:
    path = tmp_path / "file.pth"
    path.write_bytes(b"not a zip archive")
    with pytest.raises(CheckpointError, match=r"not a file written by torch\.save"):
        tensor_file.read_raw_tensors(path)
    torch.save([torch.ones(2)], path)
    with pytest.raises(CheckpointError, match="not a mapping of tensors"):
        tensor_file.read_raw_tensors(path)


@pytest.mark.parametrize(("cut", "message"), [(8, "cut short"), (0, "cut short")])
def test_storage_that_is_too_small_is_refused(cut: int, message: str, tmp_path: Path) -> None:
    path, damaged = tmp_path / "file.pth", tmp_path / "damaged.pth"
    torch.save({"a": torch.ones(8)}, path)
    with zipfile.ZipFile(path) as source, zipfile.ZipFile(damaged, "w") as target:
        for name in source.namelist():
            content = source.read(name)
            target.writestr(name, content[:cut] if name.endswith("data/0") else content)
    with pytest.raises(CheckpointError, match=message):
        tensor_file.read_raw_tensors(damaged)


def test_tensor_outside_its_storage_is_refused(tmp_path: Path) -> None:
    path, damaged = tmp_path / "file.pth", tmp_path / "damaged.pth"
    torch.save({"a": torch.ones(100)[:3]}, path)
    with zipfile.ZipFile(path) as source, zipfile.ZipFile(damaged, "w") as target:
        for name in source.namelist():
            content = source.read(name)  # the tensor's size, 3, becomes 103
            target.writestr(name, content.replace(b"K\x03\x85", b"K\x67\x85") if name.endswith("data.pkl") else content)
    with pytest.raises(CheckpointError, match="larger than its storage"):
        tensor_file.read_raw_tensors(damaged)
