"""Writes tiny random checkpoints in the published shapes of pruners, for tests and for goldens.

Weights come from numpy's legacy generator, whose stream is fixed, seeded by the name of each parameter: every machine
and version gets the same checkpoint.
"""

import json
import zlib
from collections.abc import Callable, Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file  # pyright: ignore[reportUnknownVariableType]
from torch import Tensor, nn

_SENTENCES = (
    "the mill of old town was mended by patient people in and not never river stone bridge lamp winter summer "
    "engine failed to start because pump valve pressure rose without warning report says that no one checked it "
    "def return if self value for import class print name"
)
WORDS = _SENTENCES.split()
SPECIAL = {"bert": ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"], "xlm": ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]}
HIDDEN, LAYERS, HEADS, INTERMEDIATE = 32, 2, 4, 48


def randomize(module: nn.Module) -> None:
    """Fill a module with random weights that give varied scores."""
    for name, parameter in module.named_parameters():
        random = np.random.RandomState(zlib.crc32(name.encode()))
        values = random.standard_normal(tuple(parameter.shape))
        scale = 1.0 if "classifier" in name or "feature_extractor.4" in name else 0.25
        values = 1 + 0.1 * values if "norm" in name.lower() and name.endswith("weight") else scale * values
        parameter.data = torch.tensor(values.astype(np.float32))


def write_llmlingua2(folder: Path, kind: str) -> Path:
    """Write a token classifier of LLMLingua-2: `bert` (mBERT) or `xlm` (XLM-R large)."""
    transformers: Any = import_module("transformers")
    names = {"bert": "tiny-bert-base-multilingual-cased", "xlm": "tiny-xlm-roberta-large"}
    folder = folder / names[kind]
    tokenizer = _write_wordpiece(folder) if kind == "bert" else _write_unigram(folder, SPECIAL["xlm"])
    shape = _shape(len(tokenizer)) | {"max_position_embeddings": 514 if kind == "xlm" else 512, "num_labels": 2}
    if kind == "bert":
        model = transformers.BertForTokenClassification(transformers.BertConfig(**shape, pad_token_id=0))
    else:
        config = transformers.XLMRobertaConfig(**shape, type_vocab_size=1, pad_token_id=1)
        model = transformers.XLMRobertaForTokenClassification(config)
    return _save_model(model, folder)


def write_token_classifier(folder: Path) -> Path:
    """Write a classifier of another kind, whose label `KEEP` is the first."""
    transformers: Any = import_module("transformers")
    tokenizer = _write_wordpiece(folder)
    config = transformers.DistilBertConfig(
        vocab_size=len(tokenizer),
        dim=HIDDEN,
        n_layers=LAYERS,
        n_heads=HEADS,
        hidden_dim=INTERMEDIATE,
        max_position_embeddings=64,
        id2label={0: "KEEP", 1: "DROP"},
        label2id={"KEEP": 0, "DROP": 1},
    )
    return _save_model(transformers.DistilBertForTokenClassification(config), folder)


def write_provence(folder: Path, build: Callable[[Mapping[str, Any]], nn.Module]) -> Path:
    """Write a Provence checkpoint; `build` returns the network of a configuration."""
    tokenizer = _write_unigram(folder, SPECIAL["bert"])
    config = _shape(len(tokenizer)) | {
        "max_position_embeddings": 512,
        "relative_attention": True,
        "position_buckets": 16,
        "norm_rel_ebd": "layer_norm",
        "share_att_key": True,
        "pos_att_type": "p2c|c2p",
        "layer_norm_eps": 1e-7,
        "max_relative_positions": -1,
        "position_biased_input": False,
        "pooler_hidden_size": HIDDEN,
        "pooler_hidden_act": "gelu",
        "pooler_dropout": 0,
        "type_vocab_size": 0,
        "pad_token_id": 0,
        "num_labels": 1,
    }
    return _save_weights(build(config), folder, {"model_type": "Provence", "architectures": ["Provence"]} | config)


def write_open_provence(folder: Path, build: Callable[[Mapping[str, Any]], nn.Module], max_length: int = 128) -> Path:
    """Write an OpenProvence checkpoint on ModernBERT."""
    tokenizer = _write_byte_level(folder, ["[PAD]", "[UNK]", "[CLS]", "[SEP]"])
    base = _shape(len(tokenizer)) | {
        "model_type": "modernbert",
        "max_position_embeddings": 512,
        "local_attention": 16,
        "global_attn_every_n_layers": 2,
        "pad_token_id": 0,
        "cls_token_id": 2,
        "sep_token_id": 3,
        "bos_token_id": 2,
        "eos_token_id": 3,
        "classifier_pooling": "mean",
    }
    config = {
        "model_type": "open_provence",
        "architectures": ["OpenProvenceModel"],
        "base_model_config": base,
        "max_length": max_length,
        "num_labels": 1,
        "num_pruning_labels": 2,
        "default_threadshold": 0.5,
        "pruning_config": {"hidden_size": HIDDEN, "num_labels": 2, "sentence_pooling": "mean"},
    }
    return _save_weights(build(base), folder, config)


def write_swe_pruner(folder: Path, build: Callable[[Mapping[str, Any]], nn.Module]) -> Path:
    """Write a SWE-Pruner checkpoint on Qwen3; its config does not describe the backbone, as the published one."""
    tokenizer = _write_byte_level(folder, ["<|endoftext|>", "<|im_start|>", "<|im_end|>"], ["yes", "no"])
    backbone = {
        "vocab_size": len(tokenizer),
        "hidden_size": HIDDEN,
        "head_dim": 8,
        "intermediate_size": INTERMEDIATE,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "rms_norm_eps": 1e-6,
        "rope_parameters": {"rope_type": "default", "rope_theta": 1_000_000.0},
    }
    config = {
        "model_type": "swepruner",
        "architectures": ["SwePrunerForCodeCompression"],
        "backbone_model_name_or_path": "Qwen/Qwen3-Reranker-0.6B",
        "bottleneck": 16,
        "compression_head_type": "crf",
        "early_layer_ratio": 0.25,
        "middle_layer_ratio": 0.5,
        "num_fusion_layers": 1,
        "num_heads": 8,
        "use_multi_layer_fusion": True,
        "dropout": 0.4,
    }
    return _save_weights(build(backbone), folder, config)


def _shape(vocabulary: int) -> dict[str, Any]:
    return {
        "vocab_size": vocabulary,
        "hidden_size": HIDDEN,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": HEADS,
        "intermediate_size": INTERMEDIATE,
    }


def _save_model(model: Any, folder: Path) -> Path:
    randomize(model)
    model.save_pretrained(folder)
    return folder


def _save_weights(network: nn.Module, folder: Path, config: Mapping[str, Any]) -> Path:
    randomize(network)
    weights: dict[str, Tensor] = {name: tensor.contiguous() for name, tensor in network.state_dict().items()}
    save_file(weights, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def _write_wordpiece(folder: Path) -> Any:
    """Write a cased WordPiece tokenizer in the style of mBERT."""
    tokenizers: Any = import_module("tokenizers")
    characters = [chr(code) for code in range(33, 127)]
    vocabulary = [*SPECIAL["bert"], *characters, *WORDS, *(f"##{character}" for character in characters), "##ing"]
    entries = {token: index for index, token in enumerate(dict.fromkeys(vocabulary))}
    tokenizer = tokenizers.Tokenizer(tokenizers.models.WordPiece(entries, unk_token="[UNK]"))
    tokenizer.normalizer = tokenizers.normalizers.BertNormalizer(lowercase=False, strip_accents=False)
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = tokenizers.decoders.WordPiece()
    return _save_tokenizer(tokenizer, folder, SPECIAL["bert"])


def _write_unigram(folder: Path, special: list[str]) -> Any:
    """Write a unigram tokenizer with word marks in the style of XLM-R and DeBERTa-v3."""
    tokenizers: Any = import_module("tokenizers")
    pieces = [(token, 0.0) for token in special]
    pieces += [("\u2581", -6.0), *((chr(code), -8.0) for code in range(33, 127))]
    pieces += [(f"\u2581{word}", -3.0 - len(pieces) / 1e4) for word in WORDS] + [("ing", -4.0), ("\u2581mend", -4.0)]
    unknown = special.index("<unk>" if "<unk>" in special else "[UNK]")
    tokenizer = tokenizers.Tokenizer(tokenizers.models.Unigram(pieces, unknown, byte_fallback=False))
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.Sequence(
        [tokenizers.pre_tokenizers.WhitespaceSplit(), tokenizers.pre_tokenizers.Metaspace("\u2581", "always")]
    )
    tokenizer.decoder = tokenizers.decoders.Metaspace("\u2581", "always")
    return _save_tokenizer(tokenizer, folder, special)


def _write_byte_level(folder: Path, special: list[str], words: list[str] | None = None) -> Any:
    """Write a byte-level BPE tokenizer in the style of ModernBERT and Qwen, with merges for a few words."""
    tokenizers: Any = import_module("tokenizers")
    alphabet = sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: index for index, token in enumerate([*special, *alphabet])}
    merges: list[tuple[str, str]] = []
    for word in [*(f"\u0120{word}" for word in WORDS), *(words or [])]:
        for end in range(1, len(word)):
            if word[: end + 1] not in vocabulary:
                vocabulary[word[: end + 1]] = len(vocabulary)
                merges.append((word[:end], word[end]))
    tokenizer = tokenizers.Tokenizer(tokenizers.models.BPE(vocabulary, merges))
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = tokenizers.decoders.ByteLevel()
    return _save_tokenizer(tokenizer, folder, special)


def _save_tokenizer(tokenizer: Any, folder: Path, special: list[str]) -> Any:
    transformers: Any = import_module("transformers")
    folder.mkdir(parents=True, exist_ok=True)
    roles = {
        "pad_token": ("[PAD]", "<pad>", "<|endoftext|>"),
        "unk_token": ("[UNK]", "<unk>"),
        "cls_token": ("[CLS]", "<s>"),
        "sep_token": ("[SEP]", "</s>"),
        "mask_token": ("[MASK]", "<mask>"),
        "eos_token": ("</s>", "<|im_end|>"),
        "bos_token": ("<s>",),
    }
    names = {role: token for role, tokens in roles.items() for token in tokens if token in special}
    tokenizer.add_special_tokens(special)
    wrapped = transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer, **names)
    wrapped.save_pretrained(folder)
    return wrapped
