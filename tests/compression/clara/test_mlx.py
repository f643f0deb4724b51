"""CLaRa with MLX: without torch, in fewer bits, and with errors that name the file. `test_goldens` compares results."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch", reason="the checkpoint is written with torch")

from clara_proxy.compression.clara.clara import Clara
from clara_proxy.compression.clara.latent_store import LatentStore
from clara_proxy.compression.models.errors import CheckpointError, ModelError

TEXTS = ["the fox by the river", "a bridge of stone, 1931"]


def load(tiny: Path, **options: Any) -> Clara:
    return Clara.from_pretrained(tiny / "clara", base=tiny / "base", device="mlx", **options)


def test_mlx_needs_no_torch(tiny: Path, clara: Clara) -> None:
    code = """
import asyncio, sys
from pathlib import Path

class NoTorch:
    def find_spec(self, name, *_):
        if name == "torch":
            raise ModuleNotFoundError(name)

sys.meta_path.insert(0, NoTorch())
from clara_proxy.compression.clara.async_engine import LocalClara, LocalModelConfig
from clara_proxy.compression.clara.worker import WorkerLimits

async def ask(folder):
    config = LocalModelConfig(str(folder / "clara"), None, str(folder / "base"), "mlx", None, folder / "latents")
    clara = LocalClara(config, WorkerLimits())
    answer = await clara.answer(["the fox", "the lamp, 1931"], "the lamp?", 6, 60)
    assert len(await clara.embed(["the fox"], 60)) == 1
    await clara.aclose()
    return answer.tokens

print(asyncio.run(ask(Path(sys.argv[1]))), "torch" in sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", code, tiny], capture_output=True, text=True, check=True)
    tokens = clara.answer("the lamp?", ["the fox", "the lamp, 1931"], max_new_tokens=6).tokens
    assert done.stdout.strip() == f"{tokens} False"


@pytest.mark.parametrize(
    ("options", "tolerance"),
    [({"dtype": "bfloat16"}, 0.05), ({"quantization": "int8"}, 0.03), ({"quantization": "int4"}, 0.4)],
)
def test_formats_are_close_to_float32(tiny: Path, options: dict[str, str], tolerance: float) -> None:
    exact = load(tiny, dtype="float32").compress(TEXTS).vectors
    error = load(tiny, **options).compress(TEXTS).vectors - exact
    relative = np.linalg.norm(error, axis=-1) / np.linalg.norm(exact, axis=-1)
    assert 0 < relative.mean() < tolerance


@pytest.mark.parametrize(("precision", "tolerance"), [("exact", 0.0), ("int8", 0.02)])
def test_latents_survive_a_restart(tiny: Path, tmp_path: Path, precision: Any, tolerance: float) -> None:
    first = load(tiny, store=LatentStore(tmp_path, precision=precision, arrays="numpy")).compress(TEXTS)
    store = LatentStore(tmp_path, precision=precision, arrays="numpy")
    again = load(tiny, store=store).compress(TEXTS)
    assert np.array_equal(first.vectors, again.vectors)
    assert np.abs(again.vectors - load(tiny).compress(TEXTS).vectors).max() <= tolerance
    assert store.get_many([LatentStore.make_key("other", "model")]) == {}


def test_fingerprints_differ_from_those_of_torch(tiny: Path, clara: Clara) -> None:
    assert load(tiny).fingerprint == load(tiny).fingerprint != clara.fingerprint
    assert load(tiny, dtype="bfloat16").fingerprint != load(tiny).fingerprint


def test_unknown_dtype_and_broken_weights_are_named(tiny: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="dtype 'int3' is not supported"):
        load(tiny, dtype="int3")
    for name in ("config.json", "tokenizer.json"):
        (tmp_path / name).write_bytes((tiny / "base" / name).read_bytes())
    (tmp_path / "model.safetensors").write_bytes(b"broken")
    with pytest.raises(CheckpointError, match=r"model\.safetensors: model\.layers\.0\.self_attn\.q_proj\.weight"):
        Clara.from_pretrained(tiny / "clara", base=tmp_path, device="mlx")
