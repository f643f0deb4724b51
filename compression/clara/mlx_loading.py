"""Loads a model with MLX, without torch: verifies its files and reads the weights."""

import hashlib
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np

from ..models import resources
from ..models.errors import CheckpointError, ModelError
from . import checkpoint as checkpoint_files
from . import lora, memory_estimate, mlx_model
from .checkpoint import Checkpoint
from .checkpoint_config import WeightFormat
from .decoder_config import DecoderConfig, read_json
from .lora import TARGET_MODULES
from .mlx_model import Linear, MlxBase, MlxLayer, MlxModel, evaluate
from .model_source import LoadedModel, ModelFiles, ModelSource, Placement, find_model_files
from .tensor_file import RawTensor, read_raw_tensors

_DTYPES = {
    "float32": mx.float32,
    "fp32": mx.float32,
    "bfloat16": mx.bfloat16,
    "bf16": mx.bfloat16,
    "float16": mx.float16,
    "fp16": mx.float16,
}
_BITS: dict[WeightFormat, int] = {"int8": 8, "int4": 4}


def load_model(source: ModelSource, placement: Placement) -> LoadedModel:
    """Load a checkpoint and its base. Raises `CheckpointError` naming a missing or broken file."""
    files = find_model_files(source)
    dtype, weight_format = _choose_dtype(placement.dtype), files.choose_weight_format(placement)
    dtype_name = str(dtype).rpartition(".")[2]
    _require_memory(files, dtype_name, weight_format)
    checkpoint = checkpoint_files.load_checkpoint(
        files.folder,
        files.decoder_config,
        files.tokenizer.vocabulary_size,
        skip_decoder_adapter=source.skip_decoder_adapter,
        read_file=read_raw_tensors,
    )
    base = _load_base(files.base_folder, files.decoder_config, dtype, weight_format)

    def convert(tensor: RawTensor) -> mx.array:
        return _convert_tensor(tensor, dtype)

    adapters = {name: lora.convert_adapter(adapter, convert) for name, adapter in checkpoint.adapters.items()}
    embed, head = convert(checkpoint.embed), convert(checkpoint.head)
    evaluate(embed, head, [list(pair) for adapter in adapters.values() for layer in adapter for pair in layer.values()])
    model = MlxModel(base, embed, head, adapters)
    formats = (dtype_name, weight_format, files.tokenizer.revision)
    fingerprint = _compute_fingerprint(files, checkpoint, formats)
    return LoadedModel(model, files.tokenizer, files.config, fingerprint, files.load_abstention_head(source))


def _choose_dtype(name: str) -> mx.Dtype:
    """Return the dtype; "auto" is bfloat16 on a GPU and float32 on the CPU. Raises `ModelError` for another name."""
    if name == "auto":
        return mx.float32 if mx.default_device() == mx.cpu else mx.bfloat16
    if name not in _DTYPES:
        raise ModelError(f"dtype {name!r} is not supported; choose auto, {', '.join(_DTYPES)}")
    return _DTYPES[name]


def _require_memory(files: ModelFiles, dtype: str, weight_format: WeightFormat | None) -> None:
    """Raise `CheckpointError` if the model does not fit into the memory."""
    available = resources.available_bytes()
    if available is None:
        return
    estimates = memory_estimate.estimate_formats(files.decoder_config, files.config, dtype, files.folder)
    chosen = memory_estimate.format_name(dtype, weight_format)
    if shortage := memory_estimate.describe_shortage(estimates, chosen, available):
        raise CheckpointError(f"{files.folder}: {shortage} (CLARA_DTYPE)")


def _load_base(folder: Path, config: DecoderConfig, dtype: mx.Dtype, weight_format: WeightFormat | None) -> MlxBase:
    reader = _WeightReader(folder, dtype)
    layers = tuple(_read_layer(reader, config, index, weight_format) for index in range(config.layer_count))
    return MlxBase(config, layers, reader.read("model.norm.weight", config.hidden_size), str(dtype).rpartition(".")[2])


def _read_layer(
    reader: "_WeightReader", config: DecoderConfig, index: int, weight_format: WeightFormat | None
) -> MlxLayer:
    prefix, linears = f"model.layers.{index}", dict[str, Linear]()
    for module in TARGET_MODULES:
        block = "mlp" if module in ("gate_proj", "up_proj", "down_proj") else "self_attn"
        weight = reader.read(f"{prefix}.{block}.{module}.weight", *config.linear_shape(module))
        linears[module] = mlx_model.make_linear(weight, _BITS[weight_format] if weight_format else None)
    attention_norm = reader.read(f"{prefix}.input_layernorm.weight", config.hidden_size)
    return MlxLayer(
        attention_norm, reader.read(f"{prefix}.post_attention_layernorm.weight", config.hidden_size), linears
    )


class _WeightReader:
    """Reads each weight of a base model once, from safetensors."""

    def __init__(self, folder: Path, dtype: mx.Dtype) -> None:
        index = folder / "model.safetensors.index.json"
        self._folder, self._dtype = folder, dtype
        self._files: dict[str, str] = read_json(index).get("weight_map", {}) if index.exists() else {}
        self._open_files: dict[Path, dict[str, mx.array]] = {}

    def read(self, name: str, *shape: int) -> mx.array:
        """Return a weight. Raises `CheckpointError` naming a missing or misshapen one and its file."""
        path = self._folder / self._files.get(name, "model.safetensors")
        try:
            if path not in self._open_files:
                loaded: Any = mx.load(str(path))  # reads the header; the weights as they are used
                self._open_files[path] = loaded
            weight = self._open_files[path].pop(name)
            evaluate(weight)
        except (OSError, RuntimeError, KeyError) as error:
            raise CheckpointError(f"{path}: {name} cannot be read ({error})") from error
        if tuple(weight.shape) != shape:
            raise CheckpointError(
                f"{self._folder}: {name} has shape {tuple(weight.shape)}, but config.json says {shape}"
            )
        weight = weight.astype(self._dtype)
        evaluate(weight)
        return weight


def _convert_tensor(tensor: RawTensor, dtype: mx.Dtype) -> mx.array:
    array = mx.array(tensor.values)
    return (array.view(mx.bfloat16) if tensor.dtype == "bfloat16" else array).astype(dtype)


def _compute_fingerprint(files: ModelFiles, checkpoint: Checkpoint, formats: tuple[str | None, ...]) -> str:
    config = checkpoint.config
    digest = hashlib.sha256(repr(("mlx", config.max_document_tokens, config.compression_rate, *formats)).encode())
    shape = files.decoder_config.linear_shape("q_proj")
    base_weight = _WeightReader(files.base_folder, mx.float32).read("model.layers.0.self_attn.q_proj.weight", *shape)
    digest.update(np.array(base_weight).data)
    encoder = checkpoint.adapters.get(checkpoint_files.ENCODER_ADAPTER, [])
    for tensor in (checkpoint.embed, *(tensor for layer in encoder for pair in layer.values() for tensor in pair)):
        digest.update(tensor.values.data)
    return digest.hexdigest()[:32]
