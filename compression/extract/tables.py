"""Compresses tables: the header, rows that match the question, rows with outliers, the first and the last rows.

Outliers are the least and the greatest number of a column, rare values, and rare empty cells. A row is kept verbatim or
left out whole, and gaps count the rows.
"""

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import log

from ..compressor import CompressedPassage, Task
from . import table_parser
from .core import answer_types, bm25, line_values, lines, severity, terms
from .core.outliers import find_extremes, find_outliers, is_quantity, rank_numbers
from .core.scoring import measure_frequencies, score_matches
from .core.selection import Units, compress_units
from .table_parser import ColumnBlock, ParsedTable, TableWeights

MAX_INNER_COLUMNS = 4  # of a column with several numbers in each cell
DEFAULT_TABLE_WEIGHTS = TableWeights()
EMPTY_CELLS = frozenset({"", "-", "--", "none", "<none>", "null", "nil", "n/a", "na", "nan", "unassigned", "unknown"})

_VALUE_WORD = re.compile(r"\w[\w.-]*\w|\w")
_ABSENCE = re.compile(
    r"\bun(\w{4,30})|\b(?:without|no|missing|empty|lacks?|lacking|blank)\s+(?:an?\s+)?(\w{2,30})", re.I
)


@dataclass(frozen=True)
class TableCompressor:
    """Compresses CSV, TSV, boxed tables, Markdown tables and aligned columns."""

    name = "table"
    weights: TableWeights = DEFAULT_TABLE_WEIGHTS

    def recognises(self, text: str) -> bool:
        """Return True for a header with rows of as many cells."""
        return table_parser.is_table(text, self.weights)

    def compress(self, task: Task) -> CompressedPassage | None:
        """Select rows, each with its header; leave out rows without a positive score."""
        text, weights = task.text, self.weights
        table = table_parser.parse_table(text, weights)
        if table is None:
            return None
        query = bm25.parse_query(task.question, weights)
        counts = bm25.count_terms(text, table.spans, query)
        scores = score_matches(table.spans, counts, query)
        for index, grade in enumerate(severity.grade_lines(text, table.spans)):
            scores[index] += weights.outlier_bonus if grade >= severity.ERROR else 0.0
        for row, bonus in self._iter_row_bonuses(text, table, task, query):
            scores[table.rows[row]] += bonus
        asked = {table.rows[row] for row in find_rows_with_value(table.columns, task.question, weights)}
        for index in asked:
            scores[index] += weights.value_bonus
        for index in {*table.rows[: weights.shown_rows], table.rows[-1]}:
            scores[index] += weights.edge_bonus
        rules = set(table.header_rules.values())
        headers = {table.parents[row] for row in table.rows}  # kept with each of their rows
        units = Units(
            text,
            table.spans,
            scores,
            "rows",
            weights,
            sizes=[int(index not in rules and index not in headers) for index in range(len(scores))],
            parents=table.parents,
            partners=table.header_rules,
            matches=[index if index in asked else frozenset(counts.get(index, ())) for index in range(len(scores))],
        )
        units.ranking[:] = sorted(set(range(len(scores))) - rules, key=lambda index: (-scores[index], index))
        return compress_units(task, units)

    def _iter_row_bonuses(
        self, text: str, table: ParsedTable, task: Task, query: bm25.Query
    ) -> Iterator[tuple[int, float]]:
        """Yield the rows that the question asks for or names, and those unlike most rows, with their bonus."""
        weights = self.weights
        yield from iter_asked_rows(table.names, table.columns, task.question, query, weights)
        yield from find_odd_rows(table.names, table.columns, query, weights).items()
        spans = [table.spans[index] for index in table.rows]
        yield from ((row, weights.named_bonus) for row in line_values.find_named_lines(text, spans, query))
        templates = lines.extract_templates(text, spans)
        frequencies = Counter(templates)
        if 2 * max(frequencies.values()) >= len(templates):
            yield from (
                (row, weights.outlier_bonus) for row, template in enumerate(templates) if frequencies[template] == 1
            )


def iter_row_bonuses(question: str, blocks: Sequence[ColumnBlock]) -> Iterator[tuple[int, float]]:
    """Yield the lines of rows of columns that the question asks for, or that are odd among many, with their bonus."""
    weights = DEFAULT_TABLE_WEIGHTS
    query = bm25.parse_query(question, weights)
    for _, rows, names, columns in blocks:
        yield from ((rows[row], bonus) for row, bonus in iter_asked_rows(names, columns, question, query, weights))
        yield from ((rows[row], weights.value_bonus) for row in find_rows_with_value(columns, question, weights))
        if len(rows) >= weights.min_rows:
            yield from ((rows[row], bonus) for row, bonus in find_odd_rows(names, columns, query, weights).items())


