"""BM25 over short texts, for choosing memories when the model itself cannot: plain words, no model, no index kept."""

import math
import re
from collections import Counter
from collections.abc import Sequence

_WORD = re.compile(r"\w+")
_K1, _B = 1.2, 0.75


def score_bm25(question: str, texts: Sequence[str]) -> list[float]:
    """Score each text for a question, higher is better; 0.0 when they share no word."""
    counts = [Counter(_WORD.findall(text.lower())) for text in texts]
    sizes = [count.total() for count in counts]
    mean = sum(sizes) / len(sizes) if any(sizes) else 1.0
    words = set(_WORD.findall(question.lower()))
    weights = {word: _inverse_document_frequency(sum(word in count for count in counts), len(texts)) for word in words}
    return [
        sum(weights[word] * _term_frequency(count[word], size / mean) for word in words)
        for count, size in zip(counts, sizes, strict=True)
    ]


def top_indices(scores: Sequence[float], k: int) -> list[int]:
    """Return the places of the k highest scores, best first, earlier ones first among equals."""
    return sorted(range(len(scores)), key=lambda place: -scores[place])[:k]


def _inverse_document_frequency(holding: int, total: int) -> float:
    return math.log(1 + (total - holding + 0.5) / (holding + 0.5))


def _term_frequency(count: int, length: float) -> float:
    return count * (_K1 + 1) / (count + _K1 * (1 - _B + _B * length))
