"""Finds the text of a web page: where it stands, under which heading, and whether it is content or furniture.

A scanner, not a parser: it follows no structure that a page may get wrong, so a page without a single closing tag reads
as well as any other. Every look ahead is remembered when it finds nothing, so time is linear.
"""

import re
from collections.abc import Iterator
from typing import NamedTuple

from . import prose
from .core.bm25 import Span

MIN_SPLIT_CHARACTERS = 250  # characters of text from which on it is cut into sentences
MAX_INLINE_MARKUP = 24  # characters of markup within a line of text that are kept with it
SAMPLE_CHARACTERS = 20_000

_TAG = re.compile(r"<(/?)([A-Za-z][A-Za-z0-9]{0,20})(?=[\s/>])([^<>]{0,5000})>")
_KNOWN_TAG = re.compile(
    r"<(?:div|p|span|a|li|ul|ol|td|tr|table|h[1-6]|br|script|style|meta|link|section|article|nav|header|footer|main|img|svg"
    r"|button|form|input)[\s/>]",
    re.IGNORECASE,
)
_PAGE_START = re.compile(r"<!doctype html|<html[\s>]|<body[\s>]", re.IGNORECASE)
_HREF = re.compile(r"href\s*=\s*[\"']?([^\"'\s>]+)", re.IGNORECASE)
_INLINE_TAGS = frozenset(
    re.findall(
        r"\w+",
        """a abbr b bdi cite code data dfn em font i kbd label mark q s samp small span strong sub sup td th time u""",
    )
)
_SKIPPED_TAGS = frozenset(
    re.findall(r"\w+", "script style svg noscript template iframe object canvas math select textarea")
)
_HEADING_TAGS = frozenset({"h1", "h2", "h3", "h4", "h5", "h6"})
_BOILERPLATE_TAGS = frozenset({"nav", "footer", "aside", "menu", "dialog"})


class HtmlPiece(NamedTuple):
    """A stretch of text; `level` is 1 to 6 for a heading and 0 for other text, `furniture` what surrounds content.

    `kind` says what it is: `text`, `title`, `link` (the words of one), `href`, or `skipped` for scripts and the like.
    """

    span: Span
    kind: str
    level: int
    is_boilerplate: bool


def is_html(text: str) -> bool:
    """Say whether the text is HTML, by how it begins or by how many of its tags there are."""
    sample = text[:SAMPLE_CHARACTERS]
    tags = sum(1 for _ in _KNOWN_TAG.finditer(sample))
    if _PAGE_START.search(sample, 0, 2_000):
        return tags >= 5
    return sample.lstrip()[:1] == "<" and tags >= 10 and tags * 250 >= len(sample)


def iter_pieces(text: str, *, include_links: bool) -> Iterator[HtmlPiece]:
    """List the text of a page in order; with `links`, where links lead to as well."""
    scanner = _Scanner(text, include_links=include_links)
    while (at := text.find("<", scanner.position)) >= 0:
        scanner.gather_text(at)
        yield from scanner.scan_markup(at)
    scanner.gather_text(len(text))
    yield from scanner.flush_line()


class _Scanner:
    """Where a scan has come to, and in what it is: a heading, a link, the page's furniture."""

    def __init__(self, text: str, *, include_links: bool) -> None:
        self.text = text
        self.include_links = include_links
        self.position = 0
        self.span: Span | None = None  # of the text gathered and not handed out yet
        self.is_link_text = True
        self.level = 0
        self.in_title = False
        self.in_link = False
        self.boilerplate_depth = 0
        self.missing_marks: set[str] = set()

    def gather_text(self, end: int) -> None:
        """Gather the text up to a tag."""
        said = self.text[self.position : end]
        bare = said.strip()
        if bare:
            start = self.position + said.index(bare[0])
            self.is_link_text = self.in_link and (self.span is None or self.is_link_text)
            self.span = (self.span[0] if self.span is not None else start, start + len(bare))
        self.position = end

    def flush_line(self) -> Iterator[HtmlPiece]:
        """Hand out what was gathered."""
        if self.span is not None:
            kind = "title" if self.in_title else "link" if self.is_link_text else "text"
            long = self.span[1] - self.span[0] > MIN_SPLIT_CHARACTERS
            for span in prose.find_sentences(self.text, *self.span) if long else (self.span,):
                yield HtmlPiece(span, kind, self.level, self.boilerplate_depth > 0)
        self.span = None

    def scan_markup(self, at: int) -> Iterator[HtmlPiece]:
        """Pass a tag or a comment; what is neither is text."""
        if self.text.startswith("<!--", at):
            yield from self.flush_line()
            self.position = self._find_after("-->", at) or at + 4
            return
        tag = _TAG.match(self.text, at)
        if tag is None and self.text[at + 1 : at + 2] in {"!", "?"}:
            yield from self.flush_line()
            self.position = self._find_after(">", at) or at + 2
            return
        if tag is None:  # a sign like any other
            self.span = (self.span[0] if self.span is not None else at, at + 1)
            self.position = at + 1
            return
        name = tag[2].lower()
        far = self.span is not None and tag.end() - self.span[1] > MAX_INLINE_MARKUP
        if name not in _INLINE_TAGS or far:
            yield from self.flush_line()
        self.position = tag.end()
        if tag[1]:
            self._close_tag(name)
        else:
            yield from self._open_tag(tag, name)

    def _open_tag(self, tag: re.Match[str], name: str) -> Iterator[HtmlPiece]:
        if name not in _INLINE_TAGS:
            self.in_title = name == "title"
            self.level = int(name[1]) if name in _HEADING_TAGS else 0
        if name in _SKIPPED_TAGS:
            end = self._find_closing_tag(name)
            if end is not None:
                kind = "data" if "json" in tag[3] else "skipped"
                yield from (
                    HtmlPiece(span, kind, 0, is_boilerplate=True)
                    for span in prose.find_sentences(self.text, self.position, end)
                )
                self.position = end
        elif name in _BOILERPLATE_TAGS:
            self.boilerplate_depth += 1
        elif name == "a":
            self.in_link = True
            target = _HREF.search(tag[3]) if self.include_links else None
            if target is not None:
                yield from self.flush_line()
                start = tag.start(3) + target.start(1)
                yield HtmlPiece((start, start + len(target[1])), "href", 0, self.boilerplate_depth > 0)

    def _close_tag(self, name: str) -> None:
        if name == "a":
            self.in_link = False
        elif name in _BOILERPLATE_TAGS:
            self.boilerplate_depth = max(0, self.boilerplate_depth - 1)
        elif name not in _INLINE_TAGS:
            self.in_title, self.level = False, 0

    def _find_after(self, mark: str, at: int) -> int:
        """Return the place after the next mark, or 0; what is missing once is not looked for again."""
        end = self.text.find(mark, at) if mark not in self.missing_marks else -1
        if end < 0:
            self.missing_marks.add(mark)
        return end + len(mark) if end >= 0 else 0

    def _find_closing_tag(self, name: str) -> int | None:
        """Return where the next closing tag of this name begins."""
        found = (
            None
            if name in self.missing_marks
            else re.compile(f"</{name}", re.IGNORECASE).search(self.text, self.position)
        )
        if found is None:
            self.missing_marks.add(name)
            return None
        return found.start()