def iter_asked_rows(
    names: Sequence[str], columns: Sequence[Sequence[str]], question: str, query: bm25.Query, weights: TableWeights
) -> Iterator[tuple[int, float]]:
    """Yield the rows with the greatest, the least or the empty cells asked for, with their bonus."""
    bonus, count = weights.asked_bonus, weights.asked_rows
    for least in answer_types.list_directions(question):
        named_columns = list(_iter_inner_columns(names, columns))
        rankings = line_values.rank_asked_columns(named_columns, question, query, count, least=least)
        ranked = [rows for _, rows in rankings] or [rank_numbers(cells, 1, least=least) for cells in columns]
        if not least:  # the greatest expense of an account is its least number
            signed = [cells for cells in columns if any(cell.startswith("-") for cell in cells)]
            ranked += [rank_numbers(cells, 1, least=True) for cells in signed]
        for ranking in ranked:
            yield from ((row, bonus * (1 + 1 / (1 + rank))) for rank, row in enumerate(ranking))
    stems = [terms.stem((match[1] or match[2]).lower())[:5] for match in _ABSENCE.finditer(question)]
    asks_for_empty = answer_types.EMPTY.search(question) is not None
    for name, cells in zip(names, columns, strict=True):
        is_named = any(word.startswith(stem) for word in name.lower().replace("_", " ").split() for stem in stems)
        if is_named or asks_for_empty:
            empty = [row for row, cell in enumerate(cells) if cell.lower() in EMPTY_CELLS]
            yield from ((row, bonus) for row in empty if is_named or 2 * len(empty) <= len(cells))


def find_rows_with_value(columns: Sequence[Sequence[str]], question: str, weights: TableWeights) -> set[int]:
    """Return the rows with a cell that the question names and that several rows have, unless most rows have it.

    Behind "not", the rows with other cells in the column are asked for.
    """
    asked = answer_types.extract_last_question(question).lower()
    words = {word for word in _VALUE_WORD.findall(asked) if word not in bm25.STOP_WORDS}
    stems = {terms.stem(word) for word in words if word.isalpha()}
    negated = answer_types.list_negated_words(question)
    rows: set[int] = set()
    for cells in columns:
        frequencies = Counter(cells)
        if 2 * len(frequencies) > len(cells):
            continue
        limit = weights.max_value_share * len(cells)
        named = {value for value in frequencies if _is_asked_value(value.lower(), asked, words, stems)}
        others = {value for value in named if value.lower() in negated}
        members = [row for row, cell in enumerate(cells) if cell in named and 1 < frequencies[cell] <= limit]
        if others:
            members = [row for row, cell in enumerate(cells) if cell not in others]
        rows.update(members if len(members) <= limit else ())
    return rows


def _is_asked_value(value: str, asked: str, words: set[str], stems: set[str]) -> bool:
    if value in words or (len(value) >= terms.MIN_STEM_LENGTH and value.isalpha() and terms.stem(value) in stems):
        return True
    return " " in value and re.search(rf"(?<!\w){re.escape(value)}(?!\w)", asked) is not None


def find_odd_rows(
    names: Sequence[str], columns: Sequence[Sequence[str]], query: bm25.Query, weights: TableWeights
) -> dict[int, float]:
    """Return the rows with a remarkable cell, or a rare combination of cells, with their bonus."""
    bonuses: dict[int, float] = {}
    for name, cells in _iter_inner_columns(names, columns):
        factor = weights.named_column_factor if bm25.is_named(name, query) else 1.0
        outliers = (*find_outliers(cells, weights), *_find_empty_cells(cells, weights.max_empty_share))
        frequencies = measure_frequencies([cells[row] for row in outliers])
        scores = {row: weights.outlier_bonus / frequency for row, frequency in zip(outliers, frequencies, strict=True)}
        for row in find_extremes(cells, weights):
            scores[row] = max(scores.get(row, 0.0), weights.extreme_bonus)
        for row, score in scores.items():
            bonuses[row] = max(bonuses.get(row, 0.0), factor * score)
    for row, frequency in _find_kinds(columns, weights):
        bonus = weights.outlier_bonus / (1.0 + log(frequency)) if frequency else weights.kind_bonus
        bonuses[row] = max(bonuses.get(row, 0.0), bonus)
    return bonuses


def _iter_inner_columns(names: Sequence[str], columns: Sequence[Sequence[str]]) -> Iterator[tuple[str, Sequence[str]]]:
    """Yield the columns with their names; one with several numbers in each cell (`97.2%  120`) as several."""
    for name, cells in zip(names, columns, strict=True):
        width = len(cells[-1].split())
        rows = [cell.split() for cell in cells] if 1 < width <= MAX_INNER_COLUMNS else []
        if rows and all(map(is_quantity, rows[-1])) and all(len(row) == width for row in rows):
            parts = name.split() if len(name.split()) == width else [name] * width
            yield from zip(parts, zip(*rows, strict=True), strict=True)
        else:
            yield name, cells


def _find_kinds(columns: Sequence[Sequence[str]], weights: TableWeights) -> Iterator[tuple[int, int]]:
    """Yield the rows with a rare combination of common values, with its frequency; of others, the first row with 0."""
    total = len(columns[0])
    common = [cells for cells in columns if 1 < len(set(cells)) <= max(3, total // 10)]
    if total < weights.min_values or not common:
        return
    kinds = list(zip(*common, strict=True))
    counts = Counter(kinds)
    if len(counts) > weights.max_kinds:
        return
    first_rows = {kind: row for row, kind in reversed(list(enumerate(kinds)))}
    rare = {kind for kind, count in counts.items() if count <= max(1, total // 20)}
    yield from ((row, counts[kind]) for row, kind in enumerate(kinds) if kind in rare)
    yield from ((row, 0) for kind, row in first_rows.items() if kind not in rare)


def _find_empty_cells(cells: Sequence[str], max_share: float) -> list[int]:
    """Return the indices of empty cells, if they are rare."""
    count = cells.count("")
    return [row for row, cell in enumerate(cells) if not cell] if 0 < count <= max_share * len(cells) else []
