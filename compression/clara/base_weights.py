"""Reads the base model's weights from safetensors straight to the device, and quantizes them there if requested.

Only the decoder layers and the last norm are read, as a CLaRa checkpoint has its own vocabulary matrices. Any
Mistral-shaped model works; a config that needs another computation (rope scaling, another activation) is refused.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from .checkpoint_config import WeightFormat
from .exceptions import CheckpointError
from .lora import TARGET_MODULES, Linear
from .weight_quantization import make_linear


class DecoderConfig(NamedTuple):
    """The dimensions and constants of a Mistral-shaped decoder."""

    hidden_size: int
    layer_count: int
    heads: int
    kv_heads: int
    head_dim: int
    intermediate_size: int
    vocabulary_size: int
    norm_eps: float
    rope_theta: float
    max_positions: int
    eos_ids: tuple[int, ...]

    def linear_shape(self, module: str) -> tuple[int, int]:
        """Return (out, in) of a linear layer."""
        query_size, key_size = self.heads * self.head_dim, self.kv_heads * self.head_dim
        return {
            "q_proj": (query_size, self.hidden_size),
            "k_proj": (key_size, self.hidden_size),
            "v_proj": (key_size, self.hidden_size),
            "o_proj": (self.hidden_size, query_size),
            "gate_proj": (self.intermediate_size, self.hidden_size),
            "up_proj": (self.intermediate_size, self.hidden_size),
            "down_proj": (self.hidden_size, self.intermediate_size),
        }[module]


@dataclass(frozen=True, slots=True)
class DecoderLayer:
    """One decoder layer: the weights [hidden] of its two norms, and its seven linear layers by name."""

    attention_norm: Tensor
    mlp_norm: Tensor
    linears: Mapping[str, Linear]


@dataclass(frozen=True, slots=True, weakref_slot=True)
class BaseWeights:
    """A base model without its vocabulary matrices; `fingerprint_weight` [out, in] identifies the model."""

    config: DecoderConfig
    layers: tuple[DecoderLayer, ...]
    norm: Tensor
    device: torch.device
    dtype: torch.dtype
    fingerprint_weight: Tensor


def read_decoder_config(folder: Path) -> DecoderConfig:
    """Read `config.json` in the format of transformers 4 or 5, and the end token of `generation_config.json`."""
    path = folder / "config.json"
    config = _read_json(path)
    rope: dict[str, Any] = config.get("rope_parameters") or config.get("rope_scaling") or {}
    checks = {
        "model_type": (config.get("model_type"), ("mistral",)),
        "hidden_act": (config.get("hidden_act", "silu"), ("silu",)),
        "rope type": (rope.get("rope_type", rope.get("type", "default")), ("default",)),
    }
    for name, (value, supported) in checks.items():
        if value not in supported:
            raise CheckpointError(f"{path}: {name} is {value!r}, but CLaRa's base must have {supported[0]!r}")
    try:
        return _parse_decoder_config(config, rope, _read_eos_ids(folder, config))
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"{path}: {error} is missing or invalid") from error


def load_base(
    folder: Path, device: torch.device, dtype: torch.dtype, weight_format: WeightFormat | None = None
) -> BaseWeights:
    """Read the weights. Raises `CheckpointError` naming a missing or misshapen tensor and its file."""
    config = read_decoder_config(folder)
    read_tensor = _make_tensor_reader(folder, device)

    def read_weight(name: str, *shape: int) -> Tensor:
        tensor = read_tensor(name)
        if tuple(tensor.shape) != shape:
            raise CheckpointError(f"{folder}: {name} has shape {tuple(tensor.shape)}, but config.json says {shape}")
        return tensor.to(dtype)

    layers = tuple(_read_layer(read_weight, config, index, weight_format) for index in range(config.layer_count))
    norm = read_weight("model.norm.weight", config.hidden_size)
    fingerprint_weight = read_weight("model.layers.0.self_attn.q_proj.weight", *config.linear_shape("q_proj"))
    return BaseWeights(config, layers, norm, device, dtype, fingerprint_weight)


def _read_layer(
    read_weight: Callable[..., Tensor], config: DecoderConfig, index: int, weight_format: WeightFormat | None
) -> DecoderLayer:
    prefix = f"model.layers.{index}"
    linears: dict[str, Linear] = {}
    for module in TARGET_MODULES:
        block = "mlp" if module in ("gate_proj", "up_proj", "down_proj") else "self_attn"
        weight = read_weight(f"{prefix}.{block}.{module}.weight", *config.linear_shape(module))
        linears[module] = make_linear(weight, weight_format)
    attention_norm = read_weight(f"{prefix}.input_layernorm.weight", config.hidden_size)
    mlp_norm = read_weight(f"{prefix}.post_attention_layernorm.weight", config.hidden_size)
    return DecoderLayer(attention_norm, mlp_norm, linears)


def _make_tensor_reader(folder: Path, device: torch.device) -> Callable[[str], Tensor]:
    index = folder / "model.safetensors.index.json"
    files: dict[str, str] = _read_json(index).get("weight_map", {}) if index.exists() else {}
    open_files: dict[str, Any] = {}

    def read_tensor(name: str) -> Tensor:
        path = folder / files.get(name, "model.safetensors")
        try:
            if path.name not in open_files:
                open_files[path.name] = safe_open(path, framework="pt", device=str(device))
            tensor: Tensor = open_files[path.name].get_tensor(name)
        except (OSError, SafetensorError) as error:
            raise CheckpointError(f"{path}: {name} cannot be read ({error})") from error
        return tensor

    return read_tensor


def _parse_decoder_config(config: dict[str, Any], rope: dict[str, Any], eos: tuple[int, ...]) -> DecoderConfig:
    heads, hidden = int(config["num_attention_heads"]), int(config["hidden_size"])
    window = config.get("sliding_window")
    positions = int(config.get("max_position_embeddings", 32768))
    return DecoderConfig(
        hidden_size=hidden,
        layer_count=int(config["num_hidden_layers"]),
        heads=heads,
        kv_heads=int(config.get("num_key_value_heads") or heads),
        head_dim=int(config.get("head_dim") or hidden // heads),
        intermediate_size=int(config["intermediate_size"]),
        vocabulary_size=int(config["vocab_size"]),
        norm_eps=float(config.get("rms_norm_eps", 1e-6)),
        rope_theta=float(rope.get("rope_theta") or config.get("rope_theta") or 10000.0),
        # Within its window, sliding attention equals full attention, so prompts stay within it.
        max_positions=min(positions, int(window)) if window else positions,
        eos_ids=eos,
    )


def _read_eos_ids(folder: Path, config: dict[str, Any]) -> tuple[int, ...]:
    path = folder / "generation_config.json"
    generation: dict[str, Any] = _read_json(path) if path.exists() else {}
    eos: int | list[int] = generation.get("eos_token_id", config.get("eos_token_id", 2))
    return tuple(eos) if isinstance(eos, list) else (int(eos),)


def _read_json(path: Path) -> dict[str, Any]:
    try:
        value: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path}: not readable JSON ({error})") from error
    return value
