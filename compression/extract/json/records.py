"""Reads similar objects of a JSON tree as tables of columns and cells.

No key is lost, and values keep their order: objects with a duplicate key, or with keys in different orders, are not a
table.
"""

from collections import defaultdict
from collections.abc import Sequence
from typing import NamedTuple, TypeVar

from .tree import WIDE_CHARACTERS, JsonNode, list_literals, minify, parse_items

MIN_ROWS = 2
MIN_FILLED_SHARE = 0.6  # of the cells of a table
MAX_NESTED_SHARE = 0.5  # of a table's characters in arrays of objects, which are better tables of their own
MAX_COLUMNS = 200

ColumnPath = tuple[str, ...]
T = TypeVar("T")


class RecordRow(NamedTuple):
    """One object: the paths of its cells, their literals and, of a wide row, their nodes."""

    paths: tuple[ColumnPath, ...]
    cells: list[str]
    nodes: list[JsonNode]


class RecordTable(NamedTuple):
    """Similar objects: the paths of all columns in order, and the literals of each column ("" for a missing cell).

    The rows of a narrow table are short, and are kept or left out whole. `nodes` are the cells of a wide table, and
    empty for a narrow one. `shared_values` are the literals of columns with only one value, written once in the header.
    """

    columns: list[ColumnPath]
    cells: list[Sequence[str]]
    nodes: list[Sequence[JsonNode | None]]
    is_narrow: bool
    shared_values: dict[ColumnPath, str]

    def list_written_columns(self) -> list[Sequence[str]]:
        """Return the literals of the columns with several values."""
        return [cells for path, cells in zip(self.columns, self.cells, strict=True) if path not in self.shared_values]

    def compute_written_share(self, node: JsonNode) -> float:
        """Return the share of a narrow table's characters that is written, without keys and shared values."""
        written = sum([sum(map(len, column)) + len(column) for column in self.list_written_columns()])
        return min(0.99, written / (node.end - node.start))


def find_tables(text: str, root: JsonNode) -> dict[JsonNode, RecordTable]:
    """Return all tables of a tree, except tables inside the rows of a narrow one."""
    tables: dict[JsonNode, RecordTable] = {}
    stack = [root]
    while stack:
        node = stack.pop()
        table = _read_table(text, node)
        if table is not None:
            tables[node] = table
        if table is None or not table.is_narrow:
            stack.extend([item for item in node.items if item.items])
    return _share_headers(tables)


def _share_headers(tables: dict[JsonNode, RecordTable]) -> dict[JsonNode, RecordTable]:
    """Give tables with equal columns equal shared values, and so equal headers, if that takes fewer characters.

    The writer names the columns of a table once if the table of the same name before it has the same header.
    """
    groups: defaultdict[tuple[ColumnPath, ...], list[JsonNode]] = defaultdict(list)
    for node, table in tables.items():
        groups[tuple(table.columns)].append(node)
    for columns, nodes in groups.items():
        first, *others = [tables[node].shared_values for node in nodes]
        shared = {path: value for path, value in first.items() if all(other.get(path) == value for other in others)}
        gain = (len(nodes) - 1) * sum([len(".".join(path)) + 1 for path in columns])
        cost = 0
        for node in nodes:
            values = tables[node].shared_values
            cost += len(tables[node].cells[0]) * sum([len(values[path]) + 1 for path in values if path not in shared])
        if cost < gain:
            for node in nodes:
                tables[node] = tables[node]._replace(shared_values=shared)
    return tables


def _read_table(text: str, node: JsonNode) -> RecordTable | None:
    """Read an array or an object of similar objects as a table."""
    items = node.items
    if len(items) < MIN_ROWS + (node.keys is not None) or text[items[0].start] != "{":
        return None
    if any(text[item.start] != "{" for item in items) or not _has_distinct_keys(node.keys):
        return None
    is_narrow = node.end - node.start <= WIDE_CHARACTERS * len(items)
    table = _read_regular_table(node) if is_narrow else None
    if table is not None:
        return table
    reader = _RecordReader(text, is_narrow=is_narrow)
    rows: list[RecordRow] = []
    for item in items:
        row = reader.read_row(item)
        if row is None:
            return None
        rows.append(row)
    if reader.nested_characters > MAX_NESTED_SHARE * (node.end - node.start):
        return None
    return _build_table(rows, reader.columns, is_narrow=is_narrow)


def _read_regular_table(node: JsonNode) -> RecordTable | None:
    """Read flat rows with equal keys all at once, which is much faster than one by one."""
    tokens = node.object_tokens
    if tokens is None:
        return None
    row_count = len(node.items)
    step = len(tokens) // row_count
    keys = tokens[1 : step - 1 : 2]
    has_equal_keys = all(tokens[2 * column + 1 :: step].count(key) == row_count for column, key in enumerate(keys))
    if not has_equal_keys or not _has_distinct_keys(keys) or len(keys) > MAX_COLUMNS:
        return None
    node.object_tokens = None  # no longer needed
    columns: list[ColumnPath] = [(key,) for key in keys]
    cells = [tokens[column::step] for column in range(2, step, 2)]
    return RecordTable(columns, [*cells], [], is_narrow=True, shared_values=_find_shared_values(columns, cells))


