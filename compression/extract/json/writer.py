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
from .records import RecordTable
from .tree import JsonNode, minify

VALUE_UNIT = "values"
MIN_NAMED_GAP = 20  # values left out of a branch from which on it gets a gap of its own

_BARE_KEY = re.compile(r'"([A-Za-z_$@][\w$@-]*)"', re.ASCII)


def format_key(key: str) -> str:
    """Write a key without quotes where no one can misread it."""
    bare = _BARE_KEY.fullmatch(key)
    return bare[1] if bare else key


class WriterContext:
    """What all layouts of one tree have in common: its tables, what is above them, the values minified so far."""

    def __init__(self, text: str, tables: Mapping[JsonNode, RecordTable]) -> None:
        self.text = text
        self.tables = tables
        self.table_ancestors: Set[JsonNode] = _find_table_ancestors(tables)
        self.minified_values: dict[JsonNode, str] = {}


class JsonWriter:
    """Writes one tree; `kept` says how many leaves of each node stay, and is None when all do."""

    def __init__(self, laid: "WriterContext", kept: Mapping[JsonNode, int] | None) -> None:
        self.text = laid.text
        self.tables = laid.tables
        self.table_ancestors = laid.table_ancestors
        self.minified_values = laid.minified_values
        self.kept_leaves = kept
        self.parts: list[str | Gap] = []
        self.min_named_gap = MIN_NAMED_GAP

    def write(self, root: JsonNode, *, by_line: bool) -> tuple[str | Gap, ...]:
        """Return the lines and gaps of the whole tree; `by_line` as in `json_tree.Parsed`."""
        if by_line:
            self.table_ancestors |= {root}  # there are no brackets in the text to hold its items together
        self.min_named_gap = max(MIN_NAMED_GAP, root.leaf_count // 8)
        left_out = self._write_node(root, "", -1)
        if left_out:
            self.parts.append(Gap(left_out, VALUE_UNIT))
        return tuple(self.parts)

    def _count_kept(self, node: JsonNode) -> int:
        return node.leaf_count if self.kept_leaves is None else self.kept_leaves.get(node, 0)

    def _write_node(self, node: JsonNode, name: str, depth: int) -> int:
        """Write a node of which something is kept; return how many of its leaves no gap speaks of yet."""
        complete = self._count_kept(node) == node.leaf_count
        rows = self.tables.get(node)
        if rows is not None and (complete or rows.is_narrow):
            return self._write_table(node, rows, name, depth)
        if complete and node not in self.table_ancestors:
            known = self.minified_values.get(node)
            if known is None:
                known = self.minified_values[node] = minify(self.text, node.start, node.end)
            self._write_line(depth, f"{name}: " if name else "", known)
            return 0
        return self._write_outline(node, name, depth)

    def _write_line(self, depth: int, name: str, value: str) -> None:
        self.parts.append(" " * max(0, depth) + name + value)

    def _write_outline(self, node: JsonNode, name: str, depth: int) -> int:
        kept = [at for at, child in enumerate(node.items) if self._count_kept(child)]
        if node.keys is not None and len(kept) == 1 and name:
            child = node.items[kept[0]]
            rest = self._write_node(child, f"{name}.{self._format_child_name(node, kept[0])}", depth)
            return rest + sum(item.leaf_count for item in node.items) - child.leaf_count
        if name or node.keys is None:
            self._write_line(depth, f"{name}[{node.size}]:" if node.keys is None else f"{name}:", "")
        left_out = 0
        for at, child in enumerate(node.items):
            if self._count_kept(child):
                left_out += self._write_node(child, self._format_child_name(node, at), depth + 1)
            elif node.keys is not None and child.leaf_count >= self.min_named_gap:
                self.parts.append(Gap(child.leaf_count, f"{VALUE_UNIT} under {self._format_child_name(node, at)}"))
            else:
                left_out += child.leaf_count
        if left_out >= MIN_NAMED_GAP and node.keys is None and len(kept) < len(node.items):
            self.parts.append(Gap(left_out, VALUE_UNIT))
            return 0
        return left_out

    def _format_child_name(self, node: JsonNode, at: int) -> str:
        if node.keys is not None:
            return format_key(node.keys[at])
        first, many = node.element_index(at), node.items[at].element_count
        return f"[{first}]" if many == 1 else f"[{first}-{first + many - 1}]"

    def _write_table(self, node: JsonNode, rows: RecordTable, name: str, depth: int) -> int:
        chosen = [at for at, item in enumerate(node.items) if self._count_kept(item)]
        complete = len(chosen) == len(node.items)
        self._write_line(depth, f"{name}{_format_size(node)}{{{_format_header(rows)}}}:", "")
        columns = [
            cells for path, cells in zip(rows.columns, rows.cells, strict=True) if path not in rows.shared_values
        ]
        blank = " " * max(0, depth)
        if complete and node.keys is None:
            self.parts.extend([blank + ",".join(row) for row in zip(*columns, strict=True)])
            return 0
        for at in chosen:
            self.parts.append(
                f"{blank}{self._format_child_name(node, at)}:{','.join([cells[at] for cells in columns])}"
            )
        left_out = node.leaf_count - sum([node.items[at].leaf_count for at in chosen])
        if left_out:
            self.parts.append(Gap(left_out, VALUE_UNIT))
        return 0


def _find_table_ancestors(tables: Mapping[JsonNode, RecordTable]) -> set[JsonNode]:
    """Gather all nodes that are a table or have one below them."""
    found: set[JsonNode] = set()
    for start in tables:
        node: JsonNode | None = start
        while node is not None and node not in found:
            found.add(node)
            node = node.parent
    return found


def _format_size(node: JsonNode) -> str:
    return f"[{len(node.items)}]" if node.keys is None else f"({len(node.items)})"


def _format_header(rows: RecordTable) -> str:
    names = ((".".join(map(format_key, path)), rows.shared_values.get(path)) for path in rows.columns)
    return ",".join(name if value is None else f"{name}={value}" for name, value in names)
