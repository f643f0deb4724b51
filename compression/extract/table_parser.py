"""Finds the rows and cells of a table in text: CSV and TSV with a header, boxes as databases print them, Markdown, and
columns kept apart by blanks.

Says where rows are and what their cells hold; not which rows matter. Only text that is a table and next to nothing else
is one; a line that fits no column stays a line of its own. Linear in the text, whatever it is.
"""

import csv
import re
from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

from .core.bm25 import Span

SAMPLE_CHARACTERS = 20_000  # characters looked at, at the beginning and in the middle
MIN_ROW_SHARE = 0.9  # of the lines looked at that must have as many cells as the header
MIN_ROWS = 8
MAX_PREAMBLE_LINES = 6  # lines that may stand before the header: a prompt, a tag, a title
MAX_NAME_CHARACTERS = 60
MAX_RECORD_LINES = 50  # lines of a record whose quoted cells have line ends in them

_RULE = re.compile(r"[ \t]*(?=[^\n]{0,400}-{2})[|+][-=+:| \t]*$|[ \t]*-{2,}(?:[-+| \t:]*-)?[ \t]*$")
_NAME = re.compile(r"[^\W\d]|[#%]|$")
_NO_NAME = re.compile(r"\d:\d\d|[{}=<>;]|\w\(")
_CAPITALS = re.compile(r"[A-Z][A-Z0-9_%/()#:.-]*(?: [A-Z][A-Z0-9_%/()#:.-]*)*(?:\s{2,}|\t|$)")
_COLUMN = re.compile(r"\s{2,}|\t")

SplitFunction = Callable[[str], Sequence[str]]


class ParsedTable(NamedTuple):
    """A table: all its lines (or records, in order), and which of them are rows.

    `heads[at]` is the header that line `at` stands under, or -1; `rules` has the line that draws a rule under a header;
    other lines that only draw are left out.
    `columns[c][r]` is the cell of row `rows[r]`, without the blanks around it, in the column called `names[c]`.
    """

    spans: list[Span]
    rows: list[int]
    parents: list[int]
    header_rules: dict[int, int]
    names: Sequence[str]
    columns: Sequence[Sequence[str]]


class _Form(NamedTuple):
    """How lines fall into cells, and into how many; `separator` is a CSV's, and cells may be quoted then."""

    split: SplitFunction
    width: int
    separator: str


