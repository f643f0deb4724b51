"""A checkpoint's abstention head: it reads a state of the decoder and says whether the memories hold the answer.

Soft compression loses details, and documents may not hold an answer at all; the decoder then writes a guess. The head
is a small network over the decoder's state at the last position of the prompt, before anything is generated, as
OverflowGuard (github.com/s-nlp/overflowguard) has it. `train/train_abstention.py` trains one. Its file stands beside
the checkpoint's others and names the checkpoint that it was trained for.

Does not load torch. Shapes: B prompts, T positions, H hidden size of the decoder, F of the head.
"""

import hashlib
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file  # pyright: ignore[reportUnknownVariableType]

from ..models.errors import CheckpointError
from .inference import Array, InferenceModel, group_by_length
from .locate import HEAD_FILE
from .replies import PreparedPrompt

VERSION = "1"
_FINGERPRINTED_FILES = ("adapters.pth", "decoder_first_last_layers.pth")
Floats = NDArray[np.float32]
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class HeadWeights:
    """The tensors of a head; states are normalised by `mean` and `scale` [H] first."""

    mean: Floats  # [H]
    scale: Floats  # [H]
    hidden_weight: Floats  # [F, H]
    hidden_bias: Floats  # [F]
    output_weight: Floats  # [F]
    output_bias: Floats  # [1]

    def require_shapes(self, hidden_size: int) -> None:
        """Raise `ValueError` unless the tensors belong together and to a decoder of this hidden size."""
        size = len(self.hidden_bias)
        expected = [(hidden_size,), (hidden_size,), (size, hidden_size), (size,), (size,), (1,)]
        if [getattr(self, field.name).shape for field in fields(self)] != expected:
            raise ValueError(f"its tensors do not fit a decoder of hidden size {hidden_size}")


@dataclass(frozen=True, slots=True)
class AbstentionHead:
    """A head over the state after the first `depth` layers.

    Its answer is "not in memory" if the score, a probability, is above `threshold`.
    """

    depth: int
    threshold: float
    weights: HeadWeights

    def score(self, states: Array) -> Floats:
        """Return the probability [B] that the memories do not hold the answer, for states [B, H] in float32."""
        weights = self.weights
        x = (states - weights.mean) / weights.scale
        hidden = np.maximum(x @ weights.hidden_weight.T + weights.hidden_bias, 0)  # [B, F]
        logits = hidden @ weights.output_weight + weights.output_bias  # [B]
        scores: Floats = 1 / (1 + np.exp(-np.clip(logits, -60, 60)))
        return scores


@dataclass(frozen=True, slots=True)
class MemoryCheck:
    """A head with the part of the decoder that it reads; `states` is cut after the head's layer."""

    head: AbstentionHead
    states: InferenceModel
    adapter: str

    @classmethod
    def create(cls, model: InferenceModel, head: AbstentionHead | None, adapter: str) -> Self | None:
        """Return the check of a model, None without a head."""
        return None if head is None else cls(head, model.truncate(head.depth), adapter)

    @property
    def threshold(self) -> float:
        """Return the threshold; an answer with a higher score is not in memory."""
        return self.head.threshold

    def mark_missing(self, prepared: Sequence[PreparedPrompt]) -> list[PreparedPrompt]:
        """Return the prompts; those whose answer is not in their memories are marked. Prompts without memories pass."""
        checked = [index for index, request in enumerate(prepared) if request.plan.used and request.is_decoded]
        marked = list(prepared)
        if checked:
            states = read_states(self.states, [prepared[index].input_embeddings for index in checked], self.adapter)
            for index, score in zip(checked, self.head.score(states), strict=True):
                marked[index] = replace(prepared[index], is_missing=bool(score > self.head.threshold))
        return marked


def read_states(model: InferenceModel, prompts: Sequence[Array], adapter: str) -> Floats:
    """Return the states [B, H] at the last positions of prompts [T, H]; `model` is a truncated one."""
    states = np.empty((len(prompts), model.base.config.hidden_size), dtype=np.float32)
    for batch in group_by_length([len(prompt) for prompt in prompts], model.max_batch_positions):
        logits, _ = model.prefill([prompts[index] for index in batch], adapter)
        states[batch] = np.asarray(logits.cpu() if hasattr(logits, "cpu") else logits, dtype=np.float32)
    return states


def compute_fingerprint(folder: Path) -> str:
    """Return a hash of a checkpoint's adapters and vocabulary matrices. Raises OSError if a file is missing."""
    digest = hashlib.sha256()
    for name in _FINGERPRINTED_FILES:
        with (folder / name).open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()[:32]


def save_head(head: AbstentionHead, folder: Path, figures: Mapping[str, object]) -> Path:
    """Write a head beside its checkpoint, with figures of its training; return the path."""
    tensors = {field.name: np.ascontiguousarray(getattr(head.weights, field.name)) for field in fields(HeadWeights)}
    metadata = {
        **{name: str(value) for name, value in figures.items()},
        "version": VERSION,
        "fingerprint": compute_fingerprint(folder),
        "depth": str(head.depth),
        "threshold": repr(head.threshold),
    }
    path = folder / HEAD_FILE
    unfinished = path.with_suffix(".tmp")
    save_file(tensors, unfinished, metadata)
    unfinished.replace(path)
    return path


def load_head(
    folder: Path, hidden_size: int, layer_count: int, threshold: float | None = None
) -> AbstentionHead | None:
    """Return the head of a checkpoint, None without one; `threshold` replaces its own.

    A head of another checkpoint or version, or one that cannot be read, is not used: a warning says so.
    """
    path = folder / HEAD_FILE
    if not path.is_file():
        return None
    try:
        return _read_head(path, (hidden_size, layer_count), threshold)
    except (SafetensorError, OSError, KeyError, TypeError, ValueError, CheckpointError) as error:
        reason = f"{error} is missing" if isinstance(error, KeyError) else str(error)
        _log.warning("the abstention head %s is not used: %s", path, reason)
        return None


def _read_head(path: Path, dimensions: tuple[int, int], threshold: float | None) -> AbstentionHead:
    open_file: Any = safe_open  # hardly typed
    with open_file(path, framework="numpy") as file:
        metadata: dict[str, str] = file.metadata() or {}
        if metadata["version"] != VERSION:
            raise CheckpointError(f"it has version {metadata['version']}, and this program reads version {VERSION}")
        if metadata["fingerprint"] != compute_fingerprint(path.parent):
            raise CheckpointError("it belongs to another checkpoint; train it again")
        weights = HeadWeights(*(file.get_tensor(field.name).astype(np.float32) for field in fields(HeadWeights)))
    hidden_size, layer_count = dimensions
    weights.require_shapes(hidden_size)
    depth = int(metadata["depth"])
    if not 1 <= depth <= layer_count:
        raise ValueError(f"it reads layer {depth}, and the decoder has {layer_count}")
    return AbstentionHead(depth, float(metadata["threshold"]) if threshold is None else threshold, weights)
