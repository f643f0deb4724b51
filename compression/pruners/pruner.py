"""A pruner in memory: its checkpoint's tokenizer and network, on one device. Slow to load."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from ..models.placement import resolve_device
from ..models.processor import count_physical_cores
from .encoding import EncodedText, TextEncoder, Window
from .families import PrunerSpec, read_spec
from .jobs import PruneJob, UnitScores
from .networks import load_network
from .onnx_network import find_onnx_file, load_onnx

CPU_PASS_TOKENS, ACCELERATOR_PASS_TOKENS = 4_096, 32_768  # of one forward pass, padding included
CPU_WINDOW = 2_048  # tokens; the attention of a longer one takes seconds, in which no job ends


class RowScores(NamedTuple):
    """The scores of one row's tokens, and its relevance."""

    tokens: NDArray[np.float32]
    relevance: float


@dataclass(frozen=True, slots=True)
class PrunerPlacement:
    """The device (`auto`, `cpu`, `cuda`, `mps`), the dtype on an accelerator, and the threads on a CPU."""

    device: str = "auto"
    dtype: str = "auto"
    threads: int | None = None


class Pruner:
    """Scores texts with one network."""

    def __init__(self, spec: PrunerSpec, encoder: TextEncoder, network: nn.Module, device: torch.device) -> None:
        self.spec, self._encoder, self._network, self._device = spec, encoder, network, device

    @property
    def uses_accelerator(self) -> bool:
        """Return True if the network computes on an accelerator."""
        return self._device.type != "cpu"

    @property
    def max_pass_tokens(self) -> int:
        """Return how many tokens one forward pass may have."""
        return ACCELERATOR_PASS_TOKENS if self.uses_accelerator else CPU_PASS_TOKENS

    def encode(self, job: PruneJob) -> EncodedText:
        """Return the windows of a job. Raises `ModelError` if a window has no room for text."""
        return self._encoder.encode(job)

    def collect(self, encoded: EncodedText) -> UnitScores:
        """Return the scores of the units, once all windows are done."""
        return self._encoder.collect(encoded)

    def score_rows(self, rows: Sequence[Sequence[int]]) -> list[RowScores]:
        """Do one forward pass of rows of token ids, padded on the right."""
        length = max(map(len, rows))
        ids = torch.full((len(rows), length), self._encoder.pad_id)
        mask = torch.zeros((len(rows), length), dtype=torch.long)
        for index, row in enumerate(rows):
            ids[index, : len(row)] = torch.tensor(row)
            mask[index, : len(row)] = 1
        with torch.inference_mode():
            keep, relevance = self._network(ids.to(self._device), mask.to(self._device))
        tokens: Any = keep.float().cpu().numpy()
        ranks = [1.0] * len(rows) if relevance is None else relevance.float().cpu().tolist()
        return [RowScores(tokens[index, : len(row)], ranks[index]) for index, row in enumerate(rows)]

    def score(self, job: PruneJob) -> UnitScores:
        """Score one job alone, in as many passes as it needs."""
        encoded = self.encode(job)
        for window in encoded.windows:
            self.add_row(encoded, window, self.score_rows([encoded.build_row(window)])[0])
        return self.collect(encoded)

    @staticmethod
    def add_row(encoded: EncodedText, window: Window, scores: RowScores) -> None:
        """Add the scores of a window to its text."""
        encoded.add_scores(window, scores.tokens, scores.relevance)


def load_pruner(folder: Path, placement: PrunerPlacement) -> Pruner:
    """Load the pruner in a folder, in float32 unless a dtype is set for an accelerator.

    A checkpoint with an ONNX file and no weights of torch runs in ONNX Runtime, on the CPU.

    Raises:
        CheckpointError: a file is missing or broken.
        ModelError: the device is not available.
    """
    spec = read_spec(folder)
    onnx_file = find_onnx_file(folder)
    device = torch.device("cpu")
    if onnx_file is None:
        device = resolve_device(placement.device)
    if device.type == "cpu":
        spec = replace(spec, max_tokens=min(spec.max_tokens, CPU_WINDOW))
    encoder = TextEncoder(folder, spec)
    threads = placement.threads or count_physical_cores()
    if onnx_file is not None:
        return Pruner(spec, encoder, load_onnx(onnx_file, spec, threads), device)
    network = load_network(folder, spec, encoder.yes_no_ids if spec.family == "swe-pruner" else (0, 0))
    if device.type != "cpu" and placement.dtype in ("bf16", "fp16"):
        network = network.to(torch.bfloat16 if placement.dtype == "bf16" else torch.float16)
    if device.type == "cpu":
        torch.set_num_threads(threads)
    return Pruner(spec, encoder, network.to(device), device)
