"""Compresses web pages: text under its headings, without markup; matches of the question and main content first.

Tags are dropped without a marker, as blanks are elsewhere. Scripts, styles and drawings are dropped and counted. Link
targets are kept only if the question asks for links. Kept text is verbatim, including entities and short inline tags.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from ..compressor import CompressedPassage, Task
from . import html_parser
from .core import lines, severity
from .core.headings import find_parent_headings
from .core.scoring import score_question, smooth_scores
from .core.selection import Units, compress_units
from .html_parser import HtmlPiece, HtmlWeights

LINK_WORDS = frozenset(
    {"link", "links", "url", "urls", "href", "hrefs", "hyperlink", "hyperlinks", "anchor", "anchors"}
)


DEFAULT_HTML_WEIGHTS = HtmlWeights()


@dataclass(frozen=True)
class HtmlCompressor:
    """Compresses HTML."""

    name = "html"
    weights: HtmlWeights = DEFAULT_HTML_WEIGHTS

    def recognises(self, text: str) -> bool:
        """Return True for a page, or a part of one."""
        return html_parser.is_html(text[: self.weights.sample_characters])

    def compress(self, task: Task) -> CompressedPassage | None:
        """Select pieces of text, each with its headings."""
        text, weights = task.text, self.weights
        include_links = not LINK_WORDS.isdisjoint(task.question.lower().replace("?", " ").split())
        pieces = list(html_parser.iter_pieces(text, weights, include_links=include_links))
        spans = [piece.span for piece in pieces]
        matches = score_question(text, spans, task.question, weights)
        parents = _find_headings(pieces)
        grades = severity.grade_lines(text, spans)
        scores = [
            score
            + (weights.heading_weight * matches[parents[index]] if parents[index] >= 0 else 0.0)
            + self._score_piece(pieces[index])
            + weights.error_bonus * (grades[index] >= severity.ERROR)
            for index, score in enumerate(smooth_scores(matches, weights.neighbour_weight))
        ]
        units = Units(
            text,
            spans,
            scores,
            "pieces of text",
            weights,
            parents=parents,
            matches=lines.extract_templates(text, spans),
        )
        units.ranking[:] = [index for index in units.ranking if pieces[index].kind != "skipped"]
        return compress_units(task, units)

    def _score_piece(self, piece: HtmlPiece) -> float:
        """Return the score of a piece without regard to the question."""
        weights = self.weights
        if piece.kind == "title":
            return weights.title_score
        length = piece.span[1] - piece.span[0]
        is_short_link = piece.kind == "link" and length < weights.full_content_characters
        content = weights.content_bonus * min(1.0, length / weights.full_content_characters)
        return content - (weights.boilerplate_penalty if piece.is_boilerplate or is_short_link else 0.0)


def _find_headings(pieces: Sequence[HtmlPiece]) -> list[int]:
    """Return the index of each piece's heading, or -1; boilerplate and the title have none."""
    return [
        -1 if piece.is_boilerplate or piece.kind == "title" else parent
        for piece, parent in zip(pieces, find_parent_headings(piece.level for piece in pieces), strict=True)
    ]
