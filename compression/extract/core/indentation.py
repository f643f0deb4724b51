"""Measures the indentation of lines: blanks, tree characters, list markers, brackets, elements of XML, columns."""

import re
from collections.abc import Collection, Sequence

from . import lines
from .bm25 import Span

MAX_INDENT = 200  # of a line, in columns; deeper lines count as this deep
TAB_WIDTH = 8
MAX_EXAMINED_LINES = 5_000
MAX_PREFIX_LINES = 200
MIN_PREFIX_SHARE = 0.75
MIN_PREFIXED_LINES = 3
MAX_HEADER_LINES = 10  # before the rows of a list in columns
MIN_COLUMNS = 4
MIN_COLUMN_ROWS = 8
MIN_MARKED_SHARE = 0.9

_TREE_LEAD = re.compile(r"[ \t│├└─┬╷╵|\u00a0]*(?:[`+\\|](?:--|-) ?)?")
_BLANK_OPENINGS = frozenset(" \t")
_BLANKS = re.compile(r"[ \t]*")
_BLANK_LEAD = re.compile(r"[ \t]*(?:│[ \t]*)*")
_TREE_TEXT = re.compile(r"^[ │|\u00a0]*(?:[├└]─|[|`+\\]--)", re.MULTILINE)
_PREFIXES = (re.compile(r"[^\s:=]{2,40} [^\s:=]{2,40} "), re.compile(r"\S{2,40} "))
_BRACKETS = re.compile(r"[\[({]+(?=[\[({\"'])")
_CHANGE_OPENINGS = frozenset("+~<")
_SPECIAL_OPENINGS = frozenset("│├└─┬╷╵|`+\\\u00a0[({-") | _CHANGE_OPENINGS
_CHANGE_MARKER = re.compile(r"(?:-/\+|\+/-|<=|[-+~])[ \t]+")
_CHANGED_TEXT = re.compile(r"^[ \t]+[+~] \w", re.MULTILINE)
_TAG = re.compile(r"<(/?)[A-Za-z][\w:.-]{0,80}[^<>]{0,5000}?(/?)>")
_COLUMN_GAP = re.compile(r"\s{2,}|\t")
_VALUES = re.compile(r"[ \t]*[\d.,%+-]+(?:[ \t]+[\d.,%+-]+)+[ \t]*$")
_DIGIT = re.compile(r"\d")
_MARKS = re.compile(r"(?=[^ ]| [^ ])[ A-Z?!*+]{2} \S|## ")


def measure_indents(text: str, spans: Sequence[Span]) -> tuple[list[int], list[int]]:
    """Return the indentation of each line (two steps a column, one for a list marker) and the start of its content."""
    sample = text[:20_000]
    lead = _TREE_LEAD if _TREE_TEXT.search(sample) else _BLANK_LEAD
    special = _SPECIAL_OPENINGS if _CHANGED_TEXT.search(sample) else _SPECIAL_OPENINGS - _CHANGE_OPENINGS
    prefix = _find_shared_prefix(text, spans) if not text.startswith("<") else ""
    indents: list[int] = []
    starts: list[int] = []
    for start, end in spans:
        line_start = start + len(prefix) if prefix and text.startswith(prefix, start, end) else start
        content, is_item = line_start, False
        if text[line_start : line_start + 1] in _BLANK_OPENINGS:
            match = _BLANKS.match(text, line_start, end)
            content = match.end() if match is not None else line_start
        width = content - line_start
        if text[content : content + 1] in special:
            width, content, is_item = _measure_special_indent(text, (line_start, end), lead, special)
        elif width and "\t" in text[line_start:content]:
            width = len(text[line_start:content].expandtabs(TAB_WIDTH))
        indents.append(min(2 * width + is_item, 2 * MAX_INDENT))
        starts.append(content)
    return indents, starts


def _measure_special_indent(
    text: str, span: Span, lead: re.Pattern[str], special: frozenset[str]
) -> tuple[int, int, bool]:
    """Return the columns before the content of a line, its start, and whether it is an item of a list.

    Characters of a tree and the markers of changes count as blanks, and so do the brackets before the first record:
    `[{"id": 1,` is above the same lines as ` {"id": 2,`.
    """
    start, end = span
    match = lead.match(text, start, end)
    content = match.end() if match is not None else start
    width = len(text[start:content].expandtabs(TAB_WIDTH))
    marker = _CHANGE_MARKER.match(text, content, end) if "+" in special else None
    for mark in (marker, _BRACKETS.match(text, marker.end() if marker is not None else content, end)):
        if mark is not None and not text.endswith("]]", start, end):  # `[[package]]` opens a record
            width, content = width + len(mark[0]), mark.end()
    return width, content, marker is None and text.startswith("- ", content, end)


