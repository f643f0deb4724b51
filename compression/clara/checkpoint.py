"""Reads and verifies a CLaRa or PISCO checkpoint: its config, its adapters and its vocabulary matrices.

Nothing in a checkpoint is executed: the tensors are read with `weights_only`, and the Python file beside them is
ignored. All adapters in the file are used at every training stage. An incomplete checkpoint is refused.
"""

import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor

from . import lora
from .checkpoint_config import CheckpointConfig, read_checkpoint_config
from .decoder_config import DecoderConfig
from .exceptions import CheckpointError

ENCODER_ADAPTER, DECODER_ADAPTER, QUERY_ADAPTER = "encoder_adapter", "decoder_adapter", "query_reasoner_adapter"
_EMBEDDING_KEY, _HEAD_KEY = "model.embed_tokens.weight", "lm_head.weight"
_PEFT_PREFIX = "base_model.model."


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A verified checkpoint on the CPU, in the dtype it was saved in.

    `embed` and `head` are [vocabulary, hidden]. An adapter is a list of layers, each a mapping of modules to pairs.
    """

    folder: Path
    config: CheckpointConfig
    adapters: Mapping[str, list[dict[str, lora.LoraPair]]]
    embed: Tensor
    head: Tensor


def load_checkpoint(
    folder: Path, decoder_config: DecoderConfig, vocabulary_size: int, *, skip_decoder_adapter: bool = False
) -> Checkpoint:
    """Read a checkpoint for a base model; `vocabulary_size` includes CLaRa's tokens.

    `skip_decoder_adapter` ignores the trained decoder adapter of a `stage1_2` checkpoint, like the reference.
    """
    config = read_checkpoint_config(folder)
    path = folder / "adapters.pth"
    adapter_tensors = _load_adapter_tensors(path, config, skip_decoder_adapter=skip_decoder_adapter)
    adapters = {
        name: _parse_adapter(path, name, tensors, (decoder_config, config.lora_rank))
        for name, tensors in adapter_tensors.items()
    }
    if config.training_stage.startswith("stage2") and QUERY_ADAPTER not in adapters and ENCODER_ADAPTER in adapters:
        adapters[QUERY_ADAPTER] = adapters[ENCODER_ADAPTER]
    path = folder / "decoder_first_last_layers.pth"
    matrices = _validate_tensors(path, _load_mapping(path))
    for tensors in adapter_tensors.values():  # an adapter may hold both matrices; the last one counts
        matrices.update({name: tensors[name] for name in (_EMBEDDING_KEY, _HEAD_KEY) if name in tensors})
    shape = (vocabulary_size, decoder_config.hidden_size)
    embed, head = (_get_matrix(folder, matrices, name, shape) for name in (_EMBEDDING_KEY, _HEAD_KEY))
    return Checkpoint(folder, config, adapters, embed, head)


def _load_adapter_tensors(
    path: Path, config: CheckpointConfig, *, skip_decoder_adapter: bool
) -> dict[str, dict[str, Tensor]]:
    if not config.has_lora:
        return {}
    adapters = {name: _validate_tensors(path, tensors) for name, tensors in _load_mapping(path).items()}
    if config.family == "pisco" and config.raw.get("training_form") != "both_separately":
        adapters.setdefault(ENCODER_ADAPTER, adapters.get(DECODER_ADAPTER, {}))  # trained as one
    for name in (ENCODER_ADAPTER, DECODER_ADAPTER):
        if not adapters.get(name):
            raise CheckpointError(f"{path}: has no {name} (only {', '.join(adapters) or 'an empty mapping'})")
    if skip_decoder_adapter and config.training_stage == "stage1_2":
        del adapters[DECODER_ADAPTER]
    return adapters


def _parse_adapter(
    path: Path, name: str, tensors: dict[str, Tensor], expected: tuple[DecoderConfig, int]
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


def _get_matrix(folder: Path, matrices: dict[str, Tensor], name: str, shape: tuple[int, int]) -> Tensor:
    path = folder / "decoder_first_last_layers.pth"
    if name not in matrices:
        raise CheckpointError(f"{path}: has no {name}")
    if tuple(matrices[name].shape) != shape:
        raise CheckpointError(
            f"{path}: {name} is {tuple(matrices[name].shape)}, but base and config.json require {shape}"
        )
    return matrices[name].detach()


def _validate_tensors(path: Path, value: Any) -> dict[str, Tensor]:
    if not isinstance(value, dict):
        raise CheckpointError(f"{path}: not a mapping of tensors")
    items = cast("dict[object, object]", value)
    tensors = {str(name).removeprefix(_PEFT_PREFIX): item for name, item in items.items() if isinstance(item, Tensor)}
    if len(tensors) != len(items):
        raise CheckpointError(f"{path}: contains values that are not tensors")
    return tensors


def _load_mapping(path: Path) -> dict[str, Any]:
    if not zipfile.is_zipfile(path):
        raise CheckpointError(f"{path}: not a file written by torch.save")
    try:
        loaded: Any = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises any exception for a broken or hostile file
        raise CheckpointError(f"{path}: cannot be read as tensors ({error})") from error
    if not isinstance(loaded, dict):
        raise CheckpointError(f"{path}: not a mapping of tensors")
    return cast("dict[str, Any]", loaded)
