"""Ranks memories for a question, by scores or by the question's words."""

from collections.abc import Sequence
from typing import NamedTuple

from ..extract.core import bm25


class RetrievalResult(NamedTuple):
    """The memories nearest to a question: `indices`, best first, and their `scores` (cosine, -1 to 1)."""

    indices: tuple[int, ...]
    scores: tuple[float, ...]


def score_keywords(question: str, texts: Sequence[str]) -> list[float]:
    """Return each text's BM25 score, higher is better; 0.0 if it shares no term with the question."""
    spans: list[tuple[int, int]] = []
    start = 0
    for text in texts:
        spans.append((start, start + len(text)))
        start += len(text) + 1
    return bm25.score_spans("\n".join(texts), spans, bm25.parse_query(question))


def top_indices(scores: Sequence[float], k: int) -> list[int]:
    """Return the indices of the k highest scores, best first; ties keep their order."""
    return sorted(range(len(scores)), key=lambda index: -scores[index])[:k]
