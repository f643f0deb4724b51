"""How near the sentences of several documents are to a question.

A sentence counts by its own words and its neighbours', by what it and its heading hold of the question between them, by
its document's best sentence, title and rank, by standing early in it, by holding the kind of thing that is asked for,
and by naming what the best sentences name: that is where a second hop goes. The weights are those of a linear model,
fitted to one half of the questions over many documents and judged on the other, both ways round, and then rounded.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from heapq import nlargest
from itertools import pairwise

from .. import lines
from . import answer_types, bm25, semantic
from .bm25 import Query, Span

NEIGHBOUR_WEIGHT = 0.5  # what a sentence takes over from its neighbours
COVERAGE_WEIGHT = 1.75  # the share of what is asked that a sentence and its heading hold
POSITION_PENALTY, MAX_POSITION = (
    0.3,
    5,
)  # what a sentence loses with each one that precedes it in its document, as far as the fifth
RANK_WEIGHT = 0.75  # divided by the rank of the document
BEST_SENTENCE_WEIGHT = 1.8  # the best sentence of the document
TITLE_WEIGHT = 1.4  # the share of the document's title that the question has
REFERENCE_WEIGHT = 2.5  # what the document gains by being named in a better one
MENTION_WEIGHT = 2.3  # names of the best sentences, in other sentences
ANSWER_TYPE_BONUS = 1.8  # something of the kind that is asked for
SIMILARITY_WEIGHT = 3.0  # nearness in meaning, once for the sentence and once for its document
MAX_BRIDGE_DOCUMENTS = 4  # best documents whose mentions of other documents count
MAX_BRIDGE_CHARACTERS = 8_000  # characters of such a document in which titles are looked for
TITLE_REFERENCE_SHARE = 0.7  # of a document's score, what another gains when it names its title
MAX_HOP_SENTENCES = 2  # best sentences whose names lead on
MAX_NAMES = 60  # words of such a sentence that may be names

_WORD = re.compile(r"\w+")


@dataclass(frozen=True, slots=True)
class DocumentLayout:
    """Documents cut up: `spans` in the order of the text, and what each is and belongs to.

    `bounds` are where the documents begin, and the end of the last. Of each span: how many sentences it counts for, the
    span of its heading (or -1) and the number of its document, counted from 0 as they stand (or -1). Of each document:
    the span of its heading, and its title. `partners` are closing tags by their headings.
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

    def add_spans(self, owner: int, spans: Sequence[Span], *, parent: int = -1, size: int = 1) -> None:
        """Add spans of a document under its heading."""
        self.spans.extend(spans)
        self.sizes.extend([size] * len(spans))
        self.parents.extend([parent] * len(spans))
        self.document_indices.extend([owner] * len(spans))


def score_layout(layout: DocumentLayout, question: str) -> list[float]:
    """Score every span of the layout by a question."""
    first = _WordScorer(layout, bm25.parse_query(question)).score_spans()
    mentioned = lines.normalize_scores(
        bm25.score_mentions(layout.text, layout.spans, _list_new_names(layout, first, question))
    )
    answering = answer_types.match_answer_type(layout.text, layout.spans, question, first)
    by_words = [
        score + MENTION_WEIGHT * mention + ANSWER_TYPE_BONUS * answers
        for score, mention, answers in zip(first, mentioned, answering, strict=True)
    ]
    return _add_similarity(layout, by_words, question)


def _add_similarity(layout: DocumentLayout, by_words: list[float], question: str) -> list[float]:
    """Raise what is near the question in meaning, and its document with it, where the extra for that is installed."""

    def read(index: int) -> str:
        owner = layout.document_indices[index]
        said = layout.text[slice(*layout.spans[index])]
        return f"{layout.titles[owner]}. {said}" if owner >= 0 else said

    ranks = {index: score for index, score in enumerate(by_words) if layout.sizes[index]}
    near = semantic.compute_similarities(question, ranks, read)
    if not near:
        return by_words
    best: dict[int, float] = {}
    for index, value in near.items():
        best[layout.document_indices[index]] = max(value, best.get(layout.document_indices[index], 0.0))
    return [
        score + SIMILARITY_WEIGHT * (near.get(index, 0.0) + best.get(owner, 0.0))
        for index, (score, owner) in enumerate(zip(by_words, layout.document_indices, strict=True))
    ]


