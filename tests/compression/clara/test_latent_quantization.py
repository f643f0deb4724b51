"""Latents in 8 bits are half as large, close to the exact ones, and the same for the first and later answers."""

from pathlib import Path

import pytest

pytest.importorskip("torch", reason="CLaRa needs the extra [clara]")

import torch
from hypothesis import given
from hypothesis import strategies as st

from clara_proxy.compression.clara import latent_quantization
from clara_proxy.compression.clara.clara import Clara
from clara_proxy.compression.clara.latent_store import LatentStore

TEXTS = ["the fox", "a bridge of stone over the river", "", "the lamp, 1931"]


@given(st.integers(1, 20), st.integers(1, 70), st.floats(1e-6, 1e4), st.booleans(), st.integers(0, 9))
def test_every_entry_is_within_half_a_step_of_its_block(
    memories: int, hidden: int, size: float, half: bool, seed: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    dtype = torch.bfloat16 if half else torch.float32
    exact = (torch.randn(memories, hidden, generator=generator) * size).to(dtype)
    exact[0, 0] = 500 * size  # a single large entry costs its own block only
    packed = latent_quantization.pack_latent(exact, "int8")
    unpacked = latent_quantization.unpack_latent(packed)
    assert (unpacked.dtype, unpacked.shape) == (dtype, exact.shape)
    steps = (
        packed["scales"].float().repeat_interleave(latent_quantization.BLOCK_SIZE)[: exact.numel()].view(exact.shape)
    )
    rounding = exact.float().abs() / 200 if half else 0  # bfloat16 has eight bits of its own
    assert bool(((unpacked.float() - exact.float()).abs() <= steps * 0.51 + rounding + steps / 2 * half).all())
    assert torch.equal(latent_quantization.unpack_latent(latent_quantization.pack_latent(unpacked, "exact")), unpacked)


def test_packed_size_is_a_quarter_of_float32_and_half_of_bfloat16() -> None:
    exact = torch.randn(16, 4096)
    sizes = [
        latent_quantization.packed_bytes(latent_quantization.pack_latent(exact.to(dtype), "int8"))
        for dtype in (torch.float32, torch.bfloat16)
    ]
    assert sizes[0] < 0.3 * exact.nbytes
    assert sizes[1] < 0.54 * exact.nbytes / 2


def test_empty_and_zero_latents_survive() -> None:
    for exact in (torch.zeros(2, 8), torch.zeros(0, 8), torch.zeros(3, 5, dtype=torch.bfloat16)):
        assert torch.equal(latent_quantization.unpack_latent(latent_quantization.pack_latent(exact, "int8")), exact)


def test_first_and_later_latents_are_the_same(tiny: Path, tmp_path: Path, clara: Clara) -> None:
    def load() -> Clara:
        store = LatentStore(tmp_path, precision="int8")
        return Clara.from_pretrained(tiny / "clara", base=tiny / "base", device="cpu", store=store)

    first = load().compress(TEXTS).vectors
    assert torch.equal(load().compress(TEXTS).vectors, first)
    exact = clara.compress(TEXTS).vectors
    assert 0 < float((first - exact).pow(2).sum() / exact.pow(2).sum()) ** 0.5 < 0.01


def test_exact_and_quantized_latents_are_stored_apart(tiny: Path, tmp_path: Path, clara: Clara) -> None:
    for precision in ("int8", "exact"):
        store = LatentStore(tmp_path, precision=precision)
        latents = Clara.from_pretrained(tiny / "clara", base=tiny / "base", device="cpu", store=store).compress(TEXTS)
    assert torch.equal(latents.vectors, clara.compress(TEXTS).vectors)
