"""Detects the kind of a pruner by its config.json, with its unit, its window and its threshold.

Sources: the published configurations and code of LLMLingua-2 (microsoft/LLMLingua), Provence (naver/bergen),
OpenProvence (hotchpotch/open_provence) and SWE-Pruner (Ayanami1314/swe-pruner). No code of a checkpoint is ever run.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast

from ..models.errors import CheckpointError

Family = Literal["llmlingua2", "provence", "open-provence", "swe-pruner", "token-classifier"]
Granularity = Literal["words", "sentences", "lines"]
GRANULARITIES: Mapping[Family, Granularity] = {
    "llmlingua2": "words",
    "token-classifier": "words",
    "provence": "sentences",
    "open-provence": "sentences",
    "swe-pruner": "lines",
}
QUESTION_FAMILIES: frozenset[Family] = frozenset({"provence", "open-provence", "swe-pruner"})  # judge by a question
_THRESHOLDS: Mapping[Family, float] = {  # those of the published code
    "llmlingua2": 0.5,
    "token-classifier": 0.5,
    "provence": 0.1,
    "open-provence": 0.1,
    "swe-pruner": 0.5,
}
_MODEL_TYPES: Mapping[str, Family] = {
    "provence": "provence",
    "open_provence": "open-provence",
    "swepruner": "swe-pruner",
    "bert": "llmlingua2",
    "xlm-roberta": "llmlingua2",
}
_MAX_TOKENS: Mapping[Family, int] = {"llmlingua2": 512, "provence": 512, "swe-pruner": 8192}
MAX_WINDOW = 8192  # tokens; a longer window costs memory and time by its square
_KEEP_LABELS = ("keep", "preserve", "relevant", "1", "label_1", "true")


@dataclass(frozen=True, slots=True)
class PrunerSpec:
    """The kind of a checkpoint, the `max_tokens` of a window with its special tokens, the index of the label `keep`.

    `is_wordpiece` is True for LLMLingua-2 on BERT, whose tokens mark the continuation of a word.
    """

    family: Family
    config: Mapping[str, Any]
    max_tokens: int
    threshold: float
    keep_label: int = 1
    is_wordpiece: bool = False

    @property
    def granularity(self) -> Granularity:
        """Return the unit that the model keeps or drops whole."""
        return GRANULARITIES[self.family]


def read_spec(folder: Path) -> PrunerSpec:
    """Read the kind of the checkpoint in a folder.

    Raises:
        CheckpointError: config.json is missing or invalid, or the model is no pruner.
    """
    path = folder / "config.json"
    try:
        config: object = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{path}: cannot be read ({type(error).__name__})") from error
    if not isinstance(config, dict):
        raise CheckpointError(f"{path}: not a JSON object")
    fields = cast("dict[str, Any]", config)
    model_type = str(fields.get("model_type") or "")
    names = fields.get("architectures")
    architectures = cast("list[object]", names) if isinstance(names, list) else []
    is_classifier = any(str(name).endswith("ForTokenClassification") for name in architectures)
    family = _MODEL_TYPES.get(model_type.lower())
    if family is None or (family == "llmlingua2" and not is_classifier):
        if not is_classifier:
            raise CheckpointError(
                f"{path}: a model of type {model_type or 'unknown'} is no pruner; use LLMLingua-2, OpenProvence,"
                " Provence, SWE-Pruner or a token classifier with two labels"
            )
        family = "token-classifier"
    try:
        return PrunerSpec(
            family,
            fields,
            _find_max_tokens(family, fields),
            _find_threshold(family, fields),
            _find_keep_label(path, fields) if family == "token-classifier" else 1,
            is_wordpiece=model_type == "bert",
        )
    except (TypeError, ValueError) as error:
        raise CheckpointError(f"{path}: {error}") from error


def _find_max_tokens(family: Family, config: Mapping[str, Any]) -> int:
    if family in _MAX_TOKENS:
        return _MAX_TOKENS[family]
    key = "max_length" if family == "open-provence" else "max_position_embeddings"
    limit = int(config.get(key) or 512)
    if limit < 16:
        raise ValueError(f"{key} {limit} is too short for a window")
    return min(limit, MAX_WINDOW)


def _find_threshold(family: Family, config: Mapping[str, Any]) -> float:
    # "threadshold" is how published OpenProvence configurations spell it.
    value = config.get("default_threadshold", config.get("default_threshold")) if family == "open-provence" else None
    return _THRESHOLDS[family] if value is None else float(value)


def _find_keep_label(path: Path, config: Mapping[str, Any]) -> int:
    labels = config.get("id2label")
    if labels is None:
        return 1
    names = {int(index): str(name).lower() for index, name in dict(labels).items()}
    if len(names) != 2:
        raise CheckpointError(f"{path}: a pruner has two labels, keep and drop, not {len(names)}")
    return next((index for index, name in names.items() if name in _KEEP_LABELS), 1)
