"""Tables: the header, the rows that the question asks for, the rows that stand out, the first and the last.

A fact about a column is told by the row that carries it: the least and the greatest number, the value that hardly any
other row has, the cell that is empty where others are not. Rows stay as they are or are left out, and gaps count them.
"""

from collections.abc import Iterator, Sequence

from ..compressor import CompressedPassage, Task
from . import lines, table_parser
from .core import bm25, severity, terms
from .core.outliers import find_extremes, find_outliers
from .core.selection import Units, compress_units
from .table_parser import ParsedTable

OUTLIER_BONUS = 0.45  # an outlier, a rare value, an error, in units of the best row's score
EXTREME_BONUS = 0.2  # the least or the greatest of a column
NAMED_COLUMN_FACTOR = 2.0  # times as much where the question names the column
MAX_EMPTY_SHARE = 0.1  # share of a column's cells that may be empty for an empty one to be odd
EDGE_BONUS = 0.2  # one of the first rows, or the last
SHOWN_ROWS = 3  # rows that show what the table is like


class TableCompressor:
    """Compresses CSV, TSV, tables in boxes, Markdown tables, and aligned columns."""

    name = "table"

    def recognises(self, text: str) -> bool:
        """Recognise a header and rows that fit it."""
        return table_parser.is_table(text)

    def compress(self, task: Task) -> CompressedPassage | None:
        """Choose rows; each stands under its header."""
        found = table_parser.parse_table(task.text)
        if found is None:
            return None
        asked = bm25.parse_query(task.question)
        scores = lines.normalize_scores(bm25.score_spans(task.text, found.spans, asked))
        for at, grade in enumerate(severity.grade_lines(task.text, found.spans)):
            scores[at] += OUTLIER_BONUS if grade >= severity.ERROR else 0.0
        for at, worth in _score_remarkable_rows(found, asked):
            scores[at] += worth
        for at in {*found.rows[:SHOWN_ROWS], found.rows[-1]}:
            scores[at] += EDGE_BONUS
        rules = set(found.header_rules.values())
        sizes = [0 if at in rules else 1 for at in range(len(scores))]
        units = Units(
            task.text, found.spans, scores, "rows", sizes=sizes, parents=found.parents, partners=found.header_rules
        )
        units.ranking[:] = [at for at in units.ranking if scores[at] > 0]  # a row that nothing speaks for says nothing
        return compress_units(task, units)


def _score_remarkable_rows(found: ParsedTable, asked: bm25.Query) -> Iterator[tuple[int, float]]:
    """List what rows are worth for one of their cells, for each at most once."""
    worth: dict[int, float] = {}
    for name, cells in zip(found.names, found.columns, strict=True):
        weight = NAMED_COLUMN_FACTOR if _is_named(name, asked) else 1.0
        for at, value in [(at, OUTLIER_BONUS) for at in (*find_outliers(cells), *_find_empty_cells(cells))] + [
            (at, EXTREME_BONUS) for at in find_extremes(cells)
        ]:
            worth[at] = max(worth.get(at, 0.0), weight * value)
    for at, value in worth.items():
        yield found.rows[at], value


def _is_named(name: str, asked: bm25.Query) -> bool:
    return any(term in asked.weights for word in name.replace("_", " ").split() for term in terms.extract_terms(word))


def _find_empty_cells(cells: Sequence[str]) -> list[int]:
    many = cells.count("")
    return [at for at, cell in enumerate(cells) if not cell] if 0 < many <= MAX_EMPTY_SHARE * len(cells) else []
