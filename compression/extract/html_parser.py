"""Finds the text of a web page, with its heading and whether it is content or boilerplate.

A scanner rather than a parser: it relies on no structure, so that broken markup is read as well. Each search that finds
nothing is remembered, so that the time is linear.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

from .core.base_weights import ExtractWeights, weight
from .core.bm25 import Span
from .core.sentences import find_sentences

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


@dataclass(frozen=True, slots=True)
class HtmlWeights(ExtractWeights):
    """Weights of web pages."""

    min_score: float = weight(0.1, "a piece worth its tokens; times the root of its rank among look-alikes")
    min_split_characters: int = weight(250, "length of a line that is split into sentences", "characters")
    max_inline_markup: int = weight(24, "markup kept within a line of text", "characters")
    heading_weight: float = weight(0.4, "part of its heading's score that a piece gains", "factor")
    content_bonus: float = weight(0.25, "a piece of full content length")
    full_content_characters: int = weight(120, "length of full content", "characters")
    boilerplate_penalty: float = weight(0.3, "a menu, a footer, a short link")
    title_score: float = weight(0.6, "the title of the page")
    error_bonus: float = weight(0.2, "an error")


class HtmlPiece(NamedTuple):
    """A piece of text; `level` is 1 to 6 for a heading and 0 for other text.

    `kind` is `text`, `title`, `link` (its words), `href` (its target), `data` (JSON) or `skipped` (a script, ...).
    """

    span: Span
    kind: str
    level: int
    is_boilerplate: bool


def is_html(sample: str) -> bool:
    """Return True if the start of a text is HTML, by its first tag or by the number of known tags."""
    tags = sum(1 for _ in _KNOWN_TAG.finditer(sample))
    if _PAGE_START.search(sample, 0, 2_000):
        return tags >= 5
    return sample.lstrip()[:1] == "<" and tags >= 10 and tags * 250 >= len(sample)


def iter_pieces(text: str, weights: HtmlWeights, *, include_links: bool) -> Iterator[HtmlPiece]:
    """Yield the text of a page in order, with the targets of links if `include_links`."""
    scanner = _Scanner(text, weights, include_links=include_links)
    while (start := text.find("<", scanner.position)) >= 0:
        scanner.gather_text(start)
        yield from scanner.scan_markup(start)
    scanner.gather_text(len(text))
    yield from scanner.flush_line()


class _Scanner:
    """The state of a scan: the position, and the enclosing heading, title, link and boilerplate."""

    def __init__(self, text: str, weights: HtmlWeights, *, include_links: bool) -> None:
        self.text = text
        self.weights = weights
        self.include_links = include_links
        self.position = 0
        self.span: Span | None = None  # gathered text, not yet yielded
        self.is_link_text = True
        self.level = 0
        self.in_title = False
        self.in_link = False
        self.boilerplate_depth = 0
        self.missing_marks: set[str] = set()

    def gather_text(self, end: int) -> None:
        """Add the text before a tag to the current line."""
        text = self.text[self.position : end]
        bare = text.strip()
        if bare:
            start = self.position + text.index(bare[0])
            self.is_link_text = self.in_link and (self.span is None or self.is_link_text)
            self.span = (self.span[0] if self.span is not None else start, start + len(bare))
        self.position = end

    def flush_line(self) -> Iterator[HtmlPiece]:
        """Yield the current line as pieces, and start a new one."""
        if self.span is not None:
            kind = "title" if self.in_title else "link" if self.is_link_text else "text"
            is_long = self.span[1] - self.span[0] > self.weights.min_split_characters
            for span in find_sentences(self.text, *self.span) if is_long else (self.span,):
                yield HtmlPiece(span, kind, self.level, self.boilerplate_depth > 0)
        self.span = None

    def scan_markup(self, start: int) -> Iterator[HtmlPiece]:
        """Skip a tag or a comment; treat any other `<` as text."""
        if self.text.startswith("<!--", start):
            yield from self.flush_line()
            self.position = self._find_after("-->", start) or start + 4
            return
        tag = _TAG.match(self.text, start)
        if tag is None and self.text[start + 1 : start + 2] in {"!", "?"}:
            yield from self.flush_line()
            self.position = self._find_after(">", start) or start + 2
            return
        if tag is None:
            self.span = (self.span[0] if self.span is not None else start, start + 1)
            self.position = start + 1
            return
        name = tag[2].lower()
        is_far = self.span is not None and tag.end() - self.span[1] > self.weights.max_inline_markup
        if name not in _INLINE_TAGS or is_far:
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
                    for span in find_sentences(self.text, self.position, end)
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

    def _find_after(self, mark: str, start: int) -> int:
        """Return the offset after the next mark, or 0; a mark once missing is not searched for again."""
        end = self.text.find(mark, start) if mark not in self.missing_marks else -1
        if end < 0:
            self.missing_marks.add(mark)
        return end + len(mark) if end >= 0 else 0

    def _find_closing_tag(self, name: str) -> int | None:
        """Return the offset of the next closing tag of this name."""
        if name in self.missing_marks:
            return None
        match = re.compile(f"</{name}", re.IGNORECASE).search(self.text, self.position)
        if match is None:
            self.missing_marks.add(name)
            return None
        return match.start()
