"""Scores of units: by the question, scaled, smoothed over neighbours, raised at both ends."""

from collections.abc import Sequence

from . import bm25
from .base_weights import ExtractWeights
from .bm25 import Span


def score_question(text: str, spans: Sequence[Span], question: str, weights: ExtractWeights) -> list[float]:
    """Score spans by the question with BM25; the best one gets 1.0."""
    return normalize_scores(bm25.score_spans(text, spans, bm25.parse_query(question, weights)))


def normalize_scores(scores: Sequence[float]) -> list[float]:
    """Scale scores so that the best is 1.0; zeros stay zeros."""
    best = max(scores, default=0.0)
    return [score / best for score in scores] if best > 0 else list(scores)


def smooth_scores(scores: Sequence[float], share: float) -> list[float]:
    """Add to each score a share of its best direct neighbour, and half of that share of the next ones."""
    padded = [0.0, 0.0, *scores, 0.0, 0.0]
    adjacent = map(max, padded[1:], padded[3:])
    second = map(max, padded, padded[4:])
    return [score + share * (near + 0.5 * far) for score, near, far in zip(scores, adjacent, second, strict=False)]


def boost_ends(scores: list[float], bonus: float) -> None:
    """Raise the first and the last score in place."""
    for index in (0, len(scores) - 1) if scores else ():
        scores[index] += bonus
