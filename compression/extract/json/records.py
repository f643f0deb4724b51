"""Like objects of a JSON tree, read as a table: which columns they have, and what stands in them.

A table knows where its cells are and what literal each is; it does not say which rows are worth keeping, nor how they
are written. No key is ever lost and no value leaves its order: objects in which a key stands twice, or whose keys stand
in different orders, are no table.
"""

from collections.abc import Sequence
from typing import NamedTuple, TypeVar

from .tree import WIDE_CHARACTERS, JsonNode, list_literals, minify, parse_items

MIN_ROWS = 2
MIN_FILLED_SHARE = 0.6  # share of a table's cells that must be filled
MAX_COLUMNS = 200

ColumnPath = tuple[str, ...]
T = TypeVar("T")


class RecordRow(NamedTuple):
    """One object: the paths of its cells, and for each the literal and, of a wide row, the node."""

    paths: tuple[ColumnPath, ...]
    cells: list[str]
    nodes: list[JsonNode]


class RecordTable(NamedTuple):
    """Like objects: the paths of all columns in order, and for each the literals of all rows, "" where a row has none.

    `narrow` says that rows are short enough to be kept or left out as a whole; `nodes` has the cells of all rows where
    they are not, and is empty where they are. `shared` has the literals of columns that have just one.
    """

    columns: list[ColumnPath]
    cells: list[Sequence[str]]
    nodes: list[Sequence[JsonNode | None]]
    is_narrow: bool
    shared_values: dict[ColumnPath, str]


def find_tables(text: str, root: JsonNode) -> dict[JsonNode, RecordTable]:
    """Find all tables of a tree; inside a narrow one, whose rows are never cut up, none is looked for."""
    found: dict[JsonNode, RecordTable] = {}
    stack = [root]
    while stack:
        node = stack.pop()
        table = _read_table(text, node)
        if table is not None:
            found[node] = table
        if table is None or not table.is_narrow:
            stack.extend([item for item in node.items if item.items])
    return found


def _read_table(text: str, node: JsonNode) -> RecordTable | None:
    """Read an array of like objects, or an object of like objects, as a table."""
    items = node.items
    if len(items) < MIN_ROWS + (node.keys is not None) or text[items[0].start] != "{":
        return None
    if any(text[item.start] != "{" for item in items) or not _has_distinct_keys(node.keys):
        return None
    narrow = node.end - node.start <= WIDE_CHARACTERS * len(items)
    table = _read_regular_table(node) if narrow else None
    if table is not None:
        return table
    reader = _RecordReader(text, is_narrow=narrow)
    rows: list[RecordRow] = []
    for item in items:
        row = reader.read_row(item)
        if row is None:
            return None
        rows.append(row)
    return _build_table(rows, reader.columns, narrow=narrow)


def _read_regular_table(node: JsonNode) -> RecordTable | None:
    """Read rows that all have the same keys and no containers: all at once, which is much quicker than one by one."""
    words = node.object_tokens
    if words is None:
        return None
    step = len(words) // len(node.items)
    keys = words[1 : step - 1 : 2]
    alike = all(words[2 * at + 1 :: step].count(key) == len(node.items) for at, key in enumerate(keys))
    if not alike or not _has_distinct_keys(keys) or len(keys) > MAX_COLUMNS:
        return None
    node.object_tokens = None  # of no use any more
    columns: list[ColumnPath] = [(key,) for key in keys]
    cells = [words[at::step] for at in range(2, step, 2)]
    return RecordTable(columns, [*cells], [], is_narrow=True, shared_values=_find_shared_values(columns, cells))


def _build_table(rows: Sequence[RecordRow], columns: Sequence[ColumnPath], *, narrow: bool) -> RecordTable | None:
    """Turn rows into columns; None where many cells would be empty."""
    if sum([len(row.cells) for row in rows]) < MIN_FILLED_SHARE * len(columns) * len(rows):
        return None
    cells = _transpose_rows(columns, [(row.paths, row.cells) for row in rows], "")
    nodes = [] if narrow else _transpose_rows(columns, [(row.paths, row.nodes) for row in rows], None)
    return RecordTable([*columns], cells, nodes, narrow, _find_shared_values(columns, cells))


