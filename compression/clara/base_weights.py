"""Reads the base model's weights from safetensors straight to the device, and quantizes them there if requested.

Only the decoder layers and the last norm are read, as a CLaRa checkpoint has its own vocabulary matrices.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from ..models.errors import CheckpointError
from .checkpoint_config import WeightFormat
from .decoder_config import DecoderConfig, read_decoder_config, read_json
from .linear_layers import ExactLinear, Linear, pack_rows
from .lora import INPUT_GROUPS, TARGET_MODULES
from .quantized_weights import QuantizedWeightStore, StoredModel
from .weight_file import WeightFile
from .weight_quantization import describe_format, make_quantized_linear, quantize_weight

_open_file: Any = safe_open  # it has no types


@dataclass(frozen=True, slots=True)
class DecoderLayer:
    """One decoder layer: the weights [hidden] of its two norms, and its seven linear layers by name."""

    attention_norm: Tensor
    mlp_norm: Tensor
    linears: Mapping[str, Linear]


@dataclass(frozen=True, slots=True, weakref_slot=True)
class BaseWeights:
    """A base model without its vocabulary matrices.

    `read_fingerprint_weight` reads a weight [out, in] that identifies the model.
    """

    config: DecoderConfig
    layers: tuple[DecoderLayer, ...]
    norm: Tensor
    device: torch.device
    dtype: torch.dtype
    read_fingerprint_weight: Callable[[], Tensor]


def load_base(
    folder: Path,
    device: torch.device,
    dtype: torch.dtype,
    weight_format: WeightFormat | None = None,
    quantized_store: QuantizedWeightStore | None = None,
) -> BaseWeights:
    """Read the weights; quantized ones from a store, or from the base and then into the store.

    Raises `CheckpointError` naming a missing or misshapen tensor and its file.
    """
    config = read_decoder_config(folder)
    # Weights are released in bfloat16. Others are copied on conversion, and a mapped file would stay in memory, too.
    is_mapped = weight_format is None and dtype == torch.bfloat16 and device.type == "cpu"
    read_weight = _make_weight_reader(folder, device, dtype, is_mapped=is_mapped)
    stored: StoredModel | None = None
    if quantized_store is not None and weight_format is not None:
        description = f"{describe_format(weight_format)} {dtype} {config}"
        stored = quantized_store.open_model(folder, description, config.layer_count)
    linear_reader = _LinearReader(
        read_weight, config, device, weight_format, stored, is_mapped and device.type == "cpu"
    )
    layers = tuple(_read_layer(read_weight, linear_reader, index) for index in range(config.layer_count))
    norm = read_weight("model.norm.weight", config.hidden_size).clone()

    def read_fingerprint_weight() -> Tensor:
        shape = config.linear_shape("q_proj")
        return _make_weight_reader(folder, device, dtype)("model.layers.0.self_attn.q_proj.weight", *shape)

    return BaseWeights(config, layers, norm, device, dtype, read_fingerprint_weight)


class _LinearReader(NamedTuple):
    """Reads the linear layers, in a weight format and perhaps from stored quantized weights."""

    read_weight: Callable[..., Tensor]
    config: DecoderConfig
    device: torch.device
    weight_format: WeightFormat | None
    stored: StoredModel | None
    is_mapped: bool

    def read(self, index: int) -> dict[str, Linear]:
        """Return the seven linear layers of a decoder layer by name."""
        if self.weight_format is None:
            return self._read_exact(index)
        tensors = self.stored.read_layer(index, self.device) if self.stored is not None else None
        if tensors is None:
            tensors = self._quantize(index, self.weight_format)
            if self.stored is not None:
                self.stored.write_layer(index, tensors)
        parts: dict[str, dict[str, Tensor]] = {module: {} for module in TARGET_MODULES}
        for name, tensor in tensors.items():
            module, _, part = name.partition("/")
            parts[module][part] = tensor
        return {module: make_quantized_linear(parts[module], self.weight_format) for module in TARGET_MODULES}

    def _read_exact(self, index: int) -> dict[str, Linear]:
        """Return the layers with exact weights; those of the same input are adjacent in memory, unless mapped."""
        linears: dict[str, Linear] = {}
        for modules in INPUT_GROUPS:
            weights = [self._read_module(index, module) for module in modules]
            weights = weights if self.is_mapped or len(modules) == 1 else pack_rows(weights)
            linears |= {module: ExactLinear(weight) for module, weight in zip(modules, weights, strict=True)}
        return linears

    def _quantize(self, index: int, weight_format: WeightFormat) -> dict[str, Tensor]:
        return {
            f"{module}/{part}": tensor
            for module in TARGET_MODULES
            for part, tensor in quantize_weight(self._read_module(index, module), weight_format).items()
        }

    def _read_module(self, index: int, module: str) -> Tensor:
        block = "mlp" if module in ("gate_proj", "up_proj", "down_proj") else "self_attn"
        return self.read_weight(f"model.layers.{index}.{block}.{module}.weight", *self.config.linear_shape(module))


def _read_layer(read_weight: Callable[..., Tensor], linear_reader: _LinearReader, index: int) -> DecoderLayer:
    prefix, size = f"model.layers.{index}", linear_reader.config.hidden_size
    # Copies: a view would keep the whole file mapped, although its other weights are quantized.
    attention_norm = read_weight(f"{prefix}.input_layernorm.weight", size).clone()
    mlp_norm = read_weight(f"{prefix}.post_attention_layernorm.weight", size).clone()
    return DecoderLayer(attention_norm, mlp_norm, linear_reader.read(index))


def _make_weight_reader(
    folder: Path, device: torch.device, dtype: torch.dtype, *, is_mapped: bool = False
) -> Callable[..., Tensor]:
    """Return a reader of tensors; mapped files need no memory of their own if their tensors are used as they are."""
    read_tensor = _make_tensor_reader(folder, is_mapped=is_mapped)

    def read_weight(name: str, *shape: int) -> Tensor:
        tensor = read_tensor(name)
        if tuple(tensor.shape) != shape:
            raise CheckpointError(f"{folder}: {name} has shape {tuple(tensor.shape)}, but config.json says {shape}")
        return tensor.to(device=device, dtype=dtype)

    return read_weight


def _make_tensor_reader(folder: Path, *, is_mapped: bool) -> Callable[[str], Tensor]:
    index = folder / "model.safetensors.index.json"
    files: dict[str, str] = read_json(index).get("weight_map", {}) if index.exists() else {}
    open_files: dict[str, Callable[[str], Tensor]] = {}

    def read_tensor(name: str) -> Tensor:
        path = folder / files.get(name, "model.safetensors")
        try:
            if path.name not in open_files:
                open_files[path.name] = (
                    _open_file(path, framework="pt", backend="mmap").get_tensor
                    if is_mapped
                    else WeightFile.open(path).read
                )
            return open_files[path.name](name)
        except (OSError, SafetensorError, KeyError, ValueError) as error:
            raise CheckpointError(f"{path}: {name} cannot be read ({error})") from error

    return read_tensor
