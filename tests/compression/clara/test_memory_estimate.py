"""The memory of a model is estimated before it is loaded, and a model without room is refused with a sentence."""

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch", reason="CLaRa needs the extra [clara]")

from clara_proxy.compression.clara import memory_estimate
from clara_proxy.compression.clara.checkpoint_config import CheckpointConfig
from clara_proxy.compression.clara.clara import Clara
from clara_proxy.compression.clara.decoder_config import DecoderConfig
from clara_proxy.compression.models import processor, resources
from clara_proxy.compression.models.errors import CheckpointError
from clara_proxy.config.settings import Settings
from clara_proxy.proxy.runtime import local_model

MISTRAL = DecoderConfig(4096, 32, 32, 8, 128, 14336, 32000, 1e-5, 1e6, 32768, (2,))
E2E = CheckpointConfig(
    max_document_tokens=256,
    memory_tokens=16,
    compression_rate=16,
    has_distinct_memory_tokens=True,
    top_k=5,
    training_stage="stage2",
    has_lora=True,
    lora_rank=16,
    has_kbtc_token=False,
    weight_format=None,
    raw={},
)


def test_estimate_of_the_7b_model_is_that_of_its_tensors(tmp_path: Path) -> None:
    estimates = memory_estimate.estimate_formats(MISTRAL, E2E, "bfloat16", tmp_path)
    billions = {name: round(estimate.resident / 1e9, 1) for name, estimate in estimates.items()}
    assert billions == {"fp32": 29.5, "bf16": 14.7, "int8": 7.8, "int4": 4.4}
    assert all(estimate.resident < estimate.peak < estimate.resident + 1e9 for estimate in estimates.values())


def test_mapped_input_embeddings_take_no_memory(tmp_path: Path) -> None:
    with (tmp_path / "decoder_first_last_layers.pth").open("wb") as file:
        file.truncate(524_000_000)
    for dtype, expected in (("bfloat16", 7.5), ("float32", 8.5)):
        estimate = memory_estimate.estimate_memory(MISTRAL, E2E, dtype, "int8", tmp_path)
        assert round(estimate.resident / 1e9, 1) == expected


def test_estimate_is_that_of_a_loaded_model(clara: Clara, tiny: Path) -> None:
    estimate = memory_estimate.estimate_memory(
        clara.model.base.config, clara.config, "float32", None, tiny / "clara" / "compression-4"
    )
    model = clara.model
    size = model.embed.nbytes + model.head.nbytes
    layers = [layer for adapter in model.adapters.values() for layer in adapter]
    size += sum(tensor.nbytes for layer in layers for pair in layer.values() for tensor in pair)
    shapes = [model.base.config.linear_shape(module) for module in memory_estimate.LINEAR_MODULES]
    size += 4 * model.base.config.layer_count * sum(rows * columns for rows, columns in shapes)
    assert estimate.resident == pytest.approx(size, rel=0.02)


def test_model_without_room_is_refused_with_the_formats_that_fit(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(resources, "available_bytes", lambda: 100_000)
    with pytest.raises(CheckpointError, match=r"needs 0\.\d GB as fp32, and 0\.0 GB are available.*CLARA_DTYPE"):
        Clara.from_pretrained(tiny / "clara", base=shutil.copytree(tiny / "base", tmp_path / "copy"), device="cpu")
    base = tmp_path / "base"
    base.mkdir()
    config: dict[str, Any] = json.loads((tiny / "base" / "config.json").read_text())
    config |= {"hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32, "num_attention_heads": 32}
    (base / "config.json").write_text(json.dumps(config))
    (base / "tokenizer.json").write_text("{}")
    (base / "model.safetensors").touch()
    monkeypatch.setattr(resources, "memory_limit", lambda: 10_000_000_000)
    chosen: dict[str, Any] = {"model": str(tiny / "clara"), "base": str(base), "backend": "cpu"}
    problem = local_model.describe_problem(Settings(**chosen, dtype="fp32"))
    assert "as fp32, and 9.4 GB are available; choose int8" in problem
    assert local_model.describe_problem(Settings(**chosen, dtype="int8")) == ""
    assert "contradict" in local_model.describe_problem(Settings(**chosen, dtype="int8", quantization="no"))


@pytest.mark.parametrize("version", [1, 2])
def test_limits_of_control_groups_are_respected(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, version: int) -> None:
    folder = tmp_path / ("memory" if version == 1 else "") / "service" / "app"
    folder.mkdir(parents=True)
    names = resources._VERSION_1_FILES if version == 1 else resources._VERSION_2_FILES  # pyright: ignore[reportPrivateUsage]
    (folder.parent / names[0]).write_text("6000000000\n")
    (folder.parent / names[1]).write_text("3500000000\n")
    (folder.parent / "memory.stat").write_text(f"anon 1\n{names[2][0]} 300000000\n{names[2][1]} 200000000\n")
    (folder / names[0]).write_text("max\n")
    groups, meminfo = tmp_path / "cgroup", tmp_path / "meminfo"
    groups.write_text("4:memory:/service/app\n1:cpu:/\n" if version == 1 else "0::/service/app\n")
    meminfo.write_text("MemTotal: 24000000 kB\nMemAvailable: 20000000 kB\n")
    for name, path in (("_CGROUPS", groups), ("_MEMINFO", meminfo), ("_CGROUP_ROOT", tmp_path)):
        monkeypatch.setattr(resources, name, path)
    assert resources.memory_limit() == 6_000_000_000
    assert resources.available_bytes() == 3_000_000_000
    groups.write_text("0::/\n")
    assert resources.memory_limit() == 24_000_000 * 1024
    assert resources.available_bytes() == 20_000_000 * 1024


def test_threads_follow_cores_quota_and_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert processor.choose_thread_count(192) == 1
    assert processor.choose_thread_count(192, 3) == 3
    for cpu in range(8):  # four cores of two threads
        topology = tmp_path / f"cpu{cpu}" / "topology"
        topology.mkdir(parents=True)
        (topology / "thread_siblings_list").write_text(f"{cpu % 4},{cpu % 4 + 4}\n")
    monkeypatch.setattr(processor, "_CPU_FOLDER", tmp_path)
    monkeypatch.setattr(processor, "_CGROUP_FOLDER", tmp_path)

    def use_all(_: int) -> set[int]:
        return set(range(8))

    monkeypatch.setattr(os, "sched_getaffinity", use_all, raising=False)
    assert processor.choose_thread_count(4096) == 4
    (tmp_path / "cpu.max").write_text("150000 100000\n")
    assert processor.choose_thread_count(4096) == 2
    (tmp_path / "cpu.max").write_text("max 100000\n")
    assert processor.choose_thread_count(4096) == 4
