"""Numbered or tagged documents in one passage: ranked as documents first, then sentence by sentence.

A document's heading (its number, its title) comes along with every sentence kept of it, word for word, so that
citations by number stay true; the gaps say how many whole documents were left out.
"""

import re
from collections.abc import Sequence
from itertools import pairwise

from ..compressor import CompressedPassage, Task
from . import prose
from .core import passage_ranking
from .core.bm25 import Span
from .core.passage_ranking import DocumentLayout
from .core.selection import SHORT_MARKER_COST, Units, compress_units

MAX_PREAMBLE_SHARE = 0.25  # share of the text that may stand before the first document
SAMPLE_CHARACTERS = 20_000  # characters looked at first
MIN_DOCUMENT_CHARACTERS = 80  # characters of a document, on average; what is shorter is a list

_HEADING_PATTERNS = (  # a line end in front, which is found quicker than the beginning of a line
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


def find_headings(text: str, min_count: int = 2) -> list[Span]:
    """Find the headings of the documents: `fewest` or more, numbered upwards where they are; else nothing."""
    for pattern in _HEADING_PATTERNS:
        found = list(pattern.finditer("\n" + text))
        numbers = [int(match[1]) for match in found if match[1]]
        if len(found) >= min_count and all(this < that for this, that in pairwise(numbers)):
            return [(match.start(), match.end() - 1) for match in found]
    return []


def build_layout(text: str, found: Sequence[Span]) -> DocumentLayout:
    """Cut documents up: for each its heading, its sentences, its closing tag."""
    bounds = [*(start for start, _ in found), len(text)]
    layout = DocumentLayout(text, bounds)
    layout.add_spans(-1, prose.find_sentences(text, 0, bounds[0]))
    for owner, head in enumerate(found):
        _add_document(layout, owner, head)
    return layout


def _add_document(layout: DocumentLayout, owner: int, head: Span) -> None:
    text, end = layout.text, layout.bounds[owner + 1]
    title = _TITLE_LINE.match(text, head[1], end)
    if title is not None:
        head = (head[0], title.end())
    layout.titles.append(_extract_title(text[slice(*head)]))
    closing = _CLOSING_TAG.search(text, max(head[1], end - 100), end)
    body = prose.find_sentences(text, head[1], closing.start() if closing else end)
    first = len(layout.spans)
    layout.heading_indices.append(first)
    layout.add_spans(owner, [(head[0], head[0] + len(text[slice(*head)].rstrip()))], size=0 if body else 1)
    layout.add_spans(owner, body, parent=first)
    if closing is not None:
        layout.partners[first] = len(layout.spans)
        layout.add_spans(owner, [closing.span(1)], parent=first, size=0)


def _extract_title(head: str) -> str:
    """Return what a heading calls its document: `Ada Lovelace` for `Document [3](Title: Ada Lovelace)`."""
    said = re.sub(r"(?i)</?title>|^.*?\btitle:|^\W*(?:document|source|passage)?\W*\d*\W*", "", head.strip(), count=1)
    return re.sub(r"(?i)</title>|\)\s*$|\s*\([^()]*\)\s*$", "", said).strip(" *\"'")


class DocumentCompressor:
    """Compresses a passage of several documents."""

    name = "documents"

    def recognises(self, text: str) -> bool:
        """Recognise two or more numbered or tagged documents that make up most of the text."""
        sample = text[:SAMPLE_CHARACTERS]
        found = find_headings(sample) or (
            find_headings(text) if len(text) > SAMPLE_CHARACTERS and find_headings(sample, min_count=1) else []
        )
        return (
            bool(found)
            and found[0][0] <= MAX_PREAMBLE_SHARE * len(text)
            and len(sample) / len(found) > MIN_DOCUMENT_CHARACTERS
        )

    def compress(self, task: Task) -> CompressedPassage | None:
        """Keep the best sentences of the best documents, each under its heading."""
        layout = build_layout(task.text, find_headings(task.text))
        return compress_units(
            task,
            Units(
                task.text,
                layout.spans,
                passage_ranking.score_layout(layout, task.question),
                "sentences",
                marker_cost=SHORT_MARKER_COST,
                sizes=layout.sizes,
                parents=layout.parents,
                partners=layout.partners,
                groups=layout.document_indices,
                group_noun="documents",
            ),
        )
