"""Web pages: the words under their headings, without the markup; what is asked for, and the page's content first.

Tags go without a word, as blanks do elsewhere; scripts, styles and drawings are left out and counted, and targets of
links stay only when the question is about links. What stays is verbatim, entities and short tags in a line included.
"""

from collections.abc import Sequence

from ..compressor import CompressedPassage, Task
from . import html_parser, lines
from .core import bm25, severity
from .core.selection import Units, compress_units
from .html_parser import HtmlPiece

NEIGHBOUR_WEIGHT = 0.3  # what a piece takes over from its neighbours
HEADING_WEIGHT = 0.4  # and from its heading
CONTENT_BONUS = 0.25  # what full sentences are worth, against the page's furniture
FULL_CONTENT_CHARACTERS = 120  # characters of a piece that says something
BOILERPLATE_PENALTY = 0.3  # what a menu, a footer, a piece that is nothing but a link loses
TITLE_SCORE = 0.6
ERROR_BONUS = 0.2  # an error
LINK_WORDS = frozenset(
    {"link", "links", "url", "urls", "href", "hrefs", "hyperlink", "hyperlinks", "anchor", "anchors"}
)


class HtmlCompressor:
    """Compresses HTML."""

    name = "html"

    def recognises(self, text: str) -> bool:
        """Recognise a page, or a piece of one."""
        return html_parser.is_html(text)

    def compress(self, task: Task) -> CompressedPassage | None:
        """Choose pieces of text, each under its heading."""
        links = not LINK_WORDS.isdisjoint(task.question.lower().replace("?", " ").split())
        found = list(html_parser.iter_pieces(task.text, include_links=links))
        spans = [piece.span for piece in found]
        own = lines.normalize_scores(bm25.score_spans(task.text, spans, bm25.parse_query(task.question)))
        heads = _find_headings(found)
        near = lines.smooth_scores(own, NEIGHBOUR_WEIGHT)
        grades = severity.grade_lines(task.text, spans)
        scores = [
            near[at]
            + (HEADING_WEIGHT * own[heads[at]] if heads[at] >= 0 else 0.0)
            + _score_piece(piece)
            + ERROR_BONUS * (grade >= severity.ERROR)
            for at, (piece, grade) in enumerate(zip(found, grades, strict=True))
        ]
        units = Units(task.text, spans, scores, "pieces of text", parents=heads)
        units.ranking[:] = [at for at in units.ranking if found[at].kind != "skipped" and scores[at] > 0]
        return compress_units(task, units)


def _score_piece(piece: HtmlPiece) -> float:
    """Say what a piece is worth whatever is asked."""
    length = piece.span[1] - piece.span[0]
    if piece.kind == "title":
        return TITLE_SCORE
    plain = CONTENT_BONUS * min(1.0, length / FULL_CONTENT_CHARACTERS)
    return plain - (
        BOILERPLATE_PENALTY
        if piece.is_boilerplate or (piece.kind == "link" and length < FULL_CONTENT_CHARACTERS)
        else 0.0
    )


def _find_headings(found: Sequence[HtmlPiece]) -> list[int]:
    """Say for each piece which heading it stands under, or -1; the page's furniture stands under none."""
    above: list[tuple[int, int]] = []  # (level, index), levels rising
    heads: list[int] = []
    for at, piece in enumerate(found):
        while piece.level and above and above[-1][0] >= piece.level:
            above.pop()
        heads.append(above[-1][1] if above and not piece.is_boilerplate and piece.kind != "title" else -1)
        if piece.level:
            above.append((piece.level, at))
    return heads
