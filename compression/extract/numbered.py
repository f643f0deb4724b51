"""Numbered or tagged documents in one passage: ranked as documents first, then sentence by sentence.

A document's heading (its number, its title) comes along with every sentence kept of it, word for word, so that
citations by number stay true; the gaps say how many whole documents were left out.
"""

import re
from collections import Counter
from collections.abc import Sequence
from itertools import pairwise

from ..compressor import Condensed, Task
from . import bm25, lines, prose
from .bm25 import Query, Span
from .select import Units, shorten

MOST_MIXED = 0.25  # share of the text that may stand before the first document
SAMPLE = 20_000  # characters looked at first
SHORTEST = 80  # characters of a document, on average; what is shorter is a list
DOCUMENT = 1.2  # weight of a document's score in its sentences' scores
SPREAD = 0.25  # how fast a document's weight wears off from its best sentence to its second and on
BRIDGES = 4  # best documents whose mentions of other documents count
TITLE_NAMED = 0.7  # what a document gains when a better one names its title

_HEADS = (
    re.compile(
        r"^(?:#+ *|\*\*)?(?:(?:document|source|passage|result|chunk|context|doc|article|text|page|snippet) *)?"
        r"\[(\d{1,4})\][ \t:.-]*(?:\(title: ([^\n]{0,200}?)\)(?=\s|$))?",
        re.MULTILINE | re.IGNORECASE,
    ),
    re.compile(
        r"^(?:#+ *|\*\*|--- *)?(?:document|source|passage|result|chunk|context|doc|article|snippet) *#?(\d{1,4})\b"
        r"[ \t]*(?:\(title: ([^\n]{0,200}?)\)(?=\s|$)|[:.)*-]+[ \t]?|$)",
        re.MULTILINE | re.IGNORECASE,
    ),
    re.compile(
        r"^[ \t]*<(?:document|doc|source|passage|result|chunk|item|article|search_result)(?: [^<>\n]{0,300})?>()",
        re.MULTILINE | re.IGNORECASE,
    ),
)
_CLOSING = re.compile(r"\s*(</\w{1,30}>)\s*\Z")
_TITLE = re.compile(r"\s*<title>([^<\n]{1,200})</title>|[ \t]*\*?\*?title:[ \t]*([^\n]{1,200})", re.IGNORECASE)


def heads(text: str, fewest: int = 2) -> list[Span]:
    """Find the headings of the documents: `fewest` or more, numbered upwards where they are; else nothing."""
    for pattern in _HEADS:
        found = list(pattern.finditer(text))
        numbers = [int(match[1]) for match in found if match[1]]
        if len(found) >= fewest and all(this < that for this, that in pairwise(numbers)):
            return [match.span() for match in found]
    return []


class _Documents:
    """The units of a passage of documents: for each document its heading, its sentences, its closing tag."""

    def __init__(self, text: str, found: Sequence[Span]) -> None:
        self.text = text
        self.bounds = [*(start for start, _ in found), len(text)]
        self.spans: list[Span] = prose.sentences(text, 0, self.bounds[0])
        self.sizes = [1] * len(self.spans)
        self.parents = [-1] * len(self.spans)
        self.owners = [-1] * len(self.spans)  # the number of the document, counted from 0 as they stand
        self.partners: dict[int, int] = {}
        self.titles: list[str] = []
        for owner, head in enumerate(found):
            self._add(owner, head, self.bounds[owner + 1])

    def _add(self, owner: int, head: Span, end: int) -> None:
        first = len(self.spans)
        title = _TITLE.match(self.text, head[1], end)
        if title is not None:
            head = (head[0], title.end())
        self.titles.append(_title(self.text[head[0] : head[1]]))
        closing = _CLOSING.search(self.text, max(head[1], end - 100), end)
        body = prose.sentences(self.text, head[1], closing.start() if closing else end)
        self.spans += [(head[0], head[0] + len(self.text[head[0] : head[1]].rstrip())), *body]
        self.sizes += [0 if body else 1, *([1] * len(body))]
        self.parents += [-1, *([first] * len(body))]
        if closing is not None:
            self.partners[first] = len(self.spans)
            self.spans.append(closing.span(1))
            self.sizes.append(0)
            self.parents.append(first)
        self.owners += [owner] * (len(self.spans) - first)

    def scores(self, asked: Query) -> list[float]:
        own = lines.normalised(bm25.score(self.text, self.spans, asked))
        whole = self._document_scores(asked, own)
        near = lines.smoothed(own, prose.NEAR)
        scores = list(near)
        taken: Counter[int] = Counter()
        for index in sorted(range(len(near)), key=lambda one: -near[one]):
            owner = self.owners[index]
            if owner >= 0 and self.sizes[index]:
                taken[owner] += 1
                scores[index] += DOCUMENT * whole[owner] / taken[owner] ** SPREAD
        return scores

    def _document_scores(self, asked: Query, own: Sequence[float]) -> list[float]:
        """Score whole documents; one whose title stands in the best sentence of a good one is good as well."""
        spans = list(pairwise(self.bounds))
        whole = lines.normalised(bm25.score(self.text, spans, asked))
        best: dict[int, int] = {}
        for index, owner in enumerate(self.owners):
            if owner >= 0 and own[index] > own[best.setdefault(owner, index)]:
                best[owner] = index
        named = list(whole)
        for owner in sorted(range(len(whole)), key=lambda one: -whole[one])[:BRIDGES]:
            start, end = spans[owner]
            said = self.text[start:end]
            for other, title in enumerate(self.titles):
                if other != owner and len(title) > 3 and title in said:
                    named[other] = max(named[other], whole[other] + TITLE_NAMED * whole[owner])
        return named


def _title(head: str) -> str:
    """Return what a heading calls its document: `Ada Lovelace` for `Document [3](Title: Ada Lovelace)`."""
    said = re.sub(r"(?i)</?title>|^.*?\btitle:|^\W*(?:document|source|passage)?\W*\d*\W*", "", head.strip(), count=1)
    return re.sub(r"(?i)</title>|\)\s*$|\s*\([^()]*\)\s*$", "", said).strip(" *\"'")


class Numbered:
    """Compresses a passage of several documents."""

    name = "documents"

    def recognises(self, text: str) -> bool:
        """Recognise two or more numbered or tagged documents that make up most of the text."""
        sample = text[:SAMPLE]
        found = heads(sample) or (heads(text) if len(text) > SAMPLE and heads(sample, fewest=1) else [])
        return bool(found) and found[0][0] <= MOST_MIXED * len(text) and len(sample) / len(found) > SHORTEST

    def compress(self, task: Task) -> Condensed | None:
        """Keep the best sentences of the best documents, each under its heading."""
        documents = _Documents(task.text, heads(task.text))
        scores = documents.scores(bm25.query(task.question))
        return shorten(
            task,
            Units(
                task.text,
                documents.spans,
                scores,
                "sentences",
                sizes=documents.sizes,
                parents=documents.parents,
                partners=documents.partners,
                groups=documents.owners,
                group="documents",
            ),
        )
