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

NEAR = 0.5  # what a sentence takes over from its neighbours
COVERED = 1.75  # the share of what is asked that a sentence and its heading hold
LATER, LATEST = 0.3, 5  # what a sentence loses with each one that precedes it in its document, as far as the fifth
RANKED = 0.75  # divided by the rank of the document
BEST = 1.8  # the best sentence of the document
TITLED = 1.4  # the share of the document's title that the question has
NAMED = 2.5  # what the document gains by being named in a better one
MENTIONED = 2.3  # names of the best sentences, in other sentences
ANSWERING = 1.8  # something of the kind that is asked for
MEANT = 3.0  # nearness in meaning, once for the sentence and once for its document
BRIDGES = 4  # best documents whose mentions of other documents count
BRIDGED = 8_000  # characters of such a document in which titles are looked for
TITLE_NAMED = 0.7  # of a document's score, what another gains when it names its title
HOPS = 2  # best sentences whose names lead on
MOST_NAMES = 60  # words of such a sentence that may be names

_WORD = re.compile(r"\w+")


@dataclass(frozen=True, slots=True)
class Layout:
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
    owners: list[int] = field(default_factory=list[int])
    heads: list[int] = field(default_factory=list[int])
    titles: list[str] = field(default_factory=list[str])
    partners: dict[int, int] = field(default_factory=dict[int, int])

    def add(self, owner: int, spans: Sequence[Span], *, parent: int = -1, size: int = 1) -> None:
        """Add spans of a document under its heading."""
        self.spans.extend(spans)
        self.sizes.extend([size] * len(spans))
        self.parents.extend([parent] * len(spans))
        self.owners.extend([owner] * len(spans))


def scores(layout: Layout, question: str) -> list[float]:
    """Score every span of the layout by a question."""
    first = _Words(layout, bm25.query(question)).scores()
    mentioned = lines.normalised(bm25.mentions(layout.text, layout.spans, _names(layout, first, question)))
    answering = answer_types.answering(layout.text, layout.spans, question, first)
    by_words = [
        score + MENTIONED * mention + ANSWERING * answers
        for score, mention, answers in zip(first, mentioned, answering, strict=True)
    ]
    return _by_meaning(layout, by_words, question)


def _by_meaning(layout: Layout, by_words: list[float], question: str) -> list[float]:
    """Raise what is near the question in meaning, and its document with it, where the extra for that is installed."""

    def read(index: int) -> str:
        owner = layout.owners[index]
        said = layout.text[slice(*layout.spans[index])]
        return f"{layout.titles[owner]}. {said}" if owner >= 0 else said

    ranks = {index: score for index, score in enumerate(by_words) if layout.sizes[index]}
    near = semantic.similarities(question, ranks, read)
    if not near:
        return by_words
    best: dict[int, float] = {}
    for index, value in near.items():
        best[layout.owners[index]] = max(value, best.get(layout.owners[index], 0.0))
    return [
        score + MEANT * (near.get(index, 0.0) + best.get(owner, 0.0))
        for index, (score, owner) in enumerate(zip(by_words, layout.owners, strict=True))
    ]


def _names(layout: Layout, ranks: Sequence[float], question: str) -> list[str]:
    """List the names and numbers of the best sentences that the question does not have."""
    best = nlargest(HOPS, filter(layout.sizes.__getitem__, range(len(ranks))), ranks.__getitem__)
    said = set(_WORD.findall(question.lower()))
    found = (word for index in best for word in _WORD.findall(layout.text, *layout.spans[index])[:MOST_NAMES])
    return list(dict.fromkeys(word for word in found if _is_name(word) and word.lower() not in said))


def _is_name(word: str) -> bool:
    return (word[0].isupper() or word[0].isdigit()) and len(word) > 1 and word.lower() not in bm25.STOP


class _Words:
    """What the words of a question say of sentences and documents."""

    def __init__(self, layout: Layout, asked: Query) -> None:
        self.layout = layout
        self.found = bm25.counts(layout.text, layout.spans, asked)
        self.own = lines.normalised(bm25.weigh(layout.spans, self.found, asked))
        together = bm25.together(self.found, layout.owners)
        bodies = list(pairwise(layout.bounds))
        self.whole = lines.normalised(bm25.weigh(bodies, together, asked))
        self.rarity = bm25.rarity(len(bodies), together, asked)
        self.worth = sum(self.rarity.values()) or 1.0

    def scores(self) -> list[float]:
        """Score every span; what stands in front of the first document counts by its own words only."""
        near = lines.smoothed(self.own, NEAR)
        of_document = self._of_documents()
        position = 0
        for index, (owner, head) in enumerate(zip(self.layout.owners, self.layout.parents, strict=True)):
            position = 0 if head < 0 else position + 1
            if owner >= 0:
                near[index] += of_document[owner] + COVERED * self._covered(index, head) - LATER * min(position, LATEST)
        return near

    def _covered(self, index: int, head: int) -> float:
        """Return the share of what is asked that a sentence and its heading hold between them."""
        held = {*self.found.get(index, ()), *self.found.get(head, ())}
        return sum(self.rarity.get(term, 0.0) for term in sorted(held)) / self.worth

    def _of_documents(self) -> list[float]:
        best = [0.0] * len(self.whole)
        for owner, own in zip(self.layout.owners, self.own, strict=True):
            if owner >= 0:
                best[owner] = max(best[owner], own)
        named = self._named()
        found = [0.0] * len(named)
        for rank, owner in enumerate(sorted(range(len(named)), key=lambda one: -named[one])):
            gain = named[owner] - self.whole[owner]
            found[owner] = RANKED / (1 + rank) + BEST * best[owner] + NAMED * gain + TITLED * self._titled(owner)
        return found

    def _titled(self, owner: int) -> float:
        """Return the share of a document's title that the question has."""
        words = [word for word in _WORD.findall(self.layout.titles[owner].lower()) if word not in bm25.STOP]
        return min(1.0, len(self.found.get(self.layout.heads[owner], ())) / len(words)) if words else 0.0

    def _named(self) -> list[float]:
        """Score documents; one whose title stands in a good one is good as well."""
        named = list(self.whole)
        for owner in nlargest(BRIDGES, range(len(named)), self.whole.__getitem__):
            start, end = self.layout.bounds[owner], self.layout.bounds[owner + 1]
            said = self.layout.text[start : min(end, start + BRIDGED)]
            for other, title in enumerate(self.layout.titles):
                if other != owner and len(title) > 3 and title in said:
                    named[other] = max(named[other], self.whole[other] + TITLE_NAMED * self.whole[owner])
        return named