def is_table(text: str) -> bool:
    """Say whether the text is a table, judging by its beginning and its middle."""
    form = _form(text[:SAMPLE_CHARACTERS])
    if form is None or len(text) <= 2 * SAMPLE_CHARACTERS:
        return form is not None
    middle = text[len(text) // 2 : len(text) // 2 + SAMPLE_CHARACTERS]
    return _share(_pieces(middle, form.separator)[1:-1], form.split, form.width) >= MIN_ROW_SHARE


def parse_table(text: str) -> ParsedTable | None:
    """Find the rows and cells; None when the text is no table."""
    form = _form(text[:SAMPLE_CHARACTERS])
    if form is None:
        return None
    spans = list(_records(text, form.separator))
    cells = _cells([text[start:end] for start, end in spans], form)
    drawn = set(_drawn(text, spans))
    heads, rules = _headers(cells, form.width, drawn)
    shown = [at for at in range(len(spans)) if at not in drawn or at - 1 in rules]
    place = {at: new for new, at in enumerate(shown)}
    rows = [at for at in shown if at not in drawn and heads[at] >= 0 and _fits(cells, at, heads[at], form.width)]
    if not rows:
        return None
    return ParsedTable(
        [spans[at] for at in shown],
        [place[at] for at in rows],
        [place.get(heads[at], -1) for at in shown],
        {place[head]: place[rule] for head, rule in rules.items()},
        cells[heads[rows[0]]],
        list(zip(*[cells[at] for at in rows], strict=True)),
    )


def _fits(cells: Sequence[Sequence[str]], row: int, head: int, width: int) -> bool:
    """Say whether a row has the table's cells, and its header as many: a rule can stand under something else."""
    return len(cells[row]) == width == len(cells[head])


def _drawn(text: str, spans: Sequence[Span]) -> Iterator[int]:
    """List the lines that only draw; every one of these has two dashes side by side."""
    starts = [start for start, _ in spans]
    at = text.find("--")
    while at >= 0:
        index = bisect_right(starts, at) - 1
        if index >= 0 and _RULE.match(text, *spans[index]):
            yield index
        at = text.find("--", max(at + 1, spans[index][1] if index >= 0 else 0))


def _form(sample: str) -> _Form | None:
    end = -1 if len(sample) >= SAMPLE_CHARACTERS else None  # the last line may be cut
    plain = _pieces(sample, "")[:end]
    quoted = _pieces(sample, ",")[:end] if '"' in sample else plain
    for separator in ("", "\t", ",", ";", "|"):
        lines = quoted if separator else plain
        if len(lines) <= MIN_ROWS or not any(separator in line for line in lines[:MAX_PREAMBLE_LINES]):
            continue
        for split in [_split(separator)] if separator else _undelimited(lines):
            width = _width(lines, split)
            if width and _share(lines, split, width) >= MIN_ROW_SHARE:
                return _Form(split, width, separator)
    return None


def _undelimited(lines: Sequence[str]) -> list[SplitFunction]:
    """Say how the lines may fall into cells when nothing but a drawing or blanks keep these apart."""
    if any(map(_RULE.match, lines[1 : MAX_PREAMBLE_LINES + 2])):
        return [_boxed] if any("|" in line for line in lines[: MAX_PREAMBLE_LINES + 2]) else [_aligned, str.split]
    return [_aligned] if any(map(_CAPITALS.match, lines[:MAX_PREAMBLE_LINES])) else []


def _boxed(line: str) -> list[str]:
    bare = line.strip()
    return bare[bare.startswith("|") : len(bare) - (len(bare) > 1 and bare.endswith("|"))].split("|")


def _aligned(line: str) -> list[str]:
    return _COLUMN.split(line.strip())


def _split(separator: str) -> SplitFunction:
    def quoted(line: str) -> list[str]:
        if '"' not in line:
            return line.split(separator)
        return next(_reader([line], separator), [line])

    return quoted


def _reader(lines: Sequence[str], separator: str) -> Iterator[list[str]]:
    try:
        yield from csv.reader(lines, delimiter=separator, skipinitialspace=True)
    except csv.Error:  # a cell beyond its limit; whoever asks sees that lines are missing
        return


def _width(lines: Sequence[str], split: SplitFunction) -> int:
    """Count the cells of the first line that reads like a header; 0 when none of the first does."""
    for line in lines[:MAX_PREAMBLE_LINES]:
        if _is_header([name.strip() for name in split(line)]):
            return len(split(line))
    return 0


def _is_header(names: Sequence[str]) -> bool:
    """Take what all differs, is short and looks like no value; only the first, above the rows' names, may be empty."""
    if len(names) < 2 or len(set(names)) < len(names) or not all(names[1:]):
        return False
    return all(len(name) <= MAX_NAME_CHARACTERS and _NAME.match(name) and not _NO_NAME.search(name) for name in names)


def _share(lines: Sequence[str], split: SplitFunction, width: int) -> float:
    fits = [len(split(line)) == width for line in lines if "--" not in line or not _RULE.match(line)]
    return sum(fits) / len(fits) if len(fits) > MIN_ROWS else 0.0


def _pieces(sample: str, separator: str) -> list[str]:
    return [sample[start:end] for start, end in _records(sample, separator)]


def _records(text: str, separator: str) -> Iterator[Span]:
    """List the lines that are not blank; where cells may be quoted, lines that a quoted line end parts are one."""
    lines = text.split("\n")
    if separator == "" or '"' not in text:
        yield from _lines(lines)
        return
    at = index = 0
    while index < len(lines):
        line = lines[index]
        many, end = 1, at + len(line)
        if line.count('"') % 2:
            many = _closing(lines, index)
            end = at + sum(map(len, lines[index : index + many])) + many - 1
        if many > 1 or (line and not line.isspace()):
            yield at, end - (text[end - 1] == "\r")
        at, index = end + 1, index + many


def _lines(lines: Sequence[str]) -> Iterator[Span]:
    at = 0
    for line in lines:
        end = at + len(line)
        if line and not line.isspace():
            yield at, end - (line[-1] == "\r")
        at = end + 1


def _closing(lines: Sequence[str], index: int) -> int:
    """Count the lines of the record that begins in this one, with a quote that it does not close; 1 if none does."""
    for after in range(index + 1, min(len(lines), index + MAX_RECORD_LINES)):
        if lines[after].count('"') % 2:
            return after - index + 1
    return 1


def _cells(lines: Sequence[str], form: _Form) -> list[list[str]]:
    if form.separator:
        rows = list(_reader(lines, form.separator))
        if len(rows) == len(lines):
            return rows
    return [list(map(str.strip, form.split(line))) for line in lines]


def _headers(cells: Sequence[Sequence[str]], width: int, drawn: set[int]) -> tuple[list[int], dict[int, int]]:
    """Say for each line which header it stands under, or -1; and which line draws the rule under each header."""
    heads = [-1] * len(cells)
    rules: dict[int, int] = {}
    current = -1
    for at, row in enumerate(cells):
        if at + 1 in drawn and at not in drawn and len(row) > 1:
            last_of_box = at > 0 and at - 1 not in drawn and len(cells[at - 1]) == len(row)
            if not last_of_box:
                current = at
                rules[at] = at + 1
        elif current < 0 and not drawn and len(row) == width and _is_header(row):
            current = at
        heads[at] = current if current != at else -1
    return heads, rules
