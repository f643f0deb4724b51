"""Writes a CLaRa checkpoint in the layouts of other engines.

vLLM gets the base model with CLaRa's vocabulary and each adapter in PEFT's layout, because a LoRA adapter cannot hold
new tokens; or the base with the decoder adapter merged: no LoRA there. mlx-lm gets the merged model.
Weights keep their number format, and only one file of the base is in memory at a time.
"""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from safetensors import safe_open
from safetensors.torch import save_file  # pyright: ignore[reportUnknownVariableType]
from torch import Tensor

from ..models.errors import CheckpointError
from . import lora
from .checkpoint import DECODER_ADAPTER, ENCODER_ADAPTER, QUERY_ADAPTER, Checkpoint, load_checkpoint
from .checkpoint_config import CheckpointConfig
from .decoder_config import DecoderConfig, read_json
from .lora import LoraPair
from .model_source import ModelSource, find_model_files
from .tensor_file import read_torch_tensors
from .tokenizer import ClaraTokenizer

ExportTarget = Literal["vllm", "mlx"]
ADAPTER_FOLDERS = {DECODER_ADAPTER: "decoder", ENCODER_ADAPTER: "encoder", QUERY_ADAPTER: "query"}
VLLM_RANKS = (8, 16, 32, 64, 128, 256, 320, 512)  # the values of vLLM's --max-lora-rank
MAX_SERVED_POSITIONS = 8192  # prompts have at most 1,024 tokens, answers 4,096
_VOCABULARY_SHARD = "model-vocabulary.safetensors"


class _Source(NamedTuple):
    config: CheckpointConfig
    decoder: DecoderConfig
    tokenizer: ClaraTokenizer
    checkpoint: Checkpoint
    base_folder: Path


def name_served_model(hidden_size: int, memory_tokens: int) -> str:
    """Return vLLM's name for an exported base; a client compares the sizes before it sends tensors."""
    return f"clara-h{hidden_size}-m{memory_tokens}"


def export_checkpoint(source: ModelSource, target: ExportTarget, out: Path, *, merge: bool = False) -> list[str]:
    """Write a checkpoint to the folder `out`; return the names of its parts.

    With `merge`, vLLM gets one model and no adapters. Raises `CheckpointError` if the folder is not empty, or the
    checkpoint incomplete.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise CheckpointError(f"{out}: not an empty folder")
    opened = _open_source(source)
    if not opened.checkpoint.adapters:
        raise CheckpointError(f"{opened.checkpoint.folder}: has no adapters to export")
    if target == "mlx":
        _write_base(opened, out, opened.checkpoint.adapters.get(DECODER_ADAPTER))
        return ["the decoder, merged into its base"]
    adapters: Mapping[str, list[dict[str, LoraPair]]] = {} if merge else opened.checkpoint.adapters
    _write_base(opened, out / "base", opened.checkpoint.adapters.get(DECODER_ADAPTER) if merge else None)
    for name, adapter in adapters.items():
        _write_adapter(out / ADAPTER_FOLDERS[name], adapter, opened.config.lora_rank)
    script = out / "start.sh"
    script.write_text(_format_start_script(opened, has_lora=not merge), encoding="utf-8")
    script.chmod(0o755)
    return ["base", *(ADAPTER_FOLDERS[name] for name in adapters), "start.sh"]


def _open_source(source: ModelSource) -> _Source:
    files = find_model_files(source)
    checkpoint = load_checkpoint(
        files.folder, files.decoder_config, files.tokenizer.vocabulary_size, read_file=read_torch_tensors
    )
    return _Source(files.config, files.decoder_config, files.tokenizer, checkpoint, files.base_folder)


def _write_base(source: _Source, out: Path, merged: list[dict[str, LoraPair]] | None) -> None:
    """Write the base model with CLaRa's vocabulary, in the layout of transformers; with an adapter merged into it."""
    out.mkdir(parents=True)
    weight_map: dict[str, str] = {}
    total = 0
    # Copies: in the checkpoint's file, both may be views of one storage.
    vocabulary = {
        "model.embed_tokens.weight": source.checkpoint.embed.clone(),
        "lm_head.weight": source.checkpoint.head.clone(),
    }
    dtype = torch.float32
    for shard, tensors in ((_VOCABULARY_SHARD, vocabulary), *_read_layer_shards(source.base_folder)):
        written = {name: _merge_lora(name, tensor, merged).contiguous() for name, tensor in tensors.items()}
        save_file(written, out / shard, metadata={"format": "pt"})
        weight_map |= dict.fromkeys(written, shard)
        total += sum(tensor.nbytes for tensor in written.values())
        dtype = next(iter(written.values())).dtype if shard != _VOCABULARY_SHARD else dtype
    _require_layers(weight_map, source)
    _write_json(out / "model.safetensors.index.json", {"metadata": {"total_size": total}, "weight_map": weight_map})
    config = read_json(source.base_folder / "config.json") | {
        "architectures": ["MistralForCausalLM"],
        "vocab_size": source.tokenizer.vocabulary_size,
        "tie_word_embeddings": False,
        "bos_token_id": source.tokenizer.bos_id,
        "eos_token_id": list(source.decoder.eos_ids),
        "torch_dtype": str(dtype).removeprefix("torch."),
    }
    _write_json(out / "config.json", config)
    _write_json(out / "generation_config.json", {"do_sample": False, "eos_token_id": list(source.decoder.eos_ids)})
    (out / "tokenizer.json").write_text(source.tokenizer.to_json(), encoding="utf-8")
    _write_json(out / "tokenizer_config.json", _describe_tokenizer(source.decoder))


