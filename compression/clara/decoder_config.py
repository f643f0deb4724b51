"""Reads the configuration of a base model, in the format of transformers 4 or 5. Does not load torch.

Any Mistral-shaped model works; a config that needs another computation (rope scaling, another activation) is refused.
"""

import json
from pathlib import Path
from typing import Any, NamedTuple

from ..models.errors import CheckpointError


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


def read_decoder_config(folder: Path) -> DecoderConfig:
    """Read `config.json` in the format of transformers 4 or 5, and the end token of `generation_config.json`."""
    path = folder / "config.json"
    config = read_json(path)
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
    generation: dict[str, Any] = read_json(path) if path.exists() else {}
    eos: int | list[int] = generation.get("eos_token_id", config.get("eos_token_id", 2))
    return tuple(eos) if isinstance(eos, list) else (int(eos),)


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON file. Raises `CheckpointError` naming an unreadable one."""
    try:
        value: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path}: not readable JSON ({error})") from error
    return value
