"""Records what the package llmlingua does on tiny random checkpoints, for tests of the pruners.

    python -m clara_proxy.benchmarks.llmlingua_goldens tests/compression/pruners/llmlingua2.json

Needs `llmlingua==0.2.2`, which is no dependency of this project; install it into an environment of its own. The file
has each text's words with the probability of keeping them, and the labels by which the package keeps them at several
rates. The tests rebuild the checkpoints and compare.
"""

import json
import sys
import tempfile
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

from ..config.offline import use_bundled_files
from .tiny_pruners import write_llmlingua2

TEXTS = (
    "The mill of the old town was mended by patient people in winter. The river rose, and no one checked it.",
    "the engine failed to start because the pump valve was old: pressure rose without warning (report 4512, says 3.5).",
    "def mending(self): return value; the stone bridge isn't old, never was! it costs $25 and 10% of 1,000 lamps?",
    "one two  three\nthe lamp\n\nthe bridge of stone; unknownword the mill",
)
RATES = (0.3, 0.5, 0.8)


def record(folder: Path, kind: str) -> dict[str, Any]:
    """Return the package's words, probabilities and labels for all texts on one checkpoint."""
    llmlingua: Any = import_module("llmlingua")
    compressor = llmlingua.PromptCompressor(str(folder), device_map="cpu", use_llmlingua2=True)
    recorded: list[list[float]] = []
    merge = compressor._PromptCompressor__token_prob_to_word_prob

    def record_words(token_probs: Any, convert_mode: str = "mean") -> list[float]:
        words = [float(value) for value in merge(token_probs, convert_mode)]
        recorded.append(words)
        return list(map(np.float64, words))

    compressor._PromptCompressor__token_prob_to_word_prob = record_words
    texts: list[dict[str, Any]] = []
    for text in TEXTS:
        entry: dict[str, Any] = {"text": text, "labels": {}}
        for rate in RATES:
            recorded.clear()
            result = compressor.compress_prompt_llmlingua2([text], rate=rate, return_word_label=True)
            pairs = [pair.rsplit(" ", 1) for pair in result["fn_labeled_original_prompt"].split("\t\t|\t\t")]
            entry["words"] = "|".join(word for word, _ in pairs)
            entry["labels"][str(rate)] = "".join(label for _, label in pairs)
            entry["probabilities"] = " ".join(f"{value:.8f}" for value in recorded[0])
        texts.append(entry)
    return {"kind": kind, "texts": texts}


def main() -> None:
    """Write the goldens of both shapes to the file in the first argument."""
    use_bundled_files()
    with tempfile.TemporaryDirectory() as folder:
        goldens = [record(write_llmlingua2(Path(folder), kind), kind) for kind in ("bert", "xlm")]
    Path(sys.argv[1]).write_text(json.dumps(goldens, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    print(json.dumps({"texts": sum(len(golden["texts"]) for golden in goldens)}))


if __name__ == "__main__":
    main()
