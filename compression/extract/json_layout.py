"""Writes a JSON tree, or what is kept of it, in fewer tokens: every value a literal of the original, nothing computed.

What is complete and holds no table is minified JSON. Like objects are a table: `users[3]{id,name,kind="person"}:`
says the number of rows, the keys in their order and the values that all rows share; a row is its values, an empty
place a key that the row does not have. Everything else is an outline, one `key: value` a line, indented by one blank
a level. Rows of a table that is not complete begin with their index or key.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from ..compressor import Gap
from .json_tree import Node, minified

UNIT = "values"
FEWEST_ROWS = 2
SPARSE = 0.6  # share of a table's cells that must be filled
MOST_COLUMNS = 200
FEWEST_NAMED = 20  # values left out of a branch from which on it gets a gap of its own
NARROW = 450  # characters of a row at most, on average, for it to be kept or left out as one

_BARE = re.compile(r'"([A-Za-z_$@][\w$@-]*)"', re.ASCII)

Columns = dict[tuple[str, ...], Node]


class Table(NamedTuple):
    """Like objects: the paths of all columns in order, each row's cells, the literals of columns that have just one.

    `narrow` says that rows are short enough to be kept or left out as a whole.
    """

    columns: list[tuple[str, ...]]
    rows: list[Columns]
    narrow: bool
    shared: dict[tuple[str, ...], str]


def label(key: str) -> str:
    """Write a key without quotes where no one can misread it."""
    bare = _BARE.fullmatch(key)
    return bare[1] if bare else key


def tables(text: str, root: Node) -> dict[Node, Table]:
    """Find all tables of a tree; inside a narrow one, whose rows are never cut up, none is looked for."""
    found: dict[Node, Table] = {}
    stack = [root]
    while stack:
        node = stack.pop()
        rows = _table(text, node)
        if rows is not None:
            found[node] = rows
        if rows is None or not rows.narrow:
            stack.extend(item for item in node.items if item.items)
    return found


def _table(text: str, node: Node) -> Table | None:
    """Read an array of like objects, or an object of like objects, as a table."""
    if len(node.items) < FEWEST_ROWS + (node.keys is not None) or not _distinct(node):
        return None
    rows: list[Columns] = []
    columns: dict[tuple[str, ...], int] = {}
    for item in node.items:
        if item.keys is None or not item.items:
            return None
        row: Columns = {}
        if not _flatten(item, (), row):
            return None
        rows.append(row)
        for path in row:
            columns[path] = columns.get(path, 0) + 1
        if len(columns) > MOST_COLUMNS:
            return None
    if sum(columns.values()) < SPARSE * len(columns) * len(rows):
        return None
    narrow = node.end - node.start <= NARROW * len(rows)
    return Table(list(columns), rows, narrow, _shared(text, columns, rows))


def _distinct(node: Node) -> bool:
    return node.keys is None or len(set(node.keys)) == len(node.keys)


def _flatten(node: Node, above: tuple[str, ...], row: Columns) -> bool:
    """Gather the cells under an object; false when a key stands twice in it."""
    if node.keys is None or not _distinct(node):
        return False
    for key, item in zip(node.keys, node.items, strict=True):
        path = (*above, key)
        if item.keys is None or not item.items:
            row[path] = item
        elif not _flatten(item, path, row):
            return False
    return True


class Writer:
    """Writes one tree; `kept` says how many leaves of each node stay, and is None when all do."""

    def __init__(self, text: str, tables: Mapping[Node, Table], kept: Mapping[Node, int] | None) -> None:
        self.text = text
        self.tables = tables
        self.with_tables = _ancestors(tables)
        self.kept = kept
        self.parts: list[str | Gap] = []
        self.worth_naming = FEWEST_NAMED

    def write(self, root: Node, *, by_line: bool) -> tuple[str | Gap, ...]:
        """Return the lines and gaps of the whole tree; `by_line` as in `json_tree.Parsed`."""
        if by_line:
            self.with_tables.add(root)  # there are no brackets in the text to hold its items together
        self.worth_naming = max(FEWEST_NAMED, root.leaves // 8)
        left_out = self._node(root, "", -1)
        if left_out:
            self.parts.append(Gap(left_out, UNIT))
        return tuple(self.parts)

    def _count(self, node: Node) -> int:
        return node.leaves if self.kept is None else self.kept.get(node, 0)

    def _node(self, node: Node, name: str, depth: int) -> int:
        """Write a node of which something is kept; return how many of its leaves no gap speaks of yet."""
        complete = self._count(node) == node.leaves
        rows = self.tables.get(node)
        if rows is not None and (complete or rows.narrow):
            return self._table(node, rows, name, depth)
        if complete and node not in self.with_tables:
            self._line(depth, f"{name}: " if name else "", minified(self.text, node.start, node.end))
            return 0
        return self._outline(node, name, depth)

    def _line(self, depth: int, name: str, value: str) -> None:
        self.parts.append(" " * max(0, depth) + name + value)

    def _outline(self, node: Node, name: str, depth: int) -> int:
        kept = [at for at, child in enumerate(node.items) if self._count(child)]
        if node.keys is not None and len(kept) == 1 and name:
            child = node.items[kept[0]]
            rest = self._node(child, f"{name}.{self._child_name(node, kept[0])}", depth)
            return rest + sum(item.leaves for item in node.items) - child.leaves
        if name or node.keys is None:
            self._line(depth, f"{name}[{len(node.items)}]:" if node.keys is None else f"{name}:", "")
        left_out = 0
        for at, child in enumerate(node.items):
            if self._count(child):
                left_out += self._node(child, self._child_name(node, at), depth + 1)
            elif node.keys is not None and child.leaves >= self.worth_naming:
                self.parts.append(Gap(child.leaves, f"{UNIT} under {self._child_name(node, at)}"))
            else:
                left_out += child.leaves
        if left_out >= FEWEST_NAMED and node.keys is None and len(kept) < len(node.items):
            self.parts.append(Gap(left_out, UNIT))
            return 0
        return left_out

    def _child_name(self, node: Node, at: int) -> str:
        return f"[{at}]" if node.keys is None else label(node.keys[at])

    def _table(self, node: Node, rows: Table, name: str, depth: int) -> int:
        chosen = [at for at, item in enumerate(node.items) if self._count(item)]
        complete = len(chosen) == len(node.items)
        self._line(depth, f"{name}{_size(node)}{{{_header(rows)}}}:", "")
        columns = [path for path in rows.columns if path not in rows.shared]
        for at in chosen:
            row = rows.rows[at]
            cells = (_literal(self.text, row[path]) if path in row else "" for path in columns)
            key = "" if complete and node.keys is None else f"{self._child_name(node, at)}:"
            self._line(depth, key, ",".join(cells))
        left_out = sum(item.leaves for item in node.items if not self._count(item))
        if left_out:
            self.parts.append(Gap(left_out, UNIT))
        return 0


def _literal(text: str, node: Node) -> str:
    return minified(text, node.start, node.end) if text[node.start] in "{[" else text[node.start : node.end]


def _ancestors(tables: Mapping[Node, Table]) -> set[Node]:
    """Gather all nodes that are a table or have one below them."""
    found: set[Node] = set()
    for start in tables:
        node: Node | None = start
        while node is not None and node not in found:
            found.add(node)
            node = node.parent
    return found


def _size(node: Node) -> str:
    return f"[{len(node.items)}]" if node.keys is None else f"({len(node.items)})"


def _shared(text: str, columns: Iterable[tuple[str, ...]], rows: Sequence[Columns]) -> dict[tuple[str, ...], str]:
    """Find the columns that hold one and the same literal in all rows; one column is always left for the rows."""
    shared: dict[tuple[str, ...], str] = {}
    for path in columns:
        first = _literal(text, rows[0][path]) if path in rows[0] else None
        if first is not None and all(path in row and _literal(text, row[path]) == first for row in rows):
            shared[path] = first
    if any(row.keys() <= shared.keys() for row in rows):
        shared.popitem()  # a row of nothing would be a blank line
    return shared


def _header(rows: Table) -> str:
    names = ((".".join(map(label, path)), rows.shared.get(path)) for path in rows.columns)
    return ",".join(name if value is None else f"{name}={value}" for name, value in names)
