"""Reads the `config.json` of a CLaRa or PISCO checkpoint.

PISCO (NAVER, arXiv 2501.16075) is the compressor that CLaRa is built on: the same files, tokens and answer prompt. It
reads 128 tokens of text into 8 memories. Its configuration names the model type `COCOM`, and no training stage.
Importing this module does not load torch, so start-up may use it.
"""

import json
from pathlib import Path
from typing import Any, Literal, NamedTuple

from ..models.errors import CheckpointError

WeightFormat = Literal["int8", "int4"]
Family = Literal["clara", "pisco"]
Quantization = Literal["no", "int4", "int8"]  # "no" overrides the checkpoint
MATRICES_FILE = "decoder_first_last_layers.pth"  # the vocabulary matrices
_MAPPED_FILE_BYTES = 1 << 28  # vocabulary matrices of a 7B model; smaller files may be overwritten by training


_FAMILIES: dict[str, Family] = {"clara": "clara", "cocom": "pisco", "pisco": "pisco"}
_MAX_PROMPT_TOKENS: dict[Family, int] = {"clara": 1024, "pisco": 2048}  # as in training


class Abstention(NamedTuple):
    """The checkpoint's `answer` if no memory scores at least `min_score` (cosine, -1 to 1), and only then."""

    min_score: float
    answer: str


class CheckpointConfig(NamedTuple):
    """The parts of `config.json` used for inference; `raw` is all of it.

    `abstention` is not in the released format: checkpoints without it never abstain.
    """

    max_document_tokens: int
    memory_tokens: int
    compression_rate: int
    has_distinct_memory_tokens: bool
    top_k: int
    training_stage: str
    has_lora: bool
    lora_rank: int
    has_kbtc_token: bool
    weight_format: WeightFormat | None
    raw: dict[str, Any]
    abstention: Abstention | None = None
    family: Family = "clara"

    @property
    def max_prompt_tokens(self) -> int:
        """Return the length of the longest prompt in training."""
        return _MAX_PROMPT_TOKENS[self.family]

    @property
    def can_paraphrase(self) -> bool:
        """Return True if the model has learned to restate documents; PISCO has learned to answer questions only."""
        return self.family == "clara"


def read_checkpoint_config(folder: Path) -> CheckpointConfig:
    """Read `config.json`, ignoring unknown keys. Raises `CheckpointError` if a key is missing or invalid."""
    path = folder / "config.json"
    try:
        raw: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        limit, rate = int(raw["doc_max_length"]), int(raw["compr_rate"])
        quantization = raw.get("quantization")
        config = CheckpointConfig(
            max_document_tokens=limit,
            memory_tokens=limit // rate,
            compression_rate=rate,
            has_distinct_memory_tokens=bool(raw.get("different_mem_tokens", True)),
            top_k=int(raw.get("generation_top_k", 1)),
            training_stage=str(raw.get("training_stage", "")),
            has_lora=bool(raw.get("lora", True)),
            lora_rank=int(raw.get("lora_r", 16)),
            has_kbtc_token=bool(raw.get("kbtc_training", False)),
            weight_format=quantization if quantization in ("int4", "int8") else None,
            raw=raw,
            abstention=_parse_abstention(raw.get("abstention")),
            family=_FAMILIES.get(str(raw.get("model_type", "clara")).lower(), "clara"),
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError, ZeroDivisionError) as error:
        raise CheckpointError(
            f"{path}: not a config.json of CLaRa or PISCO: {_describe_config_error(error)}"
        ) from error
    if config.raw.get("compr_model_name"):
        raise CheckpointError(
            f"{path}: compr_model_name is {config.raw['compr_model_name']!r}: checkpoints with a compressor network of "
            "their own, such as OSCAR's, are not supported"
        )
    if config.memory_tokens < 1:
        raise CheckpointError(
            f"{path}: no memory token: compr_rate {rate} must not be larger than doc_max_length {limit}"
        )
    return config


def _describe_config_error(error: Exception) -> str:
    if isinstance(error, KeyError):
        return f"{error.args[0]} is missing"
    if isinstance(error, OSError):
        return error.strerror or type(error).__name__
    return f"not JSON ({error})" if isinstance(error, json.JSONDecodeError) else f"a value is invalid ({error})"


def _parse_abstention(raw: Any) -> Abstention | None:
    return None if raw is None else Abstention(float(raw["below"]), str(raw["says"]))


def is_mapped(path: Path) -> bool:
    """Return True if torch's tensors of a file are mapped, not read."""
    return path.stat().st_size >= _MAPPED_FILE_BYTES