def _read_layer_shards(base_folder: Path) -> Iterator[tuple[str, dict[str, Tensor]]]:
    """Yield each file of the base's weights with its layers and last norm, without the vocabulary."""
    index = base_folder / "model.safetensors.index.json"
    files = sorted(set(read_json(index)["weight_map"].values())) if index.exists() else ["model.safetensors"]
    for number, file in enumerate(files):
        opener: Any = safe_open(base_folder / file, framework="pt")
        with opener as weights:
            names: list[str] = [name for name in weights.keys() if name.endswith(".weight")]  # noqa: SIM118
            names = [name for name in names if name.startswith(("model.layers.", "model.norm."))]
            tensors: dict[str, Tensor] = {name: weights.get_tensor(name) for name in names}
        if tensors:
            yield f"model-layers-{number:05}.safetensors", tensors


def _require_layers(weight_map: Mapping[str, str], source: _Source) -> None:
    count = source.decoder.layer_count * (len(lora.TARGET_MODULES) + 2) + 3  # two norms a layer; norm, embed and head
    if len(weight_map) != count:
        raise CheckpointError(f"{source.base_folder}: has {len(weight_map)} of {count} expected tensors")


def _merge_lora(name: str, weight: Tensor, adapter: list[dict[str, LoraPair]] | None) -> Tensor:
    """Return W + 2 B A [out, in], computed in float32; the weight itself if it has no adapter."""
    parts = name.split(".")
    if adapter is None or parts[-2] not in lora.TARGET_MODULES:
        return weight
    pair = adapter[int(parts[2])][parts[-2]]
    up, down = torch.as_tensor(pair.up).float(), torch.as_tensor(pair.down).float()
    return (weight.float() + lora.SCALING * (up @ down)).to(weight.dtype)


def _write_adapter(out: Path, adapter: list[dict[str, LoraPair]], rank: int) -> None:
    """Write an adapter in PEFT's layout."""
    out.mkdir()
    tensors: dict[str, Tensor] = {}
    for index, layer in enumerate(adapter):
        for module, pair in layer.items():
            block = "mlp" if module.startswith(("gate", "up", "down")) else "self_attn"
            prefix = f"base_model.model.model.layers.{index}.{block}.{module}"
            tensors[f"{prefix}.lora_A.weight"] = pair.down.detach().contiguous()
            tensors[f"{prefix}.lora_B.weight"] = pair.up.detach().contiguous()
    save_file({name: tensor.clone() for name, tensor in tensors.items()}, out / "adapter_model.safetensors")
    config = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": "base",
        "r": rank,
        "lora_alpha": int(lora.SCALING * rank),
        "lora_dropout": 0.0,
        "bias": "none",
        "target_modules": list(lora.TARGET_MODULES),
        "inference_mode": True,
    }
    _write_json(out / "adapter_config.json", config)


def _describe_tokenizer(decoder: DecoderConfig) -> dict[str, Any]:
    """Return a `tokenizer_config.json` that makes transformers read `tokenizer.json` as it is."""
    return {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": "<s>",
        "eos_token": "</s>",
        "unk_token": "<unk>",
        "clean_up_tokenization_spaces": False,
        "model_max_length": decoder.max_positions,
    }


def _format_start_script(source: _Source, *, has_lora: bool) -> str:
    """Return a shell script that serves the model `decoder`: the adapter of this name, or the merged base."""
    rank = next((rank for rank in VLLM_RANKS if rank >= source.config.lora_rank), source.config.lora_rank)
    name = name_served_model(source.decoder.hidden_size, source.config.memory_tokens)
    options = [
        f"--served-model-name {name}" if has_lora else f"--served-model-name decoder {name}",
        f"--max-model-len {min(source.decoder.max_positions, MAX_SERVED_POSITIONS)}",
        *([f"--enable-lora --max-lora-rank {rank} --lora-modules decoder=./decoder"] if has_lora else []),
        "--enable-prompt-embeds --host 127.0.0.1 --port 8000",
    ]
    return "\n".join(
        [
            "#!/bin/sh",
            "# Serves CLaRa's decoder with vLLM, on this machine only. Further options are vLLM's own, such as",
            "# --tensor-parallel-size N for several GPUs, or --gpu-memory-utilization 0.5 beside a proxy on one GPU.",
            "set -eu",
            'cd "$(dirname "$0")"',
            "exec vllm serve ./base \\",
            *(f"  {option} \\" for option in options),
            '  "$@"',
            "",
        ]
    )


def _write_json(path: Path, value: object) -> None:
    path.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")
