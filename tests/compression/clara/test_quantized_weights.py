"""Quantized weights on disk: the same model without quantizing again, and damage that costs one layer only."""

import logging
import os
import shutil
from functools import partial
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch", reason="CLaRa needs the extra [clara]")

import torch

from clara_proxy.compression.clara import base_weights, quantized_weights, weight_quantization
from clara_proxy.compression.clara.clara import Clara
from clara_proxy.compression.clara.quantized_weights import QuantizedWeightStore

TEXTS = ["the fox by the river", "a bridge of stone, 1931"]
FORMATS = ("int8", "int4")


class CountedLoads:
    """Loads a model with a store and counts the weights that are quantized."""

    def __init__(self, tiny: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.tiny, self.folder, self.quantized = tiny, folder, 0
        quantize = weight_quantization.quantize_weight

        def count(weight: Any, weight_format: Any) -> Any:
            self.quantized += 1
            return quantize(weight, weight_format)

        monkeypatch.setattr(base_weights, "quantize_weight", count)

    def load(self, quantization: Any = "int8", base: Path | None = None, **limits: int) -> Clara:
        """Return a new model."""
        self.quantized = 0
        return Clara.from_pretrained(
            self.tiny / "clara",
            base=base or self.tiny / "base",
            device="cpu",
            quantization=quantization,
            quantized_weights=QuantizedWeightStore(self.folder, **limits),
        )

    def files(self) -> list[Path]:
        """Return the stored layers."""
        return sorted(self.folder.glob("*/*.safetensors"))


@pytest.fixture
def loads(tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> CountedLoads:
    return CountedLoads(tiny, tmp_path / "quantized", monkeypatch)


@pytest.mark.parametrize("quantization", FORMATS)
def test_second_load_quantizes_nothing_and_computes_the_same(loads: CountedLoads, quantization: str) -> None:
    first = loads.load(quantization)
    assert loads.quantized == 14
    again = loads.load(quantization)
    assert loads.quantized == 0
    assert torch.equal(first.compress(TEXTS).vectors, again.compress(TEXTS).vectors)
    assert first.answers(["the lamp?"], [TEXTS])[0] == again.answers(["the lamp?"], [TEXTS])[0]
    assert first.fingerprint == again.fingerprint
    assert not [path for path in loads.folder.rglob("*") if path.name.endswith(".tmp")]


def test_formats_are_kept_apart_and_exact_weights_not_at_all(loads: CountedLoads) -> None:
    loads.load("no")
    assert not loads.folder.exists()
    for quantization in FORMATS:
        loads.load(quantization)
    assert len({path.parent for path in loads.files()}) == 2


def damage_byte(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-5] ^= 1
    path.write_bytes(content)


def cut_file(length: int, path: Path) -> None:
    os.truncate(path, length)


@pytest.mark.parametrize(
    "damage",
    [damage_byte, partial(cut_file, 300), partial(cut_file, 0), Path.unlink],
    ids=["one bit", "cut", "empty", "missing"],
)
def test_damaged_layer_is_quantized_again(loads: CountedLoads, damage: Any) -> None:
    exact = loads.load().compress(TEXTS).vectors
    damage(loads.files()[1])
    assert torch.equal(loads.load().compress(TEXTS).vectors, exact)
    assert loads.quantized == 7
    loads.load()
    assert loads.quantized == 0


def test_other_weights_of_the_same_size_are_quantized(loads: CountedLoads, tmp_path: Path) -> None:
    base = shutil.copytree(loads.tiny / "base", tmp_path / "base")
    first = loads.load(base=base).compress(TEXTS).vectors
    os.utime(base / "model.safetensors")  # a copy has another time
    loads.load(base=base)
    assert loads.quantized == 0
    damage_byte(base / "model.safetensors")
    assert not torch.equal(loads.load(base=base).compress(TEXTS).vectors, first)
    assert loads.quantized == 14


def test_space_is_bounded(loads: CountedLoads, caplog: pytest.LogCaptureFixture) -> None:
    loads.load("int8")
    size = sum(path.stat().st_size for path in loads.files())
    first = loads.files()[0].parent
    loads.load("int4", max_bytes=size)  # smaller, but both do not fit
    assert first not in {path.parent for path in loads.files()}
    loads.load("int8", max_bytes=size // 2)  # does not fit itself
    assert loads.quantized == 14
    loads.load("int8", max_bytes=size // 2)
    assert loads.quantized == 14


def test_full_or_unusable_disk_only_costs_the_copy(
    loads: CountedLoads, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(quantized_weights, "_SPARE_BYTES", 1 << 60)
    loads.load()
    assert not loads.files()
    loads.folder.joinpath("digests.json").unlink()
    shutil.rmtree(loads.folder)
    loads.folder.write_text("a file")
    with caplog.at_level(logging.WARNING):
        assert loads.load().compress(TEXTS).vectors.shape[0] == 2
    assert "quantized weights cannot be stored" in caplog.text
