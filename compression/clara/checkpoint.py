"""Reads and verifies a CLaRa or PISCO checkpoint: its config, its adapters and its vocabulary matrices.

Nothing in a checkpoint is executed: its files can construct tensors only, and the Python file beside them is ignored.
All adapters in the file are used at every training stage. An incomplete checkpoint is refused.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from ..models.errors import CheckpointError
from . import lora
from .checkpoint_config import MATRICES_FILE, CheckpointConfig, is_mapped, read_checkpoint_config
from .decoder_config import DecoderConfig
from .inference import Array
from .tensor_file import read_tensors

ENCODER_ADAPTER, DECODER_ADAPTER, QUERY_ADAPTER = "encoder_adapter", "decoder_adapter", "query_reasoner_adapter"
_EMBEDDING_KEY, _HEAD_KEY = "model.embed_tokens.weight", "lm_head.weight"
_PEFT_PREFIX = "base_model.model."
FileReader = Callable[[Path], dict[str, Any]]


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A verified checkpoint on the CPU, in the dtype it was saved in.

    `embed` and `head` are [vocabulary, hidden]. An adapter is a list of layers, each a mapping of modules to pairs.
    """

    folder: Path
    config: CheckpointConfig
    adapters: Mapping[str, list[dict[str, lora.LoraPair]]]
    embed: Array
    head: Array
    maps_matrices: bool = False  # with torch


def load_checkpoint(
    folder: Path,
    decoder_config: DecoderConfig,
    vocabulary_size: int,
    *,
    skip_decoder_adapter: bool = False,
    read_file: FileReader = read_tensors,
) -> Checkpoint:
    """Read a checkpoint for a base model; `vocabulary_size` includes CLaRa's tokens.

    `skip_decoder_adapter` ignores the trained decoder adapter of a `stage1_2` checkpoint, like the reference.
    """
    config = read_checkpoint_config(folder)
    path = folder / "adapters.pth"
    adapter_tensors = _parse_adapters(path, config, read_file(path) if config.has_lora else {})
    if skip_decoder_adapter and config.training_stage == "stage1_2":
        adapter_tensors.pop(DECODER_ADAPTER, None)
    adapters = {
        name: _parse_adapter(path, name, tensors, (decoder_config, config.lora_rank))
        for name, tensors in adapter_tensors.items()
    }
    if config.training_stage.startswith("stage2") and QUERY_ADAPTER not in adapters and ENCODER_ADAPTER in adapters:
        adapters[QUERY_ADAPTER] = adapters[ENCODER_ADAPTER]
    path = folder / MATRICES_FILE
    matrices = _validate_tensors(path, read_file(path))
    for tensors in adapter_tensors.values():  # an adapter may hold both matrices; the last one counts
        matrices.update({name: tensors[name] for name in (_EMBEDDING_KEY, _HEAD_KEY) if name in tensors})
    shape = (vocabulary_size, decoder_config.hidden_size)
    embed, head = (_get_matrix(folder, matrices, name, shape) for name in (_EMBEDDING_KEY, _HEAD_KEY))
    return Checkpoint(folder, config, adapters, embed, head, is_mapped(path))


def _parse_adapters(path: Path, config: CheckpointConfig, mapping: dict[str, Any]) -> dict[str, dict[str, Array]]:
    adapters = {name: _validate_tensors(path, tensors) for name, tensors in mapping.items()}
    if config.family == "pisco" and config.raw.get("training_form") != "both_separately":
        adapters.setdefault(ENCODER_ADAPTER, adapters.get(DECODER_ADAPTER, {}))  # trained as one
    for name in (ENCODER_ADAPTER, DECODER_ADAPTER) if config.has_lora else ():
        if not adapters.get(name):
            raise CheckpointError(f"{path}: has no {name} (only {', '.join(adapters) or 'an empty mapping'})")
    return adapters


def _parse_adapter(
    path: Path, name: str, tensors: dict[str, Array], expected: tuple[DecoderConfig, int]
) -> list[dict[str, lora.LoraPair]]:
    decoder_config, rank = expected
    try:
        adapter = lora.parse_adapter(tensors, decoder_config.layer_count)
    except KeyError as error:
        raise CheckpointError(f"{path}: {name} has no tensor {error}") from error
    for index, layer in enumerate(adapter):
        for module, pair in layer.items():
            out_size, in_size = decoder_config.linear_shape(module)
            if tuple(pair.down.shape) != (rank, in_size) or tuple(pair.up.shape) != (out_size, rank):
                raise CheckpointError(f"{path}: {name}, layer {index}, {module} does not fit rank {rank} and the base")
    return adapter


def _get_matrix(folder: Path, matrices: dict[str, Array], name: str, shape: tuple[int, int]) -> Array:
    path = folder / MATRICES_FILE
    if name not in matrices:
        raise CheckpointError(f"{path}: has no {name}")
    if tuple(matrices[name].shape) != shape:
        raise CheckpointError(
            f"{path}: {name} is {tuple(matrices[name].shape)}, but base and config.json require {shape}"
        )
    return matrices[name]


def _validate_tensors(path: Path, value: Any) -> dict[str, Array]:
    if not isinstance(value, dict):
        raise CheckpointError(f"{path}: not a mapping of tensors")
    items = cast("dict[object, object]", value)
    tensors = {str(name).removeprefix(_PEFT_PREFIX): item for name, item in items.items() if hasattr(item, "shape")}
    if len(tensors) != len(items):
        raise CheckpointError(f"{path}: contains values that are not tensors")
    return tensors
