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

_RULE_LINE = re.compile(r"[ \t]*(?=[^\n]{0,400}-{2})[|+][-=+:| \t]*$|[ \t]*-{2,}(?:[-+| \t:]*-)?[ \t]*$")
_COLUMN_NAME = re.compile(r"[^\W\d]|[#%]|$")
_NOT_COLUMN_NAME = re.compile(r"\d:\d\d|[{}=<>;]|\w\(")
_CAPITAL_HEADER = re.compile(r"[A-Z][A-Z0-9_%/()#:.-]*(?: [A-Z][A-Z0-9_%/()#:.-]*)*(?:\s{2,}|\t|$)")
_COLUMN_GAP = re.compile(r"\s{2,}|\t")

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


class _TableFormat(NamedTuple):
    """How lines fall into cells, and into how many; `separator` is a CSV's, and cells may be quoted then."""

    split_line: SplitFunction
    width: int
    separator: str


def is_table(text: str) -> bool:
    """Say whether the text is a table, judging by its beginning and its middle."""
    form = _detect_format(text[:SAMPLE_CHARACTERS])
    if form is None or len(text) <= 2 * SAMPLE_CHARACTERS:
        return form is not None
    middle = text[len(text) // 2 : len(text) // 2 + SAMPLE_CHARACTERS]
    return (
        _compute_row_share(_split_records(middle, form.separator)[1:-1], form.split_line, form.width) >= MIN_ROW_SHARE
    )


def parse_table(text: str) -> ParsedTable | None:
    """Find the rows and cells; None when the text is no table."""
    form = _detect_format(text[:SAMPLE_CHARACTERS])
    if form is None:
        return None
    spans = list(_iter_record_spans(text, form.separator))
    cells = _split_cells([text[start:end] for start, end in spans], form)
    drawn = set(_find_rule_lines(text, spans))
    heads, rules = _find_headers(cells, form.width, drawn)
    shown = [at for at in range(len(spans)) if at not in drawn or at - 1 in rules]
    place = {at: new for new, at in enumerate(shown)}
    rows = [at for at in shown if at not in drawn and heads[at] >= 0 and _is_full_row(cells, at, heads[at], form.width)]
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


def _is_full_row(cells: Sequence[Sequence[str]], row: int, head: int, width: int) -> bool:
    """Say whether a row has the table's cells, and its header as many: a rule can stand under something else."""
    return len(cells[row]) == width == len(cells[head])


def _find_rule_lines(text: str, spans: Sequence[Span]) -> Iterator[int]:
    """List the lines that only draw; every one of these has two dashes side by side."""
    starts = [start for start, _ in spans]
    at = text.find("--")
    while at >= 0:
        index = bisect_right(starts, at) - 1
        if index >= 0 and _RULE_LINE.match(text, *spans[index]):
            yield index
        at = text.find("--", max(at + 1, spans[index][1] if index >= 0 else 0))


def _detect_format(sample: str) -> _TableFormat | None:
    end = -1 if len(sample) >= SAMPLE_CHARACTERS else None  # the last line may be cut
    plain = _split_records(sample, "")[:end]
    quoted = _split_records(sample, ",")[:end] if '"' in sample else plain
    for separator in ("", "\t", ",", ";", "|"):
        lines = quoted if separator else plain
        if len(lines) <= MIN_ROWS or not any(separator in line for line in lines[:MAX_PREAMBLE_LINES]):
            continue
        for split in [_make_splitter(separator)] if separator else _list_undelimited_splits(lines):
            width = _find_width(lines, split)
            if width and _compute_row_share(lines, split, width) >= MIN_ROW_SHARE:
                return _TableFormat(split, width, separator)
    return None


def _list_undelimited_splits(lines: Sequence[str]) -> list[SplitFunction]:
    """Say how the lines may fall into cells when nothing but a drawing or blanks keep these apart."""
    if any(map(_RULE_LINE.match, lines[1 : MAX_PREAMBLE_LINES + 2])):
        return (
            [_split_boxed]
            if any("|" in line for line in lines[: MAX_PREAMBLE_LINES + 2])
            else [_split_aligned, str.split]
        )
    return [_split_aligned] if any(map(_CAPITAL_HEADER.match, lines[:MAX_PREAMBLE_LINES])) else []


def _split_boxed(line: str) -> list[str]:
    bare = line.strip()
    return bare[bare.startswith("|") : len(bare) - (len(bare) > 1 and bare.endswith("|"))].split("|")


def _split_aligned(line: str) -> list[str]:
    return _COLUMN_GAP.split(line.strip())


def _make_splitter(separator: str) -> SplitFunction:
    def quoted(line: str) -> list[str]:
        if '"' not in line:
            return line.split(separator)
        return next(_read_csv([line], separator), [line])

    return quoted


def _read_csv(lines: Sequence[str], separator: str) -> Iterator[list[str]]:
    try:
        yield from csv.reader(lines, delimiter=separator, skipinitialspace=True)
    except csv.Error:  # a cell beyond its limit; whoever asks sees that lines are missing
        return


def _find_width(lines: Sequence[str], split: SplitFunction) -> int:
    """Count the cells of the first line that reads like a header; 0 when none of the first does."""
    for line in lines[:MAX_PREAMBLE_LINES]:
        if _is_header([name.strip() for name in split(line)]):
            return len(split(line))
    return 0


def _is_header(names: Sequence[str]) -> bool:
    """Take what all differs, is short and looks like no value; only the first, above the rows' names, may be empty."""
    if len(names) < 2 or len(set(names)) < len(names) or not all(names[1:]):
        return False
    return all(
        len(name) <= MAX_NAME_CHARACTERS and _COLUMN_NAME.match(name) and not _NOT_COLUMN_NAME.search(name)
        for name in names
    )


def _compute_row_share(lines: Sequence[str], split: SplitFunction, width: int) -> float:
    fits = [len(split(line)) == width for line in lines if "--" not in line or not _RULE_LINE.match(line)]
    return sum(fits) / len(fits) if len(fits) > MIN_ROWS else 0.0


def _split_records(sample: str, separator: str) -> list[str]:
    return [sample[start:end] for start, end in _iter_record_spans(sample, separator)]


def _iter_record_spans(text: str, separator: str) -> Iterator[Span]:
    """List the lines that are not blank; where cells may be quoted, lines that a quoted line end parts are one."""
    lines = text.split("\n")
    if separator == "" or '"' not in text:
        yield from _iter_line_spans(lines)
        return
    at = index = 0
    while index < len(lines):
        line = lines[index]
        many, end = 1, at + len(line)
        if line.count('"') % 2:
            many = _count_record_lines(lines, index)
            end = at + sum(map(len, lines[index : index + many])) + many - 1
        if many > 1 or (line and not line.isspace()):
            yield at, end - (text[end - 1] == "\r")
        at, index = end + 1, index + many


def _iter_line_spans(lines: Sequence[str]) -> Iterator[Span]:
    at = 0
    for line in lines:
        end = at + len(line)
        if line and not line.isspace():
            yield at, end - (line[-1] == "\r")
        at = end + 1


def _count_record_lines(lines: Sequence[str], index: int) -> int:
    """Count the lines of the record that begins in this one, with a quote that it does not close; 1 if none does."""
    for after in range(index + 1, min(len(lines), index + MAX_RECORD_LINES)):
        if lines[after].count('"') % 2:
            return after - index + 1
    return 1


def _split_cells(lines: Sequence[str], form: _TableFormat) -> list[list[str]]:
    if form.separator:
        rows = list(_read_csv(lines, form.separator))
        if len(rows) == len(lines):
            return rows
    return [list(map(str.strip, form.split_line(line))) for line in lines]


def _find_headers(cells: Sequence[Sequence[str]], width: int, drawn: set[int]) -> tuple[list[int], dict[int, int]]:
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
