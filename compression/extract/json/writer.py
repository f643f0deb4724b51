"""Writes a JSON tree, or what is kept of it, in fewer tokens: every value a literal of the original, nothing computed.

What is complete and holds no table is minified JSON. Like objects are a table: `users[3]{id,name,kind="person"}:`
says the number of rows, the keys in their order and the values that all rows share; a row is its values, an empty
place a key that the row does not have. Everything else is an outline, one `key: value` a line, indented by one blank
a level; neighbours in an array that are chosen together share a line, `[4-6]: 1,2,3`. Rows of a table that is not
complete begin with their index or key.
"""

import re
from collections.abc import Mapping, Set

from ...compressor import Gap
from .records import Table
from .tree import Node, minified

UNIT = "values"
FEWEST_NAMED = 20  # values left out of a branch from which on it gets a gap of its own

_BARE = re.compile(r'"([A-Za-z_$@][\w$@-]*)"', re.ASCII)


def label(key: str) -> str:
    """Write a key without quotes where no one can misread it."""
    bare = _BARE.fullmatch(key)
    return bare[1] if bare else key


class Laid:
    """What all layouts of one tree have in common: its tables, what is above them, the values minified so far."""

    def __init__(self, text: str, tables: Mapping[Node, Table]) -> None:
        self.text = text
        self.tables = tables
        self.with_tables: Set[Node] = _ancestors(tables)
        self.minified: dict[Node, str] = {}


class Writer:
    """Writes one tree; `kept` says how many leaves of each node stay, and is None when all do."""

    def __init__(self, laid: "Laid", kept: Mapping[Node, int] | None) -> None:
        self.text = laid.text
        self.tables = laid.tables
        self.with_tables = laid.with_tables
        self.minified = laid.minified
        self.kept = kept
        self.parts: list[str | Gap] = []
        self.worth_naming = FEWEST_NAMED

    def write(self, root: Node, *, by_line: bool) -> tuple[str | Gap, ...]:
        """Return the lines and gaps of the whole tree; `by_line` as in `json_tree.Parsed`."""
        if by_line:
            self.with_tables |= {root}  # there are no brackets in the text to hold its items together
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
            known = self.minified.get(node)
            if known is None:
                known = self.minified[node] = minified(self.text, node.start, node.end)
            self._line(depth, f"{name}: " if name else "", known)
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
            self._line(depth, f"{name}[{node.size}]:" if node.keys is None else f"{name}:", "")
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
        if node.keys is not None:
            return label(node.keys[at])
        first, many = node.place(at), node.items[at].many
        return f"[{first}]" if many == 1 else f"[{first}-{first + many - 1}]"

    def _table(self, node: Node, rows: Table, name: str, depth: int) -> int:
        chosen = [at for at, item in enumerate(node.items) if self._count(item)]
        complete = len(chosen) == len(node.items)
        self._line(depth, f"{name}{_size(node)}{{{_header(rows)}}}:", "")
        columns = [cells for path, cells in zip(rows.columns, rows.cells, strict=True) if path not in rows.shared]
        blank = " " * max(0, depth)
        if complete and node.keys is None:
            self.parts.extend([blank + ",".join(row) for row in zip(*columns, strict=True)])
            return 0
        for at in chosen:
            self.parts.append(f"{blank}{self._child_name(node, at)}:{','.join([cells[at] for cells in columns])}")
        left_out = node.leaves - sum([node.items[at].leaves for at in chosen])
        if left_out:
            self.parts.append(Gap(left_out, UNIT))
        return 0


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


def _header(rows: Table) -> str:
    names = ((".".join(map(label, path)), rows.shared.get(path)) for path in rows.columns)
    return ",".join(name if value is None else f"{name}={value}" for name, value in names)
