"""Weight files: the tensors that the safetensors library writes, and errors for damaged files."""

import os
import shutil
from pathlib import Path

import pytest

pytest.importorskip("torch", reason="CLaRa needs the extra [clara]")

import torch
from safetensors.torch import save_file  # pyright: ignore[reportUnknownVariableType]

from clara_proxy.compression.clara.clara import Clara
from clara_proxy.compression.clara.weight_file import WeightFile
from clara_proxy.compression.models.errors import CheckpointError


def test_tensors_are_those_of_the_library(tmp_path: Path) -> None:
    dtypes = (torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.int64, torch.int8, torch.uint8)
    tensors = {str(dtype): torch.arange(12).reshape(3, 4).to(dtype) for dtype in dtypes}
    tensors |= {"scalar": torch.tensor(2.5), "empty": torch.empty(0, 3), "flags": torch.tensor([True, False])}
    save_file(tensors, tmp_path / "file.safetensors", metadata={"crc32": "0a"})
    file = WeightFile.open(tmp_path / "file.safetensors")
    assert file.metadata == {"crc32": "0a"}
    assert set(file.tensors) == set(tensors)
    for name, tensor in tensors.items():
        assert torch.equal(file.read(name), tensor)
        assert file.read(name).dtype == tensor.dtype


@pytest.mark.parametrize("content", [b"", b"\xff" * 64, b"\2\0\0\0\0\0\0\0[]", b"\x20\0\0\0\0\0\0\0{}"])
def test_other_files_are_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "file"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r".+"):
        WeightFile.open(path)


def test_cut_file_is_named(tiny: Path, tmp_path: Path) -> None:
    base = shutil.copytree(tiny / "base", tmp_path / "base")
    path = base / "model.safetensors"
    os.truncate(path, path.stat().st_size - 100)
    for dtype in ("float32", "bfloat16"):
        with pytest.raises(CheckpointError, match=r"model\.safetensors: model\..* cannot be read"):
            Clara.from_pretrained(tiny / "clara", base=base, device="cpu", dtype=dtype)


def test_released_weights_stay_mapped_on_a_cpu(tiny: Path, tmp_path: Path) -> None:
    base = shutil.copytree(tiny / "base", tmp_path / "base")
    file = WeightFile.open(base / "model.safetensors")
    save_file({name: file.read(name).bfloat16() for name in file.tensors}, file.path)
    clara = Clara.from_pretrained(tiny / "clara", base=base, device="cpu", dtype="bfloat16")
    maps = Path("/proc/self/maps")
    if maps.exists():
        assert str(base / "model.safetensors") in maps.read_text()
    assert clara.generate(["why?"], [["a fox"]], 2)
