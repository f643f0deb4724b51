"""Parses tables in text: CSV and TSV with a header, boxes as databases print them, Markdown, and aligned columns.

Accepts only text that is a table and little else; a line without the table's columns stays a line of its own. The time
is linear in the text.
"""

import csv
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

from .core import severity
from .core.base_weights import weight
from .core.bm25 import Span
from .core.outliers import OutlierWeights

MAX_NAME_CHARACTERS = 60
MIN_WORD_COLUMNS = 4  # separated by single blanks
MIN_BLOCK_ROWS = 4  # of columns inside another text
MAX_RECORD_LINES = 50  # of a record with line ends in quoted cells

_RULE_LINE = re.compile(
    r"[ \t]*(?=[^\n]{0,400}(?:-{2}|={3}))[|+][-=+:| \t]*$|[ \t]*-{2,}(?:[-+| \t:]*-)?[ \t]*$|"
    r"[ \t]*={3,}(?: +={3,})+[ \t]*$"
)
_COLUMN_NAME = re.compile(r"[^\W\d]|[#%]|\d+[KMG]|\|\|/|$")  # dpkg's state has bars above it
_RULE_SEGMENT = re.compile(r"={2,}|-{2,}|\+{2,}")
_NOT_COLUMN_NAME = re.compile(r"\d:\d\d|[{}=<>;]|\w\((?![a-z%/]{1,12}\)$)")  # `MEMORY(bytes)` is one
_CAPITAL_HEADER = re.compile(r"[A-Z][A-Z0-9_%/()#:.-]*(?: [A-Z][A-Z0-9_%/()#:.-]*)*(?:\s{2,}|\t|$)")
_WORD_NAME = re.compile(r"[A-Z%#\d][\w%#+/().:-]*$")
_NUMBERS = re.compile(r"[-\d.,:%+kKMGTiB ]+")
_BLOCK_HEADER = re.compile(r"[ \t]*[A-Za-z%#][\w%#+/().:<>-]*+(?:[ \t]+[A-Za-z%#][\w%#+/().:<>-]*+){2,29}\s*$")
_COLUMN_GAP = re.compile(r"\s{2,}|\t")

SplitFunction = Callable[[str], Sequence[str]]


@dataclass(frozen=True, slots=True)
class TableWeights(OutlierWeights):
    """Weights of tables."""

    min_row_share: float = weight(0.9, "sampled lines with as many cells as the header", "share of lines")
    min_rows: int = weight(8, "rows of a table", "rows")
    max_preamble_lines: int = weight(6, "lines before the header, such as a prompt or a title", "lines")
    min_score: float = weight(0.15, "a row worth its tokens; times the root of its rank among those with its matches")
    outlier_bonus: float = weight(0.45, "a row with an outlier, an empty cell or an error")
    extreme_bonus: float = weight(0.2, "a row with the least or the greatest number of a column")
    named_column_factor: float = weight(2.0, "these bonuses in a column named in the question", "factor")
    max_empty_share: float = weight(0.1, "empty cells of a column that are outliers, at most", "share of cells")
    edge_bonus: float = weight(0.2, "one of the first rows, or the last")
    asked_bonus: float = weight(1.0, "a row with the greatest, the least or the empty cell asked for")
    named_bonus: float = weight(1.0, "one of a few rows with a cell that the question names")
    value_bonus: float = weight(0.6, "a row with a value that the question names and several rows have")
    max_value_share: float = weight(0.5, "rows with such a value, at most", "share of rows")
    kind_bonus: float = weight(0.36, "the first row with a combination of common values")
    max_kinds: int = weight(12, "shown combinations of values, with their first row, at most", "combinations")
    asked_rows: int = weight(5, "greatest or least rows with this bonus", "rows")
    shown_rows: int = weight(3, "first rows with this bonus", "rows")


class ParsedTable(NamedTuple):
    """A table: all its lines (or records, in order), and the indices of its rows.

    `parents[i]` is the index of the header above line `i`, or -1. `header_rules` maps a header to the rule below it;
    other rules are left out. `columns[c][r]` is the stripped cell of row `rows[r]` in the column `names[c]`.
    """

    spans: list[Span]
    rows: list[int]
    parents: list[int]
    header_rules: dict[int, int]
    names: Sequence[str]
    columns: Sequence[Sequence[str]]