def _list_new_names(layout: DocumentLayout, ranks: Sequence[float], question: str) -> list[str]:
    """List the names and numbers of the best sentences that the question does not have."""
    best = nlargest(MAX_HOP_SENTENCES, filter(layout.sizes.__getitem__, range(len(ranks))), ranks.__getitem__)
    said = set(_WORD.findall(question.lower()))
    found = (word for index in best for word in _WORD.findall(layout.text, *layout.spans[index])[:MAX_NAMES])
    return list(dict.fromkeys(word for word in found if _is_name(word) and word.lower() not in said))


def _is_name(word: str) -> bool:
    return (word[0].isupper() or word[0].isdigit()) and len(word) > 1 and word.lower() not in bm25.STOP_WORDS


class _WordScorer:
    """What the words of a question say of sentences and documents."""

    def __init__(self, layout: DocumentLayout, asked: Query) -> None:
        self.layout = layout
        self.term_counts = bm25.count_terms(layout.text, layout.spans, asked)
        self.span_scores = lines.normalize_scores(bm25.score_counts(layout.spans, self.term_counts, asked))
        together = bm25.merge_counts(self.term_counts, layout.document_indices)
        bodies = list(pairwise(layout.bounds))
        self.document_scores = lines.normalize_scores(bm25.score_counts(bodies, together, asked))
        self.term_weights = bm25.compute_term_weights(len(bodies), together, asked)
        self.total_weight = sum(self.term_weights.values()) or 1.0

    def score_spans(self) -> list[float]:
        """Score every span; what stands in front of the first document counts by its own words only."""
        near = lines.smooth_scores(self.span_scores, NEIGHBOUR_WEIGHT)
        of_document = self._score_documents()
        position = 0
        for index, (owner, head) in enumerate(zip(self.layout.document_indices, self.layout.parents, strict=True)):
            position = 0 if head < 0 else position + 1
            if owner >= 0:
                near[index] += (
                    of_document[owner]
                    + COVERAGE_WEIGHT * self._compute_coverage(index, head)
                    - POSITION_PENALTY * min(position, MAX_POSITION)
                )
        return near

    def _compute_coverage(self, index: int, head: int) -> float:
        """Return the share of what is asked that a sentence and its heading hold between them."""
        held = {*self.term_counts.get(index, ()), *self.term_counts.get(head, ())}
        return sum(self.term_weights.get(term, 0.0) for term in sorted(held)) / self.total_weight

    def _score_documents(self) -> list[float]:
        best = [0.0] * len(self.document_scores)
        for owner, own in zip(self.layout.document_indices, self.span_scores, strict=True):
            if owner >= 0:
                best[owner] = max(best[owner], own)
        named = self._add_references()
        found = [0.0] * len(named)
        for rank, owner in enumerate(sorted(range(len(named)), key=lambda one: -named[one])):
            gain = named[owner] - self.document_scores[owner]
            found[owner] = (
                RANK_WEIGHT / (1 + rank)
                + BEST_SENTENCE_WEIGHT * best[owner]
                + REFERENCE_WEIGHT * gain
                + TITLE_WEIGHT * self._compute_title_share(owner)
            )
        return found

    def _compute_title_share(self, owner: int) -> float:
        """Return the share of a document's title that the question has."""
        words = [word for word in _WORD.findall(self.layout.titles[owner].lower()) if word not in bm25.STOP_WORDS]
        return (
            min(1.0, len(self.term_counts.get(self.layout.heading_indices[owner], ())) / len(words)) if words else 0.0
        )

    def _add_references(self) -> list[float]:
        """Score documents; one whose title stands in a good one is good as well."""
        named = list(self.document_scores)
        for owner in nlargest(MAX_BRIDGE_DOCUMENTS, range(len(named)), self.document_scores.__getitem__):
            start, end = self.layout.bounds[owner], self.layout.bounds[owner + 1]
            said = self.layout.text[start : min(end, start + MAX_BRIDGE_CHARACTERS)]
            for other, title in enumerate(self.layout.titles):
                if other != owner and len(title) > 3 and title in said:
                    named[other] = max(
                        named[other], self.document_scores[other] + TITLE_REFERENCE_SHARE * self.document_scores[owner]
                    )
        return named
