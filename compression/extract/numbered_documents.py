"""Compresses several numbered or tagged documents in one text: ranks documents, then their sentences.

A kept sentence brings the heading of its document (number and title) word for word, so that citations by number stay
true. Gaps count the documents left out whole.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from ..compressor import CompressedPassage, Task
from . import log_entries
from .core import passage_ranking
from .core.base_weights import weight
from .core.bm25 import Span
from .core.passage_ranking import DocumentLayout, RankingWeights
from .core.selection import Units, compress_units
from .core.sentences import find_sentences

_HEADING_PATTERNS = (  # a literal line end is faster to search for than the start of a line
    re.compile(
        r"\n(?:#+ *|\*\*)?(?:(?:document|source|passage|result|chunk|context|doc|article|text|page|snippet) *)?"
        r"\[(\d{1,4})\][ \t:.-]*(?:\(title: ([^\n]{0,200}?)\)(?=\s|$))?",
        re.MULTILINE | re.IGNORECASE,
    ),
    re.compile(
        r"\n(?:#+ *|\*\*|--- *)?(?:document|source|passage|result|chunk|context|doc|article|snippet) *#?(\d{1,4})\b"
        r"[ \t]*(?:\(title: ([^\n]{0,200}?)\)(?=\s|$)|[:.)*-]+[ \t]?|$)",
        re.MULTILINE | re.IGNORECASE,
    ),
    re.compile(
        r"\n[ \t]*<(?:document|doc|source|passage|result|chunk|item|article|search_result)(?: [^<>\n]{0,300})?>()",
        re.MULTILINE | re.IGNORECASE,
    ),
)
_CLOSING_TAG = re.compile(r"\s*(</\w{1,30}>)\s*\Z")
_TITLE_LINE = re.compile(r"\s*<title>([^<\n]{1,200})</title>|[ \t]*\*?\*?title:[ \t]*([^\n]{1,200})", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class DocumentWeights(RankingWeights):
    """Weights of numbered documents."""

    marker_cost: int = weight(10, "budget that the marker of a gap uses", "characters")
    max_preamble_share: float = weight(0.25, "text before the first document", "share of text")
    min_document_characters: int = weight(80, "average length of a document; shorter texts are lists", "characters")


DEFAULT_DOCUMENT_WEIGHTS = DocumentWeights()


def find_headings(text: str, min_count: int = 2) -> list[Span]:
    """Return the headings of the documents: `min_count` or more, in ascending order if numbered; else nothing."""
    for pattern in _HEADING_PATTERNS:
        matches = list(pattern.finditer("\n" + text))
        numbers = [int(match[1]) for match in matches if match[1]]
        if len(matches) >= min_count and all(previous < number for previous, number in pairwise(numbers)):
            return [(match.start(), match.end() - 1) for match in matches]
    return []


def build_layout(text: str, headings: Sequence[Span]) -> DocumentLayout:
    """Cut documents into headings, sentences and closing tags."""
    bounds = [*(start for start, _ in headings), len(text)]
    layout = DocumentLayout(text, bounds)
    layout.add_spans(-1, find_sentences(text, 0, bounds[0]))
    for document, heading in enumerate(headings):
        _add_document(layout, document, heading)
    return layout


def _add_document(layout: DocumentLayout, document: int, heading: Span) -> None:
    text, end = layout.text, layout.bounds[document + 1]
    start, heading_end = heading
    title = _TITLE_LINE.match(text, heading_end, end)
    if title is not None:
        heading_end = title.end()
    heading_text = text[start:heading_end]
    layout.titles.append(_extract_title(heading_text))
    closing = _CLOSING_TAG.search(text, max(heading_end, end - 100), end)
    sentences = find_sentences(text, heading_end, closing.start() if closing else end)
    index = len(layout.spans)
    layout.heading_indices.append(index)
    layout.add_spans(document, [(start, start + len(heading_text.rstrip()))], size=0 if sentences else 1)
    layout.add_spans(document, sentences, parent=index)
    if closing is not None:
        layout.partners[index] = len(layout.spans)
        layout.add_spans(document, [closing.span(1)], parent=index, size=0)


def _extract_title(heading: str) -> str:
    """Return the title in a heading: `Ada Lovelace` for `Document [3](Title: Ada Lovelace)`."""
    title = re.sub(
        r"(?i)</?title>|^.*?\btitle:|^\W*(?:document|source|passage)?\W*\d*\W*", "", heading.strip(), count=1
    )
    return re.sub(r"(?i)</title>|\)\s*$|\s*\([^()]*\)\s*$", "", title).strip(" *\"'")


def _are_log_entries(text: str, headings: Sequence[Span]) -> bool:
    """Return True if most headings are numbers before the time of a log entry."""
    entries = sum(log_entries.has_timestamp(text[end : end + 80].lstrip()) for _, end in headings)
    return 2 * entries > len(headings)


@dataclass(frozen=True)
class DocumentCompressor:
    """Compresses a text of several documents."""

    name = "documents"
    weights: DocumentWeights = DEFAULT_DOCUMENT_WEIGHTS

    def recognises(self, text: str) -> bool:
        """Return True if two or more numbered or tagged documents make up most of the text."""
        weights = self.weights
        sample = text[: weights.sample_characters]
        headings = find_headings(sample)
        if not headings and len(text) > len(sample) and find_headings(sample, min_count=1):
            headings = find_headings(text)
        return (
            bool(headings)
            and not _are_log_entries(text, headings)
            and headings[0][0] <= weights.max_preamble_share * len(text)
            and len(sample) / len(headings) > weights.min_document_characters
        )

    def compress(self, task: Task) -> CompressedPassage | None:
        """Keep the best sentences of the best documents, each with its heading."""
        layout = build_layout(task.text, find_headings(task.text))
        units = Units(
            task.text,
            layout.spans,
            passage_ranking.score_layout(layout, task.question, self.weights),
            "sentences",
            self.weights,
            sizes=layout.sizes,
            parents=layout.parents,
            partners=layout.partners,
            groups=layout.document_indices,
            group_noun="documents",
        )
        return compress_units(task, units)