class ColumnBlock(NamedTuple):
    """Columns inside another text: the lines of the header and of the rows, names, and stripped cells by column."""

    header: int
    rows: list[int]
    names: Sequence[str]
    columns: Sequence[Sequence[str]]


class _TableFormat(NamedTuple):
    """The function that splits a line into cells, the number of cells, and the separator ("" unless it is a CSV)."""

    split_line: SplitFunction
    width: int
    separator: str


def is_table(text: str, weights: TableWeights) -> bool:
    """Return True if the start and the middle of the text are a table."""
    size = weights.sample_characters
    table_format = _detect_format(text[:size], weights)
    if table_format is None or len(text) <= 2 * size:
        return table_format is not None
    middle = _split_records(text[len(text) // 2 : len(text) // 2 + size], table_format.separator)[1:-1]
    share = _compute_row_share(middle, table_format.split_line, table_format.width, weights)
    return share >= weights.min_row_share


def parse_table(text: str, weights: TableWeights) -> ParsedTable | None:
    """Parse the rows and cells of a table; return None if the text is not a table."""
    table_format = _detect_format(text[: weights.sample_characters], weights)
    if table_format is None:
        return None
    spans = list(_iter_record_spans(text, table_format.separator))
    cells = _split_cells([text[start:end] for start, end in spans], table_format)
    candidates = severity.find_lines_with_words(text, ("--", "==="), spans)
    rules = {index for index in candidates if _RULE_LINE.match(text, *spans[index])}
    headers, header_rules = _find_headers(cells, table_format.width, rules)
    shown = [line for line in range(len(spans)) if line not in rules or line - 1 in header_rules]
    indices = {line: index for index, line in enumerate(shown)}
    rows = [
        line
        for line in shown
        if line not in rules
        and headers[line] >= 0
        and len(cells[line]) == table_format.width == len(cells[headers[line]])  # a rule may be below another line
    ]
    if not rows:
        return None
    return ParsedTable(
        [spans[line] for line in shown],
        [indices[line] for line in rows],
        [indices.get(headers[line], -1) for line in shown],
        {indices[header]: indices[rule] for header, rule in header_rules.items()},
        cells[headers[rows[0]]],
        list(zip(*[cells[line] for line in rows], strict=True)),
    )


def find_blocks(text: str, spans: Sequence[Span]) -> Iterator[ColumnBlock]:
    """Yield the columns inside a text, such as the devices below the processor in `iostat`."""
    index = 0
    while index < len(spans) - MIN_BLOCK_ROWS:
        block = _read_block(text, spans, index)
        if block is not None:
            yield block
        index = block.rows[-1] + 1 if block is not None else index + 1


def _read_block(text: str, spans: Sequence[Span], header: int) -> ColumnBlock | None:
    """Read the columns below a line of names, until the first line with another number of cells."""
    if not _BLOCK_HEADER.match(text, *spans[header]):
        return None
    line = text[slice(*spans[header])]
    first = header + 1 + (_RULE_LINE.match(text, *spans[header + 1]) is not None)
    for split_line, least in ((_split_aligned, 3), (_make_word_splitter(len(line.split())), MIN_WORD_COLUMNS)):
        names = split_line(line)
        if not least <= len(names) == len(set(names)):
            continue
        rows: list[Sequence[str]] = []
        for index in range(first, len(spans)):
            cells = split_line(text[slice(*spans[index])])
            is_text = len(rows) == MIN_BLOCK_ROWS and split_line is not _split_aligned and not _has_numbers(rows)
            if len(cells) != len(names) or is_text:
                break
            rows.append(cells)
        if len(rows) >= MIN_BLOCK_ROWS and (split_line is _split_aligned or _has_numbers(rows[:MIN_BLOCK_ROWS])):
            return ColumnBlock(header, list(range(first, first + len(rows))), names, list(zip(*rows, strict=True)))
    return None


def _has_numbers(rows: Sequence[Sequence[str]]) -> bool:
    """Return True if a column other than the last one has only numbers."""
    return any(_NUMBERS.fullmatch(" ".join(column)) is not None for column in list(zip(*rows, strict=True))[:-1])


def _detect_format(sample: str, weights: TableWeights) -> _TableFormat | None:
    end = -1 if len(sample) >= weights.sample_characters else None  # the last line may be incomplete
    plain_lines = _split_records(sample, "")[:end]
    quoted_lines = _split_records(sample, ",")[:end] if '"' in sample else plain_lines
    preamble = weights.max_preamble_lines
    has_tabs = bool(plain_lines) and all("\t" in line for line in plain_lines)
    for separator in ("\t", "", ",", ";", "|") if has_tabs else ("", "\t", ",", ";", "|"):
        lines = quoted_lines if separator else plain_lines
        if len(lines) <= weights.min_rows or not any(separator in line for line in lines[:preamble]):
            continue
        for split_line in [_make_splitter(separator)] if separator else _list_undelimited_splits(lines, preamble):
            width = _find_width(lines[:preamble], split_line)
            if (
                width
                and not _are_first_cells_empty(lines, split_line)
                and not _is_header_repeated(lines, split_line, preamble)
                and _compute_row_share(lines, split_line, width, weights) >= weights.min_row_share
            ):
                return _TableFormat(split_line, width, separator)
    return None


def _are_first_cells_empty(lines: Sequence[str], split_line: SplitFunction) -> bool:
    """Return True if most lines begin with an empty cell: they are indented with tabs, and no rows."""
    return 2 * sum(not split_line(line)[0].strip() for line in lines) > len(lines)


def _is_header_repeated(lines: Sequence[str], split_line: SplitFunction, preamble: int) -> bool:
    """Return True if other lines begin with the first name of the header, too: it is no name of a column."""
    header = next((line for line in lines[:preamble] if _is_header([name.strip() for name in split_line(line)])), "")
    name = split_line(header)[0].strip()
    return name != "" and any(line != header and split_line(line)[0].strip() == name for line in lines)


def _list_undelimited_splits(lines: Sequence[str], preamble: int) -> list[SplitFunction]:
    """Return the candidate splitters for a table with cells aligned by boxes or blanks."""
    rule = next((index for index in range(1, preamble + 2) if _RULE_LINE.match(lines[index])), 0)
    if rule:
        if any("|" in line for line in lines[rule + 1 : rule + 3]):
            return [_split_boxed]
        starts = [match.start() for match in _RULE_SEGMENT.finditer(lines[rule])]
        return [_make_fixed_splitter(starts), _split_aligned, str.split] if len(starts) > 1 else [_split_aligned]
    is_aligned = len(_split_aligned(lines[0])) >= MIN_WORD_COLUMNS or any(map(_CAPITAL_HEADER.match, lines[:preamble]))
    splits: list[SplitFunction] = [_split_aligned] if is_aligned else []
    return [*splits, *_list_word_splits(lines, preamble)]


def _list_word_splits(lines: Sequence[str], preamble: int) -> Iterator[SplitFunction]:
    """Yield a splitter for each header of single words above rows with a column of numbers, as `ps` and `df` print."""
    for index, line in enumerate(lines[:preamble]):
        names = line.replace("Mounted on", "Mounted-on").split()
        if len(names) >= MIN_WORD_COLUMNS and all(map(_WORD_NAME.match, names)):
            split_line = _make_word_splitter(len(names))
            rows = [split_line(row) for row in lines[index + 1 :]]
            columns = zip(*[row[:-1] for row in rows if len(row) == len(names)], strict=True)
            if any(_NUMBERS.fullmatch(" ".join(column)) for column in columns):
                yield split_line


def _make_word_splitter(width: int) -> SplitFunction:
    return lambda line: line.replace("Mounted on", "Mounted-on").split(None, width - 1)


def _make_fixed_splitter(starts: Sequence[int]) -> SplitFunction:
    """Return a function that splits a line at these offsets; a line with a word across one of them is one cell."""
    bounds = list(pairwise([*starts, None]))

    def split_line(line: str) -> list[str]:
        if any(line[start - 1 : start + 1].strip(" ") not in (line[start : start + 1], "") for start in starts[1:]):
            return [line]
        return [line[start:end].strip() for start, end in bounds]

    return split_line


def _split_boxed(line: str) -> list[str]:
    bare = line.strip()
    return bare[bare.startswith("|") : len(bare) - (len(bare) > 1 and bare.endswith("|"))].split("|")


def _split_aligned(line: str) -> list[str]:
    return _COLUMN_GAP.split(line.strip())


def _make_splitter(separator: str) -> SplitFunction:
    def split_line(line: str) -> list[str]:
        if '"' not in line:
            return line.split(separator)
        return next(_read_csv([line], separator), [line])

    return split_line


def _read_csv(lines: Sequence[str], separator: str) -> Iterator[list[str]]:
    try:
        yield from csv.reader(lines, delimiter=separator, skipinitialspace=True)
    except csv.Error:  # a cell beyond the limit of the module; callers notice the missing rows
        return


def _find_width(lines: Sequence[str], split_line: SplitFunction) -> int:
    """Return the number of cells of the first header; 0 without a header."""
    for line in lines:
        if _is_header([name.strip() for name in split_line(line)]):
            return len(split_line(line))
    return 0


def _is_header(names: Sequence[str]) -> bool:
    """Return True for distinct, short names that are no values; only the first, above the row names, may be empty."""
    if len(names) < 2 or len(set(names)) < len(names) or not all(names[1:]):
        return False
    return all(
        len(name) <= MAX_NAME_CHARACTERS and _COLUMN_NAME.match(name) and not _NOT_COLUMN_NAME.search(name)
        for name in names
    )


def _compute_row_share(lines: Sequence[str], split_line: SplitFunction, width: int, weights: TableWeights) -> float:
    matches = [len(split_line(line)) == width for line in lines if not _RULE_LINE.match(line)]
    return sum(matches) / len(matches) if len(matches) > weights.min_rows else 0.0


def _split_records(sample: str, separator: str) -> list[str]:
    return [sample[start:end] for start, end in _iter_record_spans(sample, separator)]


def _iter_record_spans(text: str, separator: str) -> Iterator[Span]:
    """Yield the non-blank lines; in a CSV, a line end in a quoted cell does not end the record."""
    lines = text.split("\n")
    if separator == "" or '"' not in text:
        yield from _iter_line_spans(lines)
        return
    start = index = 0
    while index < len(lines):
        line = lines[index]
        line_count, end = 1, start + len(line)
        if line.count('"') % 2:
            line_count = _count_record_lines(lines, index)
            end = start + sum(map(len, lines[index : index + line_count])) + line_count - 1
        if line_count > 1 or (line and not line.isspace()):
            yield start, end - (text[end - 1] == "\r")
        start, index = end + 1, index + line_count


def _iter_line_spans(lines: Sequence[str]) -> Iterator[Span]:
    start = 0
    for line in lines:
        end = start + len(line)
        if line and not line.isspace():
            yield start, end - (line[-1] == "\r")
        start = end + 1


def _count_record_lines(lines: Sequence[str], index: int) -> int:
    """Return the number of lines of a record with an open quote in its first line; 1 if no line closes it."""
    for after in range(index + 1, min(len(lines), index + MAX_RECORD_LINES)):
        if lines[after].count('"') % 2:
            return after - index + 1
    return 1


def _split_cells(lines: Sequence[str], table_format: _TableFormat) -> list[list[str]]:
    if table_format.separator:
        rows = list(_read_csv(lines, table_format.separator))
        if len(rows) == len(lines):
            return rows
    return [list(map(str.strip, table_format.split_line(line))) for line in lines]


def _find_headers(cells: Sequence[Sequence[str]], width: int, rules: set[int]) -> tuple[list[int], dict[int, int]]:
    """Return the header of each line, or -1, and the rule below each header."""
    headers = [-1] * len(cells)
    header_rules: dict[int, int] = {}
    header = -1
    for line, row in enumerate(cells):
        if line + 1 in rules and line not in rules and len(row) > 1:
            ends_box = line > 0 and line - 1 not in rules and len(cells[line - 1]) == len(row)
            if not ends_box:
                header = line
                header_rules[line] = line + 1
        elif header < 0 and not rules and len(row) == width and _is_header(row):
            header = line
        headers[line] = header if header != line else -1
    return headers, header_rules