def indent_elements(text: str, spans: Sequence[Span], starts: Sequence[int], indents: list[int]) -> None:
    """Put, in place, the text of an XML element below its tag, and, if a line has several, elements below others."""
    has_pieces = lines.has_pieces(text, spans)
    tag_indent = depth = 0
    for index, start in enumerate(starts):
        is_tag = text[start : start + 1] == "<"
        is_end = text.startswith("</", start)
        if has_pieces:
            indents[index] = 2 * min(MAX_INDENT, depth - is_end if is_tag else depth)
            for tag in _TAG.finditer(text, *spans[index]):
                depth = max(0, depth + (0 if tag[2] else -1 if tag[1] else 1))
        elif is_tag:
            tag_indent = indents[index]
        elif index:
            indents[index] = tag_indent + 1


def indent_columns(text: str, spans: Sequence[Span], indents: list[int], openers: Collection[int]) -> None:
    """Put, in place, the rows of a list in columns below its header, and a line that continues a row below the row.

    Also puts a line of numbers below the words above it, which name them.
    """
    for index in range(1, len(spans)):
        start, end = spans[index]
        if text[end - 1] in "0123456789% " and _VALUES.match(text, start, end):
            above = spans[index - 1]
            if indents[index] <= indents[index - 1] + 2 and not _DIGIT.search(text, *above):
                indents[index] = indents[index - 1] + 1
    header = next((index for index, span in enumerate(spans[:MAX_HEADER_LINES]) if _count_names(text, span)), -1)
    if header < 0:
        return
    width = _count_names(text, spans[header])
    below = range(header + 1, len(spans))
    cells = [len(_COLUMN_GAP.split(text[slice(*spans[index])].strip(), width)) for index in below]
    rows = sum(count >= width - 1 for count in cells)
    continued = sum(count == 1 for count in cells)
    if any(count == 1 and index in openers for index, count in zip(below, cells, strict=True)):
        return  # the line above the header opens a section, and so do others
    if cells and cells[0] > 1 and rows >= MIN_COLUMN_ROWS and continued and rows + continued == len(cells):
        for index, count in zip(below, cells, strict=True):
            indents[index] = indents[header] + (2 if count == 1 else 1)


def _count_names(text: str, span: Span) -> int:
    """Return the number of column names of a header; 0 for other lines."""
    names = _COLUMN_GAP.split(text[slice(*span)].strip())
    return len(names) if len(names) >= MIN_COLUMNS and all(name[:1].isalpha() for name in names) else 0


def _find_shared_prefix(text: str, spans: Sequence[Span]) -> str:
    """Return the first words of nearly all lines, such as `npm error `, or an empty string."""
    sample = spans[:MAX_PREFIX_LINES]
    middle = sample[len(sample) // 2] if sample else (0, 0)
    for pattern in _PREFIXES:
        match = pattern.match(text, *middle)
        count = sum(text.startswith(match[0], start, end) for start, end in sample) if match is not None else 0
        if match is not None and count >= MIN_PREFIX_SHARE * len(sample) and len(sample) >= MIN_PREFIXED_LINES:
            return match[0]
    return ""


def are_marks_aligned(text: str, spans: Sequence[Span]) -> bool:
    """Return True if nearly all lines begin with marks in two columns, as in `git status --porcelain`."""
    sample = spans[:MAX_EXAMINED_LINES]
    return sum(_MARKS.match(text, *span) is not None for span in sample) >= MIN_MARKED_SHARE * len(sample)


def are_numbers_aligned(text: str, starts: Sequence[int], indents: Sequence[int]) -> bool:
    """Return True if the indentation is that of right-aligned numbers, as in `wc` and `du`."""
    indented = [start for start, indent in zip(starts, indents[:MAX_EXAMINED_LINES], strict=False) if indent]
    numbers = sum(text[start : start + 1].isdigit() for start in indented)
    return numbers > 0 and 2 * numbers > len(indented)
