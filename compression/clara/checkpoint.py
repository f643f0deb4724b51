"""One CLaRa checkpoint, read and verified: its numbers, its adapters, its vocabulary matrices.

Nothing of a checkpoint is executed: the tensors are read with `weights_only`, the Python file beside them is ignored.
Every adapter in the file is used, whatever the training stage says; a checkpoint that is not whole is refused by name.
"""

import json
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor

from . import lora
from .base_weights import DecoderConfig
from .exceptions import CheckpointError
from .weight_quantization import WeightFormat

ENCODER_ADAPTER, DECODER_ADAPTER, QUERY_ADAPTER = "encoder_adapter", "decoder_adapter", "query_reasoner_adapter"
_EMBEDDING_KEY, _HEAD_KEY = "model.embed_tokens.weight", "lm_head.weight"
_PEFT_PREFIX = "base_model.model."


class Abstention(NamedTuple):
    """When a checkpoint says `says`: where no memory scores at least `below` (cosine, -1 to 1), and never else."""

    min_score: float
    answer: str


class CheckpointConfig(NamedTuple):
    """What inference needs of `config.json`; `raw` is all of it.

    `abstention` is not of the released format: checkpoints without it always let the decoder speak.
    """

    max_document_tokens: int
    memory_tokens: int
    compression_rate: int
    has_distinct_memory_tokens: bool
    top_k: int
    training_stage: str
    has_lora: bool
    lora_rank: int
    has_kbtc_token: bool
    weight_format: WeightFormat | None
    raw: dict[str, Any]
    abstention: Abstention | None = None


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A verified checkpoint on the CPU, in the dtype it was saved in.

    `embed` and `head` are [vocabulary, hidden]; an adapter is a list of layers, each a mapping of module to its pair.
    """

    folder: Path
    config: CheckpointConfig
    adapters: Mapping[str, list[dict[str, lora.LoraPair]]]
    embed: Tensor
    head: Tensor


def read_checkpoint_config(folder: Path) -> CheckpointConfig:
    """Read `config.json`; unknown keys are ignored, a missing or senseless one is a `CheckpointError`."""
    path = folder / "config.json"
    try:
        raw: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        limit, rate = int(raw["doc_max_length"]), int(raw["compr_rate"])
        quantization = raw.get("quantization")
        config = CheckpointConfig(
            max_document_tokens=limit,
            memory_tokens=limit // rate,
            compression_rate=rate,
            has_distinct_memory_tokens=bool(raw.get("different_mem_tokens", True)),
            top_k=int(raw.get("generation_top_k", 1)),
            training_stage=str(raw.get("training_stage", "")),
            has_lora=bool(raw.get("lora", True)),
            lora_rank=int(raw.get("lora_r", 16)),
            has_kbtc_token=bool(raw.get("kbtc_training", False)),
            weight_format=quantization if quantization in ("int4", "int8") else None,
            raw=raw,
            abstention=_parse_abstention(raw.get("abstention")),
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError, ZeroDivisionError) as error:
        raise CheckpointError(f"{path}: not the configuration of a CLaRa checkpoint ({error!r})") from error
    if config.memory_tokens < 1:
        raise CheckpointError(f"{path}: doc_max_length {limit} and compr_rate {rate} leave no memory token")
    return config


def load_checkpoint(
    folder: Path, shape: DecoderConfig, vocabulary: int, *, skip_decoder_adapter: bool = False
) -> Checkpoint:
    """Read a checkpoint for a base of this shape whose tokenizer has `vocabulary` ids with CLaRa's tokens.

    `as_released` repeats what the reference does with a `stage1_2` checkpoint: its trained decoder adapter is left out.
    """
    config = read_checkpoint_config(folder)
    path = folder / "adapters.pth"
    sets = _load_adapter_tensors(path, config, skip_decoder_adapter=skip_decoder_adapter)
    adapters = {name: _parse_adapter(path, name, tensors, (shape, config.lora_rank)) for name, tensors in sets.items()}
    if config.training_stage.startswith("stage2") and QUERY_ADAPTER not in adapters and ENCODER_ADAPTER in adapters:
        adapters[QUERY_ADAPTER] = adapters[ENCODER_ADAPTER]
    path = folder / "decoder_first_last_layers.pth"
    matrices = _validate_tensors(path, _load_mapping(path))
    for tensors in sets.values():  # an adapter may carry both matrices; the last one counts
        matrices.update({name: tensors[name] for name in (_EMBEDDING_KEY, _HEAD_KEY) if name in tensors})
    embed, head = (
        _get_matrix(folder, matrices, name, (vocabulary, shape.hidden_size)) for name in (_EMBEDDING_KEY, _HEAD_KEY)
    )
    return Checkpoint(folder, config, adapters, embed, head)


def _parse_abstention(raw: Any) -> Abstention | None:
    return None if raw is None else Abstention(float(raw["below"]), str(raw["says"]))


def _load_adapter_tensors(
    path: Path, config: CheckpointConfig, *, skip_decoder_adapter: bool
) -> dict[str, dict[str, Tensor]]:
    if not config.has_lora:
        return {}
    sets = {name: _validate_tensors(path, found) for name, found in _load_mapping(path).items()}
    for name in (ENCODER_ADAPTER, DECODER_ADAPTER):
        if name not in sets:
            raise CheckpointError(f"{path}: has no {name} (it holds {', '.join(sets) or 'nothing'})")
    if skip_decoder_adapter and config.training_stage == "stage1_2":
        del sets[DECODER_ADAPTER]
    return sets


def _parse_adapter(
    path: Path, name: str, tensors: dict[str, Tensor], wanted: tuple[DecoderConfig, int]
) -> list[dict[str, lora.LoraPair]]:
    shape, rank = wanted
    try:
        adapter = lora.parse_adapter(tensors, shape.layer_count)
    except KeyError as error:
        raise CheckpointError(f"{path}: {name} has no tensor {error}") from error
    for index, layer in enumerate(adapter):
        for module, pair in layer.items():
            out, into = shape.linear_shape(module)
            if tuple(pair.down.shape) != (rank, into) or tuple(pair.up.shape) != (out, rank):
                raise CheckpointError(f"{path}: {name}, layer {index}, {module} does not fit rank {rank} and the base")
    return adapter


def _get_matrix(folder: Path, matrices: dict[str, Tensor], name: str, wanted: tuple[int, int]) -> Tensor:
    path = folder / "decoder_first_last_layers.pth"
    if name not in matrices:
        raise CheckpointError(f"{path}: has no {name}")
    if tuple(matrices[name].shape) != wanted:
        raise CheckpointError(f"{path}: {name} is {tuple(matrices[name].shape)}, base and config.json ask for {wanted}")
    return matrices[name].detach()


def _validate_tensors(path: Path, found: Any) -> dict[str, Tensor]:
    if not isinstance(found, dict):
        raise CheckpointError(f"{path}: holds no mapping of tensors")
    named = cast("dict[object, object]", found)
    tensors = {
        str(name).removeprefix(_PEFT_PREFIX): value for name, value in named.items() if isinstance(value, Tensor)
    }
    if len(tensors) != len(named):
        raise CheckpointError(f"{path}: holds something else than tensors")
    return tensors


def _load_mapping(path: Path) -> dict[str, Any]:
    if not zipfile.is_zipfile(path):
        raise CheckpointError(f"{path}: not a file that torch.save wrote")
    try:
        loaded: Any = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # what a broken or hostile file makes torch raise is not bounded
        raise CheckpointError(f"{path}: cannot be read as tensors ({error})") from error
    if not isinstance(loaded, dict):
        raise CheckpointError(f"{path}: holds no mapping of tensors")
    return cast("dict[str, Any]", loaded)
