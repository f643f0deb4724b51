"""Writes a trained network in the released on-disk format: a base model, and one checkpoint folder per rate.

A folder `base/` (config.json, generation_config.json, tokenizer.json, model.safetensors) and a folder
`compression-N/` (config.json, adapters.pth, decoder_first_last_layers.pth) beside it. `Clara.from_pretrained(folder,
base=folder / "base")` loads them.
"""

import json
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors.torch import save_file  # pyright: ignore[reportUnknownVariableType]
from torch import Tensor

from ..lora import TARGET_MODULES
from .network import Network


class Describe(NamedTuple):
    """What a checkpoint's config.json says of it; `base` is its `decoder_model_name`."""

    limit: int
    rate: int
    stage: str = "stage2"
    top_k: int = 5
    base: str = "clara-nano"


def save_base(network: Network, tokenizer: str, vocabulary: int, folder: Path, dtype: torch.dtype) -> None:
    """Write the base model; its own vocabulary matrices have the first `vocabulary` rows."""
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
    _json(folder / "config.json", config)
    _json(folder / "generation_config.json", {"bos_token_id": 1, "eos_token_id": shape.eos[0]})
    (folder / "tokenizer.json").write_text(tokenizer, encoding="utf-8")
    weights = folder / "model.safetensors"
    save_file(_base_tensors(network, vocabulary, dtype), weights)
    weights.chmod(0o644)  # safetensors leaves it readable by its owner only


def save_checkpoint(network: Network, describe: Describe, folder: Path, dtype: torch.dtype) -> None:
    """Write one rate's checkpoint: all adapters, and both vocabulary matrices with CLaRa's rows."""
    folder.mkdir(parents=True, exist_ok=True)
    _json(folder / "config.json", _config(network, describe))
    adapters = {name: adapter_tensors(network, name, dtype) for name in network.adapters}
    torch.save(adapters, folder / "adapters.pth")
    embed, head = _cast(network.embed, dtype), _cast(network.head, dtype)
    matrices = {"model.embed_tokens.weight": embed, "lm_head.weight": embed if network.tied else head}
    torch.save(matrices, folder / "decoder_first_last_layers.pth")


def mark(folder: Path, below: float, says: str) -> None:
    """Write into a checkpoint's config.json when it says that nothing is stated: see `checkpoint.Abstention`."""
    path = folder / "config.json"
    config: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    _json(path, {**config, "abstention": {"below": below, "says": says}})


def adapter_tensors(network: Network, name: str, dtype: torch.dtype) -> dict[str, Tensor]:
    """Return one adapter under the names of the format."""
    tensors: dict[str, Tensor] = {}
    for layer, pairs in enumerate(network.pairs(name)):
        for module, pair in pairs.items():
            stem = _stem(layer, module)
            tensors[f"{stem}.lora_A.weight"] = _cast(pair.down, dtype)
            tensors[f"{stem}.lora_B.weight"] = _cast(pair.up, dtype)
    return tensors


def _base_tensors(network: Network, vocabulary: int, dtype: torch.dtype) -> dict[str, Tensor]:
    tensors = {"model.norm.weight": _cast(network.norm, dtype)}
    # CLaRa's files replace both matrices; a base whose output is its embedding need not carry them a third time.
    tensors["model.embed_tokens.weight"] = _cast(network.embed, dtype)[:vocabulary].clone()
    tensors["lm_head.weight"] = _cast(network.head, dtype)[:vocabulary].clone()
    for index, layer in enumerate(network.layers):
        own = dict(layer.named_parameters())
        stem = f"model.layers.{index}"
        tensors[f"{stem}.input_layernorm.weight"] = _cast(own["attention_norm"], dtype)
        tensors[f"{stem}.post_attention_layernorm.weight"] = _cast(own["mlp_norm"], dtype)
        for module in TARGET_MODULES:
            tensors[f"{_stem(index, module)}.weight"] = _cast(own[module], dtype)
    return tensors


def _config(network: Network, describe: Describe) -> dict[str, Any]:
    return {
        "model_type": "CLaRa",
        "decoder_model_name": describe.base,
        "doc_max_length": describe.limit,
        "compr_rate": describe.rate,
        "different_mem_tokens": True,
        "sep": True,
        "lora": True,
        "lora_r": network.rank,
        "generation_top_k": describe.top_k,
        "training_stage": describe.stage,
        "pure_inference": False,
        "load_adapters": True,
        "quantization": "no",
        "optimize_mem_tokens": True,
        "kbtc_training": False,
        "max_new_tokens": 128,
    }


def _stem(layer: int, module: str) -> str:
    room = "mlp" if module.startswith(("gate", "up", "down")) else "self_attn"
    return f"model.layers.{layer}.{room}.{module}"


def _cast(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    return tensor.detach().to(device="cpu", dtype=dtype).contiguous()


def _json(path: Path, value: dict[str, Any]) -> None:
    path.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")
