"""Web pages: the words under their headings, without the markup; what is asked for, and the page's content first.

Tags go without a word, as blanks do elsewhere; scripts, styles and drawings are left out and counted, and targets of
links stay only when the question is about links. What stays is verbatim, entities and short tags in a line included.
"""

from collections.abc import Sequence

from ..compressor import Condensed, Task
from . import html_parser, lines
from .core import bm25, severity
from .core.selection import Units, shorten
from .html_parser import Piece

NEAR = 0.3  # what a piece takes over from its neighbours
HEADING = 0.4  # and from its heading
CONTENT = 0.25  # what full sentences are worth, against the page's furniture
FULL = 120  # characters of a piece that says something
FURNITURE = 0.3  # what a menu, a footer, a piece that is nothing but a link loses
TITLE = 0.6
REPORTED = 0.2  # an error
ABOUT_LINKS = frozenset(
    {"link", "links", "url", "urls", "href", "hrefs", "hyperlink", "hyperlinks", "anchor", "anchors"}
)


class Html:
    """Compresses HTML."""

    name = "html"

    def recognises(self, text: str) -> bool:
        """Recognise a page, or a piece of one."""
        return html_parser.is_page(text)

    def compress(self, task: Task) -> Condensed | None:
        """Choose pieces of text, each under its heading."""
        links = not ABOUT_LINKS.isdisjoint(task.question.lower().replace("?", " ").split())
        found = list(html_parser.pieces(task.text, links=links))
        spans = [piece.span for piece in found]
        own = lines.normalised(bm25.score(task.text, spans, bm25.query(task.question)))
        heads = _heads(found)
        near = lines.smoothed(own, NEAR)
        grades = severity.grades(task.text, spans)
        scores = [
            near[at]
            + (HEADING * own[heads[at]] if heads[at] >= 0 else 0.0)
            + _worth(piece)
            + REPORTED * (grade >= severity.ERROR)
            for at, (piece, grade) in enumerate(zip(found, grades, strict=True))
        ]
        units = Units(task.text, spans, scores, "pieces of text", parents=heads)
        units.order[:] = [at for at in units.order if found[at].kind != "skipped" and scores[at] > 0]
        return shorten(task, units)


def _worth(piece: Piece) -> float:
    """Say what a piece is worth whatever is asked."""
    length = piece.span[1] - piece.span[0]
    if piece.kind == "title":
        return TITLE
    plain = CONTENT * min(1.0, length / FULL)
    return plain - (FURNITURE if piece.furniture or (piece.kind == "link" and length < FULL) else 0.0)


def _heads(found: Sequence[Piece]) -> list[int]:
    """Say for each piece which heading it stands under, or -1; the page's furniture stands under none."""
    above: list[tuple[int, int]] = []  # (level, index), levels rising
    heads: list[int] = []
    for at, piece in enumerate(found):
        while piece.level and above and above[-1][0] >= piece.level:
            above.pop()
        heads.append(above[-1][1] if above and not piece.furniture and piece.kind != "title" else -1)
        if piece.level:
            above.append((piece.level, at))
    return heads