def _build_table(rows: Sequence[RecordRow], columns: Sequence[ColumnPath], *, is_narrow: bool) -> RecordTable | None:
    """Turn rows into columns; return None if too many cells would be empty."""
    if sum([len(row.cells) for row in rows]) < MIN_FILLED_SHARE * len(columns) * len(rows):
        return None
    cells = _transpose_rows(columns, [(row.paths, row.cells) for row in rows], "")
    nodes = [] if is_narrow else _transpose_rows(columns, [(row.paths, row.nodes) for row in rows], None)
    return RecordTable([*columns], cells, nodes, is_narrow, _find_shared_values(columns, cells))


def _transpose_rows(
    columns: Sequence[ColumnPath], rows: Sequence[tuple[tuple[ColumnPath, ...], Sequence[T]]], missing: T
) -> list[Sequence[T]]:
    first_paths = rows[0][0]
    if all(paths is first_paths for paths, _ in rows):
        return list(zip(*[values for _, values in rows], strict=True))
    indices = {path: index for index, path in enumerate(columns)}
    transposed: list[list[T]] = [[missing] * len(rows) for _ in columns]
    for row, (paths, values) in enumerate(rows):
        for path, value in zip(paths, values, strict=True):
            transposed[indices[path]][row] = value
    return [*transposed]


def _find_shared_values(columns: Sequence[ColumnPath], cells: Sequence[Sequence[str]]) -> dict[ColumnPath, str]:
    """Return the columns with the same literal in all rows, except one if no other column would be left."""
    shared = {
        path: column[0]
        for path, column in zip(columns, cells, strict=True)
        if column[0] and column[0] == column[-1] and column.count(column[0]) == len(column)
    }
    others = [column for path, column in zip(columns, cells, strict=True) if path not in shared]
    if shared and not (others and all(map(any, zip(*others, strict=True)))):
        shared.popitem()  # a row without cells would be a blank line
    return shared


def _has_distinct_keys(keys: Sequence[object] | None) -> bool:
    return keys is None or len(set(keys)) == len(keys)


class _RecordReader:
    """Reads objects one by one; objects with equal keys share one tuple of paths."""

    def __init__(self, text: str, *, is_narrow: bool) -> None:
        self.text = text
        self.is_narrow = is_narrow
        self.columns: list[ColumnPath] = []
        self.nested_characters = 0  # of the cells that are arrays of objects
        self._member_paths: dict[tuple[ColumnPath, tuple[str, ...]], tuple[ColumnPath, ...]] = {}
        self._known_paths: dict[tuple[ColumnPath, ...], tuple[ColumnPath, ...]] = {}

    def read_row(self, item: JsonNode) -> RecordRow | None:
        """Read one object; return None if it is empty or does not fit the table."""
        row = RecordRow((), [], [])
        paths: list[ColumnPath] = []
        if not self._flatten_object(item, (), paths, row):
            return None
        resolved = self._resolve_paths(tuple(paths))
        return RecordRow(resolved, row.cells, row.nodes) if resolved else None

    def _resolve_paths(self, row_paths: tuple[ColumnPath, ...]) -> tuple[ColumnPath, ...]:
        """Return these column paths, the same tuple for equal ones; empty for a duplicate path or too many columns."""
        paths = self._known_paths.get(row_paths)
        if paths is None:
            paths = row_paths if _has_distinct_keys(row_paths) and self._add_columns(row_paths) else ()
            self._known_paths[row_paths] = paths
        return paths

    def _add_columns(self, paths: Sequence[ColumnPath]) -> bool:
        """Add new columns, each after its predecessor in the row; return False if the orders conflict."""
        if len(paths) > MAX_COLUMNS:
            return False
        position = 0
        for path in paths:
            if path not in self.columns:
                self.columns.insert(position, path)
            elif self.columns.index(path) < position:
                return False  # values would change their order
            position = self.columns.index(path) + 1
        return len(self.columns) <= MAX_COLUMNS

    def _flatten_object(self, node: JsonNode, prefix: ColumnPath, paths: list[ColumnPath], row: RecordRow) -> bool:
        """Add the cells of an object and of the objects in it; return False for a non-object or a duplicate key.

        Objects without containers are not parsed for a narrow table, and its rows have no nodes.
        """
        if node.is_unparsed and self.is_narrow and self.text[node.start] == "{":
            literals = list_literals(self.text, node)
            members = self._list_member_paths(prefix, tuple(literals[::2]))
            paths.extend(members)
            row.cells.extend(literals[1::2])
            return bool(members)
        items = parse_items(self.text, node)
        members = self._list_member_paths(prefix, tuple(node.keys or ()))
        if len(members) != len(items):
            return False
        for path, item in zip(members, items, strict=True):
            if self.text[item.start] != "{" or not (item.is_unparsed or item.items):
                paths.append(path)
                row.cells.append(_write_cell(self.text, item))
                if len(item.items) >= MIN_ROWS and self.text[item.items[0].start] == "{":
                    self.nested_characters += item.end - item.start
                if not self.is_narrow:
                    row.nodes.append(item)
            elif not self._flatten_object(item, path, paths, row):
                return False
        return True

    def _list_member_paths(self, prefix: ColumnPath, keys: tuple[str, ...]) -> tuple[ColumnPath, ...]:
        """Return the paths of the members of an object; empty for a duplicate key."""
        paths = self._member_paths.get((prefix, keys))
        if paths is None:
            paths = tuple([(*prefix, key) for key in keys]) if _has_distinct_keys(keys) else ()
            self._member_paths[prefix, keys] = paths
        return paths


def _write_cell(text: str, node: JsonNode) -> str:
    return minify(text, node.start, node.end) if text[node.start] in "{[" else text[node.start : node.end]
