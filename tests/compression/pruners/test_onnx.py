"""A pruner without weights of torch runs in ONNX Runtime.

`token_classifier.onnx` is one node: the logits of token n are 2 sin(n) and 2 cos(n).
"""

import math
import shutil
from pathlib import Path

import pytest

pytest.importorskip("torch", reason="pruners need the extra [pruners]")
pytest.importorskip("onnxruntime", reason="pruners in ONNX need onnxruntime")

from clara_proxy.benchmarks import tiny_pruners
from clara_proxy.compression.models.errors import CheckpointError
from clara_proxy.compression.pruners.jobs import PruneJob
from clara_proxy.compression.pruners.pruner import PrunerPlacement, load_pruner

FILE = Path(__file__).with_name("token_classifier.onnx")


@pytest.mark.parametrize("name", ["model.onnx", "onnx/model.onnx"])
def test_onnx_model_scores_words(tmp_path: Path, name: str) -> None:
    folder = tiny_pruners.write_llmlingua2(tmp_path, "bert")
    (folder / "model.safetensors").unlink()
    (folder / name).parent.mkdir(exist_ok=True)
    shutil.copy(FILE, folder / name)
    pruner = load_pruner(folder, PrunerPlacement())
    job = PruneJob("The engine failed.")
    ids = pruner.encode(job).ids
    expected = [1 / (1 + math.exp(2 * math.sin(token) - 2 * math.cos(token))) for token in ids]
    scored = pruner.score(job)
    assert scored.scores[-2:] == pytest.approx(expected[-2:], abs=1e-5)  # words of one token
    assert len(scored.scores) == 4


def test_onnx_file_without_the_output_of_its_kind_is_rejected(tmp_path: Path) -> None:
    folder = tiny_pruners.write_llmlingua2(tmp_path, "bert")
    (folder / "model.safetensors").unlink()
    (folder / "model.onnx").write_bytes(b"nonsense")
    with pytest.raises(CheckpointError, match=r"model\.onnx: cannot be loaded"):
        load_pruner(folder, PrunerPlacement())
    shutil.copy(FILE, folder / "model.onnx")
    config = (folder / "config.json").read_text().replace('"model_type": "bert"', '"model_type": "open_provence"')
    (folder / "config.json").write_text(config)
    with pytest.raises(CheckpointError, match="no output pruning_logits"):
        load_pruner(folder, PrunerPlacement())
