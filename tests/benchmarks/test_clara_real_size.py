"""The benchmark at real size, with a small shape."""

from pathlib import Path

import pytest

pytest.importorskip("torch", reason="CLaRa needs the extra [clara]")

import torch

from clara_proxy.benchmarks import clara_real_size
from clara_proxy.compression.clara.decoder_config import DecoderConfig, read_decoder_config

SHAPE = DecoderConfig(64, 2, 4, 2, 16, 128, 400, 1e-5, 1e6, 2048, (-1,))


@pytest.mark.parametrize("device", ["cpu", "mlx"])
def test_random_checkpoint_loads_and_is_measured(device: str, tmp_path: Path) -> None:
    torch.set_num_threads(1)
    clara_real_size.write_checkpoint(tmp_path, SHAPE)
    assert read_decoder_config(tmp_path / "base") == SHAPE
    figures = {name: clara_real_size.measure_format(tmp_path, name, device, 3) for name in ("fp32", "int8")}
    for row in figures.values():
        assert row["load_peak_mib"] >= row["load_mib"] > 0
        assert row["working_peak_mib"] >= row["working_mib"] > 0
        assert min(row["load_s"], row["load_again_s"], row["documents_s"], row["tokens_per_s_8"]) > 0
    table = clara_real_size.format_table(figures)
    assert [line.split()[0] for line in table.splitlines()] == ["load,", "fp32", "int8", "load,", "fp32", "int8"]
    assert bool(list(tmp_path.glob("quantized/*/*.safetensors"))) is (device == "cpu")
