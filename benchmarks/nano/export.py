"""Writes clara-nano in the released on-disk format: a base model, and the abstention threshold of a checkpoint."""

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file  # pyright: ignore[reportUnknownVariableType]
from torch import Tensor

from ...compression.clara.lora import MODULES
from ...compression.clara.train.checkpoint_writer import tensor_stem, to_cpu, write_json
from ...compression.clara.train.network import Network


def save_base(network: Network, tokenizer: str, vocabulary: int, folder: Path, dtype: torch.dtype) -> None:
    """Write the base model; its vocabulary matrices have the first `vocabulary` rows of the network's."""
    folder.mkdir(parents=True, exist_ok=True)
    shape = network.shape
    config: dict[str, Any] = {
        "architectures": ["MistralForCausalLM"],
        "model_type": "mistral",
        "hidden_act": "silu",
        "hidden_size": shape.hidden,
        "intermediate_size": shape.inter,
        "num_hidden_layers": shape.layers,
        "num_attention_heads": shape.heads,
        "num_key_value_heads": shape.kv_heads,
        "head_dim": shape.head_dim,
        "max_position_embeddings": shape.positions,
        "rms_norm_eps": shape.eps,
        "rope_theta": shape.theta,
        "sliding_window": None,
        "tie_word_embeddings": False,
        "vocab_size": vocabulary,
        "bos_token_id": 1,
        "eos_token_id": shape.eos[0],
        "torch_dtype": str(dtype).removeprefix("torch."),
    }
    write_json(folder / "config.json", config)
    write_json(folder / "generation_config.json", {"bos_token_id": 1, "eos_token_id": shape.eos[0]})
    (folder / "tokenizer.json").write_text(tokenizer, encoding="utf-8")
    weights = folder / "model.safetensors"
    save_file(_base_tensors(network, vocabulary, dtype), weights)
    weights.chmod(0o644)  # safetensors makes it readable by its owner only


def write_abstention(folder: Path, below: float, says: str) -> None:
    """Add the abstention threshold and text to a checkpoint's config.json; see `checkpoint.Abstention`."""
    path = folder / "config.json"
    config: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    write_json(path, {**config, "abstention": {"below": below, "says": says}})


def _base_tensors(network: Network, vocabulary: int, dtype: torch.dtype) -> dict[str, Tensor]:
    tensors = {
        "model.norm.weight": to_cpu(network.norm, dtype),
        "model.embed_tokens.weight": to_cpu(network.embed, dtype)[:vocabulary].clone(),
        "lm_head.weight": to_cpu(network.head, dtype)[:vocabulary].clone(),
    }
    for index, layer in enumerate(network.layers):
        parameters = dict(layer.named_parameters())
        stem = f"model.layers.{index}"
        tensors[f"{stem}.input_layernorm.weight"] = to_cpu(parameters["attention_norm"], dtype)
        tensors[f"{stem}.post_attention_layernorm.weight"] = to_cpu(parameters["mlp_norm"], dtype)
        for module in MODULES:
            tensors[f"{tensor_stem(index, module)}.weight"] = to_cpu(parameters[module], dtype)
    return tensors
