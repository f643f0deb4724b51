"""The terms under which chunks are indexed and found: those of `extract.core.terms`, in any script."""

from functools import lru_cache

from ..extract.core import bm25, terms

MAX_QUERY_TERMS = 64
_CACHED_WORDS = 50_000

_extract_terms = lru_cache(_CACHED_WORDS)(terms.extract_terms)


def list_terms(text: str) -> list[str]:
    """Return the terms of a text with repetitions; a stop word has none."""
    words = terms.choose_word_pattern(text).findall(text)
    return [term for word in words if word.lower() not in bm25.STOP_WORDS for term in _extract_terms(word)]


def weigh_query_terms(question: str) -> dict[str, float]:
    """Return the distinct terms of a question with their weights, the weightiest first, at most `MAX_QUERY_TERMS`."""
    weights = bm25.parse_query(question).term_weights
    return dict(sorted(weights.items(), key=lambda entry: -entry[1])[:MAX_QUERY_TERMS])


def score_texts(texts: list[str], question: str) -> list[float]:
    """Score texts by BM25 with the statistics of these texts; 0.0 for a text without a term of the question."""
    spans: list[tuple[int, int]] = []
    position = 0
    for text in texts:
        spans.append((position, position + len(text)))
        position += len(text) + 1
    return bm25.score_spans("\n".join(texts), spans, bm25.parse_query(question))
