"""Writes a trained network as a checkpoint folder in the released on-disk format.

A folder `compression-N/` holds config.json, adapters.pth and decoder_first_last_layers.pth. `Clara.from_pretrained`
loads it together with its base model.
"""

import json
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .network import Network


class CheckpointInfo(NamedTuple):
    """The description of a checkpoint in its config.json; `limit` is in tokens, `base` is `decoder_model_name`."""

    limit: int
    rate: int
    stage: str = "stage2"
    top_k: int = 5
    base: str = "clara-nano"


def save_checkpoint(network: Network, info: CheckpointInfo, folder: Path, dtype: torch.dtype) -> None:
    """Write a checkpoint: config, all adapters, and the input and output embeddings, which include CLaRa's tokens."""
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / "config.json", _config(network, info))
    adapters = {name: _adapter_tensors(network, name, dtype) for name in network.adapters}
    torch.save(adapters, folder / "adapters.pth")
    embed, head = to_cpu(network.embed, dtype), to_cpu(network.head, dtype)
    matrices = {"model.embed_tokens.weight": embed, "lm_head.weight": embed if network.tied else head}
    torch.save(matrices, folder / "decoder_first_last_layers.pth")


def tensor_stem(layer: int, module: str) -> str:
    """Return the name of a module's tensors in the format, without their suffix."""
    block = "mlp" if module.startswith(("gate", "up", "down")) else "self_attn"
    return f"model.layers.{layer}.{block}.{module}"


def to_cpu(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    """Return a detached, contiguous copy of a tensor in main memory."""
    return tensor.detach().to(device="cpu", dtype=dtype).contiguous()


def write_json(path: Path, value: dict[str, Any]) -> None:
    """Write an indented JSON file."""
    path.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")


def _adapter_tensors(network: Network, name: str, dtype: torch.dtype) -> dict[str, Tensor]:
    tensors: dict[str, Tensor] = {}
    for layer, pairs in enumerate(network.lora_pairs(name)):
        for module, pair in pairs.items():
            stem = tensor_stem(layer, module)
            tensors[f"{stem}.lora_A.weight"] = to_cpu(pair.down, dtype)
            tensors[f"{stem}.lora_B.weight"] = to_cpu(pair.up, dtype)
    return tensors


def _config(network: Network, info: CheckpointInfo) -> dict[str, Any]:
    return {
        "model_type": "CLaRa",
        "decoder_model_name": info.base,
        "doc_max_length": info.limit,
        "compr_rate": info.rate,
        "different_mem_tokens": True,
        "sep": True,
        "lora": True,
        "lora_r": network.rank,
        "generation_top_k": info.top_k,
        "training_stage": info.stage,
        "pure_inference": False,
        "load_adapters": True,
        "quantization": "no",
        "optimize_mem_tokens": True,
        "kbtc_training": False,
        "max_new_tokens": 128,
    }
