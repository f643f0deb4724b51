"""Ranks memories for a question: by the query adapter's vectors or, without one, by the question's words."""

from collections.abc import Sequence
from typing import NamedTuple

from torch import Tensor
from torch.nn import functional

from ..extract.core import bm25
from .latents import Latents


class RetrievalResult(NamedTuple):
    """The memories nearest to a question: `indices`, best first, and their `scores` (cosine, -1 to 1)."""

    indices: tuple[int, ...]
    scores: tuple[float, ...]


def score_cosine(query: Tensor, latents: Latents) -> list[float]:
    """Return each memory's cosine (-1 to 1) to a query [windows, M * H]; the nearest window counts."""
    # Normalised in the model's dtype and multiplied in float32, as in training.
    memories = functional.normalize(latents.vectors.flatten(1).to(query), dim=-1).float()  # [memories, M * H]
    scores = functional.normalize(query, dim=-1).float() @ memories.T  # [windows, memories]
    return [float(score) for score in scores.amax(dim=0).cpu()]


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
