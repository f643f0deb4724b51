"""Scores of units: by the question, scaled, smoothed over neighbours, raised at both ends."""

from collections import Counter
from collections.abc import Hashable, Iterable, Mapping, Sequence
from math import log

from . import answer_types, bm25
from .base_weights import ExtractWeights
from .bm25 import Span


def score_question(text: str, spans: Sequence[Span], question: str, weights: ExtractWeights) -> list[float]:
    """Score spans by the question with BM25; the best one gets 1.0, or less if the question hardly tells them apart."""
    query = bm25.parse_query(question, weights)
    return score_matches(spans, bm25.count_terms(text, spans, query), query)


def parse_question(question: str, weights: ExtractWeights) -> bm25.Query:
    """Parse a question; words that only the call behind it has, such as `git diff --stat`, count half."""
    query = bm25.parse_query(question, weights)
    asked = bm25.parse_query(answer_types.extract_last_question(question), weights).term_weights
    if not asked:
        return query
    factors = {term: 1.0 if term in asked else weights.call_factor for term in query.term_weights}
    return query._replace(term_weights={term: factors[term] * value for term, value in query.term_weights.items()})


def score_matches(spans: Sequence[Span], counts: bm25.TermCounts, query: bm25.Query) -> list[float]:
    """Score spans by their term counts: the best one gets 1.0, or less if the words are in most of many spans."""
    confidence = measure_confidence(len(spans), counts, query)
    return [confidence * score for score in normalize_scores(bm25.score_counts(spans, counts, query))]


def measure_confidence(total: int, counts: Mapping[int, Mapping[str, int]], query: bm25.Query) -> float:
    """Return the weight of a match with the question, 0 to 1: 1.0 if its rarest word is in few of `total` spans."""
    rarest = max(bm25.compute_term_weights(total, counts, query).values(), default=0.0)
    return min(1.0, 2.0 * rarest / log(1.0 + total)) if total else 0.0


def normalize_scores(scores: Sequence[float]) -> list[float]:
    """Scale scores so that the best is 1.0; zeros stay zeros."""
    best = max(scores, default=0.0)
    return [score / best for score in scores] if best > 0 else list(scores)


def number_occurrences(values: Iterable[Hashable]) -> list[int]:
    """Return for each value its number among the equal ones, from 1."""
    seen: Counter[Hashable] = Counter()
    numbers: list[int] = []
    for value in values:
        seen[value] = number = seen[value] + 1
        numbers.append(number)
    return numbers


def measure_frequencies(values: Sequence[Hashable]) -> list[float]:
    """Return 1 + ln(n) for each value, where n is the number of values equal to it."""
    measures = {value: 1.0 + log(count) for value, count in Counter(values).items()}
    return [measures[value] for value in values]


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
