"""Runs a pruner that ships as ONNX, on the CPU by ONNX Runtime.

Token classifiers have one output, `logits` [batch, tokens, 2]. OpenProvence has `ranking_logits` [batch, 1] and
`pruning_logits` [batch, tokens, 2].
"""

from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..models.errors import CheckpointError
from .families import PrunerSpec

ONNX_FILES = ("model.onnx", "onnx/model.onnx")
_TORCH_FILES = ("model*.safetensors", "pytorch_model.bin")


def find_onnx_file(folder: Path) -> Path | None:
    """Return the ONNX file of a checkpoint without weights of torch, else None."""
    if any(path for pattern in _TORCH_FILES for path in folder.glob(pattern)):
        return None
    return next((folder / name for name in ONNX_FILES if (folder / name).is_file()), None)


class OnnxNetwork(nn.Module):
    """A session of ONNX Runtime with the interface of the networks of torch."""

    def __init__(self, session: Any, keep_label: int, keep_output: str, rank_output: str | None) -> None:
        super().__init__()
        self._session, self._keep_label = session, keep_label
        self._outputs = [keep_output, *([rank_output] if rank_output else [])]
        self._inputs = {entry.name for entry in session.get_inputs()}

    def forward(self, ids: Tensor, mask: Tensor) -> tuple[Tensor, Tensor | None]:
        """Return the probability of keeping each token, and the relevance of the row."""
        values = {"input_ids": ids, "attention_mask": mask, "token_type_ids": torch.zeros_like(ids)}
        feeds = {name: value.numpy() for name, value in values.items() if name in self._inputs}
        logits, *ranks = (torch.tensor(array) for array in self._session.run(self._outputs, feeds))
        keep = torch.softmax(logits.float(), dim=-1)[..., self._keep_label]
        return keep, torch.sigmoid(ranks[0].float().reshape(len(ids), -1)[:, 0]) if ranks else None


def load_onnx(path: Path, spec: PrunerSpec, threads: int) -> OnnxNetwork:
    """Open a session. Raises `CheckpointError` if ONNX Runtime is missing or the file does not fit."""
    try:
        onnxruntime: Any = import_module("onnxruntime")
    except ModuleNotFoundError:
        raise CheckpointError(f"{path} needs ONNX Runtime: pip install onnxruntime") from None
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    try:
        session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # the library raises its own kinds
        raise CheckpointError(f"{path}: cannot be loaded ({type(error).__name__})") from error
    names = [entry.name for entry in session.get_outputs()]
    keep = "pruning_logits" if spec.family == "open-provence" else "logits"
    if spec.family in ("provence", "swe-pruner") or keep not in names:
        raise CheckpointError(f"{path}: no output {keep} of a {spec.family} (its outputs: {', '.join(names)})")
    return OnnxNetwork(session, spec.keep_label, keep, "ranking_logits" if "ranking_logits" in names else None)
