"""Writes clara-nano in the released on-disk format: a base model, and the abstention threshold of a checkpoint."""

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file  # pyright: ignore[reportUnknownVariableType]
from torch import Tensor

from ...compression.clara.lora import TARGET_MODULES
from ...compression.clara.train.checkpoint_writer import tensor_stem, to_cpu, write_json
from ...compression.clara.train.network import Network


def save_base(network: Network, tokenizer_json: str, vocabulary_size: int, folder: Path, dtype: torch.dtype) -> None:
    """Write the base model; its vocabulary matrices have the first `vocabulary_size` rows of the network's."""
    folder.mkdir(parents=True, exist_ok=True)
    decoder = network.config
    config: dict[str, Any] = {
        "architectures": ["MistralForCausalLM"],
        "model_type": "mistral",
        "hidden_act": "silu",
        "hidden_size": decoder.hidden_size,
        "intermediate_size": decoder.intermediate_size,
        "num_hidden_layers": decoder.layer_count,
        "num_attention_heads": decoder.heads,
        "num_key_value_heads": decoder.kv_heads,
        "head_dim": decoder.head_dim,
        "max_position_embeddings": decoder.max_positions,
        "rms_norm_eps": decoder.norm_eps,
        "rope_theta": decoder.rope_theta,
        "sliding_window": None,
        "tie_word_embeddings": False,
        "vocab_size": vocabulary_size,
        "bos_token_id": 1,
        "eos_token_id": decoder.eos_ids[0],
        "torch_dtype": str(dtype).removeprefix("torch."),
    }
    write_json(folder / "config.json", config)
    write_json(folder / "generation_config.json", {"bos_token_id": 1, "eos_token_id": decoder.eos_ids[0]})
    (folder / "tokenizer.json").write_text(tokenizer_json, encoding="utf-8")
    weights = folder / "model.safetensors"
    save_file(_base_tensors(network, vocabulary_size, dtype), weights)
    weights.chmod(0o644)  # safetensors makes it readable by its owner only


def write_abstention(folder: Path, below: float, says: str) -> None:
    """Add the abstention threshold and text to a checkpoint's config.json; see `checkpoint_config.Abstention`."""
    path = folder / "config.json"
    config: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    write_json(path, {**config, "abstention": {"below": below, "says": says}})


def _base_tensors(network: Network, vocabulary_size: int, dtype: torch.dtype) -> dict[str, Tensor]:
    tensors = {
        "model.norm.weight": to_cpu(network.norm, dtype),
        "model.embed_tokens.weight": to_cpu(network.embed, dtype)[:vocabulary_size].clone(),
        "lm_head.weight": to_cpu(network.head, dtype)[:vocabulary_size].clone(),
    }
    for index, layer in enumerate(network.layers):
        parameters = dict(layer.named_parameters())
        stem = f"model.layers.{index}"
        tensors[f"{stem}.input_layernorm.weight"] = to_cpu(parameters["attention_norm"], dtype)
        tensors[f"{stem}.post_attention_layernorm.weight"] = to_cpu(parameters["mlp_norm"], dtype)
        for module in TARGET_MODULES:
            tensors[f"{tensor_stem(index, module)}.weight"] = to_cpu(parameters[module], dtype)
    return tensors
