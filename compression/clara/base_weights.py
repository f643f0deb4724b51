"""The base model's weights: read from safetensors straight to the device, and rounded there if wanted.

Only the decoder layers and the last norm are read: CLaRa brings both vocabulary matrices with it. Any Mistral-shaped
model will do; what would need another computation (rope scaling, another activation) is refused by name.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from .exceptions import CheckpointError
from .lora import TARGET_MODULES, Linear
from .weight_quantization import WeightFormat, make_linear


class DecoderConfig(NamedTuple):
    """The numbers that describe a Mistral-shaped decoder."""

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
        """Return (out, in) of a linear map."""
        wide, narrow = self.heads * self.head_dim, self.kv_heads * self.head_dim
        return {
            "q_proj": (wide, self.hidden_size),
            "k_proj": (narrow, self.hidden_size),
            "v_proj": (narrow, self.hidden_size),
            "o_proj": (self.hidden_size, wide),
            "gate_proj": (self.intermediate_size, self.hidden_size),
            "up_proj": (self.intermediate_size, self.hidden_size),
            "down_proj": (self.hidden_size, self.intermediate_size),
        }[module]


@dataclass(frozen=True, slots=True)
class DecoderLayer:
    """One decoder layer: its two norms' weights [hidden] and its seven linear maps by name."""

    attention_norm: Tensor
    mlp_norm: Tensor
    linears: Mapping[str, Linear]


@dataclass(frozen=True, slots=True)
class BaseWeights:
    """A base model without its vocabulary matrices; `probe` [out, in] is one weight that tells models apart."""

    config: DecoderConfig
    layers: tuple[DecoderLayer, ...]
    norm: Tensor
    device: torch.device
    dtype: torch.dtype
    fingerprint_weight: Tensor


def read_decoder_config(folder: Path) -> DecoderConfig:
    """Read `config.json`, as transformers 4 or 5 writes it, and the end token of `generation_config.json`."""
    path = folder / "config.json"
    config = _read_json(path)
    rope: dict[str, Any] = config.get("rope_parameters") or config.get("rope_scaling") or {}
    checks = {
        "model_type": (config.get("model_type"), ("mistral",)),
        "hidden_act": (config.get("hidden_act", "silu"), ("silu",)),
        "rope type": (rope.get("rope_type", rope.get("type", "default")), ("default",)),
    }
    for name, (value, wanted) in checks.items():
        if value not in wanted:
            raise CheckpointError(f"{path}: {name} is {value!r}, CLaRa's base has {wanted[0]!r}")
    try:
        return _parse_decoder_config(config, rope, _read_eos_ids(folder, config))
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"{path}: {error} is missing or makes no sense") from error


def load_base(
    folder: Path, device: torch.device, dtype: torch.dtype, weight_format: WeightFormat | None = None
) -> BaseWeights:
    """Read the weights; a missing or misshapen tensor is a `CheckpointError` naming the tensor and its file."""
    shape = read_decoder_config(folder)
    get = _make_tensor_reader(folder, device)

    def weight(name: str, *wanted: int) -> Tensor:
        tensor = get(name)
        if tuple(tensor.shape) != wanted:
            raise CheckpointError(f"{folder}: {name} has shape {tuple(tensor.shape)}, config.json says {wanted}")
        return tensor.to(dtype)

    layers = tuple(_read_layer(weight, shape, index, weight_format) for index in range(shape.layer_count))
    probe = weight("model.layers.0.self_attn.q_proj.weight", *shape.linear_shape("q_proj"))
    return BaseWeights(shape, layers, weight("model.norm.weight", shape.hidden_size), device, dtype, probe)


def _read_layer(
    weight: Callable[..., Tensor], shape: DecoderConfig, index: int, quantization: WeightFormat | None
) -> DecoderLayer:
    stem = f"model.layers.{index}"
    linears: dict[str, Linear] = {}
    for module in TARGET_MODULES:
        room = "mlp" if module in ("gate_proj", "up_proj", "down_proj") else "self_attn"
        linears[module] = make_linear(
            weight(f"{stem}.{room}.{module}.weight", *shape.linear_shape(module)), quantization
        )
    before = weight(f"{stem}.input_layernorm.weight", shape.hidden_size)
    return DecoderLayer(before, weight(f"{stem}.post_attention_layernorm.weight", shape.hidden_size), linears)


def _make_tensor_reader(folder: Path, device: torch.device) -> Callable[[str], Tensor]:
    index = folder / "model.safetensors.index.json"
    files: dict[str, str] = _read_json(index).get("weight_map", {}) if index.exists() else {}
    opened: dict[str, Any] = {}

    def get(name: str) -> Tensor:
        path = folder / files.get(name, "model.safetensors")
        try:
            if path.name not in opened:
                opened[path.name] = safe_open(path, framework="pt", device=str(device))
            tensor: Tensor = opened[path.name].get_tensor(name)
        except (OSError, SafetensorError) as error:
            raise CheckpointError(f"{path}: {name} cannot be read ({error})") from error
        return tensor

    return get


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
        # Within its window a sliding attention is the full one, so prompts are kept within it.
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
