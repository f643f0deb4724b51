"""Creates tiny random CLaRa and PISCO checkpoints, so that most tests need no files from outside the repository."""

import json
import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file  # pyright: ignore[reportUnknownVariableType]
from torch import Tensor

HIDDEN, INTER, HEADS, KEY_HEADS, LAYERS, RANK = 32, 48, 4, 2, 2, 4
LIMIT, RATE = 32, 4
MEMORIES = LIMIT // RATE
HEAD_SIZE = HIDDEN // HEADS
_WORDS = ["the", "fox", "river", "stone", "bridge", "lamp", "Question", "document", "answer", "ing"]


def make_checkpoint(folder: Path, head_size: int = HEAD_SIZE) -> Path:
    """Write `base/` and `clara/compression-4/` and return the folder."""
    shapes = _linear_shapes(head_size)
    torch.manual_seed(7)  # pyright: ignore[reportUnknownMemberType]
    base, checkpoint = folder / "base", folder / "clara" / f"compression-{RATE}"
    base.mkdir()
    checkpoint.mkdir(parents=True)
    tokenizer = _tokenizer()
    size = len(tokenizer["model"]["vocab"])
    (base / "tokenizer.json").write_text(json.dumps(tokenizer))
    (base / "config.json").write_text(json.dumps(_base_config(size) | {"head_dim": head_size}))
    save_file(_base_weights(shapes), base / "model.safetensors")
    (checkpoint / "config.json").write_text(json.dumps(_config()))
    torch.save({name: _adapter(shapes) for name in ADAPTERS}, checkpoint / "adapters.pth")
    rows = size + MEMORIES + 3
    matrices = {"model.embed_tokens.weight": _random(rows, HIDDEN) * 6, "lm_head.weight": _random(rows, HIDDEN) * 6}
    torch.save(matrices, checkpoint / "decoder_first_last_layers.pth")
    return folder


def make_pisco_checkpoint(folder: Path) -> Path:
    """Write `base/` and `pisco/`, a PISCO checkpoint at the top of its folder, and return the folder."""
    source = make_checkpoint(folder) / "clara" / f"compression-{RATE}"
    adapters: dict[str, Any] = torch.load(source / "adapters.pth", weights_only=True)
    write_pisco(folder / "pisco", source, {name: adapters[name] for name in ADAPTERS[:2]})
    return folder


def write_pisco(folder: Path, source: Path, adapters: dict[str, Any], **fields: Any) -> Path:
    """Write a PISCO checkpoint with the matrices of another one; 128 tokens become 8 memories."""
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(PISCO_CONFIG | fields))
    torch.save(adapters, folder / "adapters.pth")
    shutil.copy(source / "decoder_first_last_layers.pth", folder)
    return folder


PISCO_CONFIG: dict[str, Any] = {
    "architectures": ["COCOM"],
    "model_type": "COCOM",
    "decoder_model_name": "mistralai/Mistral-7B-Instruct-v0.2",
    "doc_max_length": 16 * MEMORIES,
    "compr_rate": 16,
    "compr_model_name": None,
    "different_mem_tokens": True,
    "sep": True,
    "lora": True,
    "lora_r": RANK,
    "training_form": "both_separately",
    "quantization": "no",
    "optimize_mem_tokens": True,
}
ADAPTERS = ("decoder_adapter", "encoder_adapter", "query_reasoner_adapter")


def _config() -> dict[str, Any]:
    return {
        "model_type": "CLaRa",
        "decoder_model_name": "/mnt/somewhere/tiny",
        "doc_max_length": LIMIT,
        "compr_rate": RATE,
        "different_mem_tokens": True,
        "generation_top_k": 3,
        "training_stage": "stage2",
        "lora": True,
        "lora_r": RANK,
        "quantization": "no",
    }


def _base_config(size: int) -> dict[str, Any]:
    return {
        "model_type": "mistral",
        "hidden_act": "silu",
        "hidden_size": HIDDEN,
        "intermediate_size": INTER,
        "num_attention_heads": HEADS,
        "num_key_value_heads": KEY_HEADS,
        "num_hidden_layers": LAYERS,
        "max_position_embeddings": 4096,
        "rms_norm_eps": 1e-5,
        "rope_parameters": {"rope_theta": 10000.0, "rope_type": "default"},
        "sliding_window": None,
        "vocab_size": size,
        "eos_token_id": 2,
    }


def _random(*shape: int) -> Tensor:
    return torch.randn(*shape) * 0.15


def _linear_shapes(head_size: int) -> dict[str, tuple[int, int]]:
    return {
        "self_attn.q_proj": (HEADS * head_size, HIDDEN),
        "self_attn.k_proj": (KEY_HEADS * head_size, HIDDEN),
        "self_attn.v_proj": (KEY_HEADS * head_size, HIDDEN),
        "self_attn.o_proj": (HIDDEN, HEADS * head_size),
        "mlp.gate_proj": (INTER, HIDDEN),
        "mlp.up_proj": (INTER, HIDDEN),
        "mlp.down_proj": (HIDDEN, INTER),
    }


def _base_weights(shapes: dict[str, tuple[int, int]]) -> dict[str, Tensor]:
    weights = {"model.norm.weight": torch.ones(HIDDEN)}
    for layer in range(LAYERS):
        prefix = f"model.layers.{layer}"
        weights |= {f"{prefix}.{name}.weight": _random(*shape) for name, shape in shapes.items()}
        weights |= {
            f"{prefix}.{name}.weight": torch.ones(HIDDEN) for name in ("input_layernorm", "post_attention_layernorm")
        }
    return weights


def _adapter(shapes: dict[str, tuple[int, int]]) -> dict[str, Tensor]:
    tensors: dict[str, Tensor] = {}
    for layer in range(LAYERS):
        for name, (out_size, in_size) in shapes.items():
            prefix = f"model.layers.{layer}.{name}"
            tensors[f"{prefix}.lora_A.weight"] = _random(RANK, in_size)
            tensors[f"{prefix}.lora_B.weight"] = _random(out_size, RANK)
    return tensors


def _tokenizer() -> dict[str, Any]:
    """Return a byte-fallback BPE in the style of Mistral's current revision, with merges for a few words."""
    vocab = {"<unk>": 0, "<s>": 1, "</s>": 2} | {f"<0x{byte:02X}>": 3 + byte for byte in range(256)}
    merges: list[tuple[str, str]] = []
    for char in ["\u2581", *map(chr, range(33, 127))]:
        vocab.setdefault(char, len(vocab))
    for word in [*_WORDS, *("\u2581" + word for word in _WORDS)]:
        for end in range(1, len(word)):
            left, right = word[:end], word[end]
            if left + right not in vocab:
                vocab[left + right] = len(vocab)
                merges.append((left, right))
    special = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [
            {"id": index, "content": name} | special for index, name in enumerate(("<unk>", "<s>", "</s>"))
        ],
        "normalizer": None,
        "pre_tokenizer": {"type": "Metaspace", "replacement": "\u2581", "prepend_scheme": "first", "split": False},
        "post_processor": None,
        "decoder": {
            "type": "Sequence",
            "decoders": [
                {"type": "Replace", "pattern": {"String": "\u2581"}, "content": " "},
                {"type": "ByteFallback"},
                {"type": "Fuse"},
                {"type": "Strip", "content": " ", "start": 1, "stop": 0},
            ],
        },
        "model": {
            "type": "BPE",
            "unk_token": "<unk>",
            "fuse_unk": True,
            "byte_fallback": True,
            "vocab": vocab,
            "merges": merges,
        },
    }
