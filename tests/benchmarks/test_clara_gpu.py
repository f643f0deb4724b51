"""The benchmark of a GPU, on the CPU."""

import pytest

pytest.importorskip("torch", reason="CLaRa needs the extra [clara]")

import torch

from clara_proxy.benchmarks import clara_gpu
from clara_proxy.compression.clara.decoder_config import DecoderConfig


def test_all_figures_are_measured() -> None:
    torch.set_num_threads(1)
    shape = DecoderConfig(64, 2, 4, 2, 16, 128, 5000, 1e-5, 1e6, 2048, ())
    figures = clara_gpu.measure_device(shape, "cpu", 0.001, 1e12)
    assert 0 < figures["difference_from_fp32"] < 0.03
    assert set(figures["memory_gib"]) == {"bf16", "int8", "int4"}
    assert min(figures["full"].values()) > 0
    assert min(figures[f"tokens_s_{rows}_together"] for rows in (1, 8, 32)) > 0
