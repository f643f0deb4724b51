"""Ranks the sentences of several documents by a question.

The score of a sentence combines its own words and its neighbours', the coverage of the question by the sentence and its
heading, the best sentence, title and rank of its document, its position, the expected answer type, and names it shares
with the best sentences (the second hop of a multi-hop question). The default weights are those of a linear model,
fitted to one half of a set of multi-document questions and judged on the other half, both ways round, and rounded.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from heapq import nlargest
from itertools import pairwise

from . import answer_types, bm25, semantic
from .base_weights import ExtractWeights, weight
from .bm25 import Query, Span
from .scoring import normalize_scores, smooth_scores

_WORD = re.compile(r"\w+")


@dataclass(frozen=True, slots=True)
class RankingWeights(ExtractWeights):
    """Weights of content types with several documents."""

    neighbour_weight: float = weight(0.5, "part of its neighbour's score that a sentence gains", "factor")
    coverage_weight: float = weight(1.75, "share of the question covered by a sentence and its heading", "factor")
    position_penalty: float = weight(0.3, "penalty per sentence before this one in its document")
    max_position: int = weight(5, "position after which the penalty stays the same", "sentences")
    rank_weight: float = weight(0.75, "best document; divided by the rank of others")
    best_sentence_weight: float = weight(1.8, "best sentence of the document", "factor")
    title_weight: float = weight(1.4, "share of the title's words in the question", "factor")
    reference_weight: float = weight(2.5, "gain of a document named in a better one", "factor")
    mention_weight: float = weight(2.3, "names shared with the best sentences", "factor")
    answer_type_bonus: float = weight(1.8, "match of the expected answer type")
    similarity_weight: float = weight(
        2.0, "similarity in meaning of a sentence, behind the title of its document", "factor"
    )
    max_bridge_documents: int = weight(4, "best documents searched for titles of others", "documents")
    max_bridge_characters: int = weight(8_000, "start of such a document that is searched", "characters")
    title_reference_share: float = weight(0.7, "score of a document that a document named in it gains", "share")
    max_hop_sentences: int = weight(2, "best sentences searched for names", "sentences")
    max_names: int = weight(60, "words of such a sentence examined for names", "words")


@dataclass(frozen=True, slots=True)
class DocumentLayout:
    """Documents cut into spans, in the order of the text.

    `bounds`: the start of each document, and the end of the last one. Per span: `sizes`, the number of sentences it
    counts for; `parents`, the span of its heading or -1; `document_indices`, the index of its document or -1. Per
    document: `heading_indices`, the span of its heading; `titles`. `partners`: closing tags by their headings.
    """

    text: str
    bounds: Sequence[int]
    spans: list[Span] = field(default_factory=list[Span])
    sizes: list[int] = field(default_factory=list[int])
    parents: list[int] = field(default_factory=list[int])
    document_indices: list[int] = field(default_factory=list[int])
    heading_indices: list[int] = field(default_factory=list[int])
    titles: list[str] = field(default_factory=list[str])
    partners: dict[int, int] = field(default_factory=dict[int, int])

    def add_spans(self, document: int, spans: Sequence[Span], *, parent: int = -1, size: int = 1) -> None:
        """Add spans of a document under its heading."""
        self.spans.extend(spans)
        self.sizes.extend([size] * len(spans))
        self.parents.extend([parent] * len(spans))
        self.document_indices.extend([document] * len(spans))


def score_layout(layout: DocumentLayout, question: str, weights: RankingWeights) -> list[float]:
    """Score every span of the layout by the question."""
    word_scores = _WordScorer(layout, bm25.parse_query(question, weights), weights).score_spans()
    names = _list_new_names(layout, word_scores, question, weights)
    mentions = normalize_scores(bm25.score_mentions(layout.text, layout.spans, names, weights))
    answer_flags = answer_types.match_answer_type(layout.text, layout.spans, question, word_scores)
    scores = [
        score + weights.mention_weight * mention + weights.answer_type_bonus * is_answer
        for score, mention, is_answer in zip(word_scores, mentions, answer_flags, strict=True)
    ]
    texts = [_read_span(layout, index) for index in range(len(scores))]
    return semantic.add_similarity(scores, texts, question, weights.similarity_weight)


def _read_span(layout: DocumentLayout, index: int) -> str:
    """Return the text of a span after the title of its document."""
    document = layout.document_indices[index]
    sentence = layout.text[slice(*layout.spans[index])]
    return f"{layout.titles[document]}. {sentence}" if document >= 0 else sentence


def _list_new_names(
    layout: DocumentLayout, scores: Sequence[float], question: str, weights: RankingWeights
) -> list[str]:
    """Return the names and numbers in the best sentences that are not in the question."""
    sentences = filter(layout.sizes.__getitem__, range(len(scores)))
    best = nlargest(weights.max_hop_sentences, sentences, scores.__getitem__)
    question_words = set(_WORD.findall(question.lower()))
    limit = weights.max_names
    words = (word for index in best for word in _WORD.findall(layout.text, *layout.spans[index])[:limit])
    return list(dict.fromkeys(word for word in words if _is_name(word) and word.lower() not in question_words))


def _is_name(word: str) -> bool:
    return (word[0].isupper() or word[0].isdigit()) and len(word) > 1 and word.lower() not in bm25.STOP_WORDS


class _WordScorer:
    """Scores sentences and documents by the terms of a query."""

    def __init__(self, layout: DocumentLayout, query: Query, weights: RankingWeights) -> None:
        self.layout = layout
        self.weights = weights
        self.term_counts = bm25.count_terms(layout.text, layout.spans, query)
        self.span_scores = normalize_scores(bm25.score_counts(layout.spans, self.term_counts, query))
        document_counts = bm25.merge_counts(self.term_counts, layout.document_indices)
        documents = list(pairwise(layout.bounds))
        self.document_scores = normalize_scores(bm25.score_counts(documents, document_counts, query))
        self.term_weights = bm25.compute_term_weights(len(documents), document_counts, query)
        self.total_weight = sum(self.term_weights.values()) or 1.0

    def score_spans(self) -> list[float]:
        """Score every span; text before the first document gets only the score of its own words."""
        weights, layout = self.weights, self.layout
        scores = smooth_scores(self.span_scores, weights.neighbour_weight)
        document_scores = self._score_documents()
        position = 0
        for index, (document, heading) in enumerate(zip(layout.document_indices, layout.parents, strict=True)):
            position = 0 if heading < 0 else position + 1
            if document >= 0:
                scores[index] += (
                    document_scores[document]
                    + weights.coverage_weight * self._compute_coverage(index, heading)
                    - weights.position_penalty * min(position, weights.max_position)
                )
        return scores

    def _compute_coverage(self, index: int, heading: int) -> float:
        """Return the share of the query, by weight, in a sentence and its heading."""
        covered = {*self.term_counts.get(index, ()), *self.term_counts.get(heading, ())}
        return sum(self.term_weights.get(term, 0.0) for term in sorted(covered)) / self.total_weight

    def _score_documents(self) -> list[float]:
        weights = self.weights
        best_sentences = [0.0] * len(self.document_scores)
        for document, score in zip(self.layout.document_indices, self.span_scores, strict=True):
            if document >= 0:
                best_sentences[document] = max(best_sentences[document], score)
        raised = self._add_references()
        scores = [0.0] * len(raised)
        for rank, document in enumerate(sorted(range(len(raised)), key=lambda index: -raised[index])):
            scores[document] = (
                weights.rank_weight / (1 + rank)
                + weights.best_sentence_weight * best_sentences[document]
                + weights.reference_weight * (raised[document] - self.document_scores[document])
                + weights.title_weight * self._compute_title_share(document)
            )
        return scores

    def _compute_title_share(self, document: int) -> float:
        """Return the share of the document's title in the question."""
        words = [word for word in _WORD.findall(self.layout.titles[document].lower()) if word not in bm25.STOP_WORDS]
        matches = self.term_counts.get(self.layout.heading_indices[document], ())
        return min(1.0, len(matches) / len(words)) if words else 0.0

    def _add_references(self) -> list[float]:
        """Return the scores of documents, raised for titles named in the best documents."""
        weights, own = self.weights, self.document_scores
        raised = list(own)
        for document in nlargest(weights.max_bridge_documents, range(len(own)), own.__getitem__):
            start, end = self.layout.bounds[document], self.layout.bounds[document + 1]
            body = self.layout.text[start : min(end, start + weights.max_bridge_characters)]
            for other, title in enumerate(self.layout.titles):
                if other != document and len(title) > 3 and title in body:
                    raised[other] = max(raised[other], own[other] + weights.title_reference_share * own[document])
        return raised