def _transpose_rows(
    columns: Sequence[ColumnPath], rows: Sequence[tuple[tuple[ColumnPath, ...], Sequence[T]]], nothing: T
) -> list[Sequence[T]]:
    alike = rows[0][0]
    if all(paths is alike for paths, _ in rows):
        return list(zip(*[values for _, values in rows], strict=True))
    places = {path: index for index, path in enumerate(columns)}
    found: list[list[T]] = [[nothing] * len(rows) for _ in columns]
    for at, (paths, values) in enumerate(rows):
        for path, value in zip(paths, values, strict=True):
            found[places[path]][at] = value
    return [*found]


def _find_shared_values(columns: Sequence[ColumnPath], cells: Sequence[Sequence[str]]) -> dict[ColumnPath, str]:
    """Find the columns that hold one and the same literal in all rows; one column is always left for the rows."""
    shared = {
        path: column[0]
        for path, column in zip(columns, cells, strict=True)
        if column[0] and column[0] == column[-1] and column.count(column[0]) == len(column)
    }
    others = [column for path, column in zip(columns, cells, strict=True) if path not in shared]
    if shared and not (others and all(map(any, zip(*others, strict=True)))):
        shared.popitem()  # a row of nothing would be a blank line
    return shared


def _has_distinct_keys(keys: Sequence[object] | None) -> bool:
    return keys is None or len(set(keys)) == len(keys)


class _RecordReader:
    """Reads objects one by one; those with the same keys share one tuple of paths."""

    def __init__(self, text: str, *, is_narrow: bool) -> None:
        self.text = text
        self.is_narrow = is_narrow
        self.columns: list[ColumnPath] = []
        self._paths_by_keys: dict[tuple[str | ColumnPath, ...], tuple[ColumnPath, ...]] = {}

    def read_row(self, item: JsonNode) -> RecordRow | None:
        """Read one object; None when it is empty or fits no table."""
        if item.is_unparsed and self.is_narrow:
            words = list_literals(self.text, item)
            paths = self._resolve_paths(tuple(words[::2]))
            return RecordRow(paths, words[1::2], []) if paths else None
        found: list[tuple[ColumnPath, JsonNode]] = []
        if not self._flatten_object(item, (), found):
            return None
        paths = self._resolve_paths(tuple([path for path, _ in found]))
        if not paths:
            return None
        return RecordRow(paths, [_write_cell(self.text, cell) for _, cell in found], [cell for _, cell in found])

    def _resolve_paths(self, keys: tuple[str | ColumnPath, ...]) -> tuple[ColumnPath, ...]:
        """Return the paths of the columns with these keys; none when a key stands twice or columns are too many."""
        paths = self._paths_by_keys.get(keys)
        if paths is None:
            paths = tuple([(key,) if isinstance(key, str) else key for key in keys]) if _has_distinct_keys(keys) else ()
            self._paths_by_keys[keys] = paths = paths if self._add_columns(paths) else ()
        return paths

    def _add_columns(self, paths: Sequence[ColumnPath]) -> bool:
        """Add what is new to the columns, each behind the one that it stands behind here; false when orders differ."""
        if len(paths) > MAX_COLUMNS:
            return False
        at = 0
        for path in paths:
            if path not in self.columns:
                self.columns.insert(at, path)
            elif self.columns.index(path) < at:
                return False  # values would not stand in their order
            at = self.columns.index(path) + 1
        return len(self.columns) <= MAX_COLUMNS

    def _flatten_object(self, node: JsonNode, above: ColumnPath, found: list[tuple[ColumnPath, JsonNode]]) -> bool:
        """Gather the cells under an object; false when it is none, or a key stands twice in it."""
        items = parse_items(self.text, node)
        if node.keys is None or not _has_distinct_keys(node.keys):
            return False
        for key, item in zip(node.keys, items, strict=True):
            if self.text[item.start] != "{" or not (item.is_unparsed or item.items):
                found.append(((*above, key), item))
            elif not self._flatten_object(item, (*above, key), found):
                return False
        return True


def _write_cell(text: str, node: JsonNode) -> str:
    return minify(text, node.start, node.end) if text[node.start] in "{[" else text[node.start : node.end]
