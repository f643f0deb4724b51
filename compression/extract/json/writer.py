"""Writes a JSON tree, or the kept part of it, in fewer tokens; every value is a literal of the original.

A complete value without a table is minified JSON. Similar objects are a table: `users[3]{id,name,kind="person"}:` has
the number of rows, the keys in order, and values shared by all rows; a row has its values, and an empty cell for a
missing key. The header of the table before it of the same name is repeated as `{same columns}`. Other values are an
outline with one `key: value` per line, indented by one blank per level; adjacent array elements kept together share a
line, `[4-6]: 1,2,3`. The rows of an incomplete table begin with their index or key.
"""

import re
from collections.abc import Mapping, Set

from ...compressor import Gap
from .records import RecordTable
from .tree import JsonNode, minify

VALUE_UNIT = "values"
SEPARATOR_SAMPLE_CHARACTERS = 4_000
SAME_COLUMNS = "same columns"
MIN_NAMED_GAP = 20  # values left out of a branch with a gap of its own

_INDEX = re.compile(r"\[\d+(?:-\d+)?\]")  # in the name of a value
_BARE_KEY = re.compile(r'"([A-Za-z_$@][\w$@-]*)"', re.ASCII)


def format_key(key: str) -> str:
    """Return a key without quotes if it is an identifier."""
    bare = _BARE_KEY.fullmatch(key)
    return bare[1] if bare else key


class WriterContext:
    """State shared by all outputs of one tree: its tables, their ancestors, and a memo of minified values."""

    def __init__(self, text: str, tables: Mapping[JsonNode, RecordTable]) -> None:
        self.text = text
        self.tables = tables
        self.table_ancestors: Set[JsonNode] = _find_table_ancestors(tables)
        self.minified_values: dict[JsonNode, str] = {}
        self.separator = ": " if '": ' in text[:SEPARATOR_SAMPLE_CHARACTERS] else ":"  # as the text has it


class JsonWriter:
    """Writes one tree; `kept_leaves` has the number of kept leaves of each node, None if all are kept."""

    def __init__(self, context: WriterContext, kept_leaves: Mapping[JsonNode, int] | None) -> None:
        self.text = context.text
        self.tables = context.tables
        self.table_ancestors = context.table_ancestors
        self.minified_values = context.minified_values
        self.separator = context.separator
        self.kept_leaves = kept_leaves
        self.parts: list[str | Gap] = []
        self.min_named_gap = MIN_NAMED_GAP
        self.headers: dict[str, str] = {}  # of the table written last under each name

    def write(self, root: JsonNode, *, is_json_lines: bool) -> tuple[str | Gap, ...]:
        """Return the lines and gaps of the whole tree; `is_json_lines` as in `tree.ParsedJson`."""
        if is_json_lines:
            self.table_ancestors |= {root}  # the text has no brackets around its items
        self.min_named_gap = max(MIN_NAMED_GAP, root.leaf_count // 8)
        left_out = self._write_node(root, "", -1)
        if left_out:
            self.parts.append(Gap(left_out, VALUE_UNIT))
        return tuple(self.parts)

    def _count_kept(self, node: JsonNode) -> int:
        return node.leaf_count if self.kept_leaves is None else self.kept_leaves.get(node, 0)

    def _write_node(self, node: JsonNode, name: str, depth: int) -> int:
        """Write a partly kept node; return the number of left-out leaves that no gap counts yet."""
        is_complete = self._count_kept(node) == node.leaf_count
        table = self.tables.get(node)
        if table is not None and (is_complete or table.is_narrow):
            return self._write_table(node, table, name, depth)
        if is_complete and node not in self.table_ancestors:
            value = self.minified_values.get(node)
            if value is None:
                value = self.minified_values[node] = minify(self.text, node.start, node.end)
            separator = ": " if name.endswith("]") else self.separator
            self._write_line(depth, f"{name}{separator}" if name else "", value)
            return 0
        return self._write_outline(node, name, depth)

    def _write_line(self, depth: int, name: str, value: str) -> None:
        self.parts.append(" " * max(0, depth) + name + value)

    def _write_outline(self, node: JsonNode, name: str, depth: int) -> int:
        kept = [index for index, child in enumerate(node.items) if self._count_kept(child)]
        if node.keys is not None and len(kept) == 1 and name:
            child = node.items[kept[0]]
            left_out = self._write_node(child, f"{name}.{self._format_child_name(node, kept[0])}", depth)
            return left_out + sum(item.leaf_count for item in node.items) - child.leaf_count
        if name or node.keys is None:
            self._write_line(depth, f"{name}[{node.size}]:" if node.keys is None else f"{name}:", "")
        left_out = 0
        for index, child in enumerate(node.items):
            if self._count_kept(child):
                left_out += self._write_node(child, self._format_child_name(node, index), depth + 1)
            elif node.keys is not None and child.leaf_count >= self.min_named_gap:
                self.parts.append(Gap(child.leaf_count, f"{VALUE_UNIT} under {self._format_child_name(node, index)}"))
            else:
                left_out += child.leaf_count
        if left_out >= MIN_NAMED_GAP and node.keys is None and len(kept) < len(node.items):
            self.parts.append(Gap(left_out, VALUE_UNIT))
            return 0
        return left_out

    def _format_child_name(self, node: JsonNode, index: int) -> str:
        if node.keys is not None:
            return format_key(node.keys[index])
        first, count = node.element_index(index), node.items[index].element_count
        return f"[{first}]" if count == 1 else f"[{first}-{first + count - 1}]"

    def _write_table(self, node: JsonNode, table: RecordTable, name: str, depth: int) -> int:
        kept = [index for index, item in enumerate(node.items) if self._count_kept(item)]
        is_complete = len(kept) == len(node.items)
        header = _format_header(table)
        is_same = self.headers.get(key := _INDEX.sub("", name)) == header and len(header) > len(SAME_COLUMNS)
        self.headers[key] = header
        self._write_line(depth, f"{name}{_format_size(node)}{{{SAME_COLUMNS if is_same else header}}}:", "")
        columns = table.list_written_columns()
        indent = " " * max(0, depth)
        if is_complete and node.keys is None:
            self.parts.extend([indent + ",".join(row) for row in zip(*columns, strict=True)])
            return 0
        for index in kept:
            row = ",".join([cells[index] for cells in columns])
            self.parts.append(f"{indent}{self._format_child_name(node, index)}:{row}")
        left_out = node.leaf_count - sum([node.items[index].leaf_count for index in kept])
        if left_out:
            self.parts.append(Gap(left_out, VALUE_UNIT))
        return 0


def _find_table_ancestors(tables: Mapping[JsonNode, RecordTable]) -> set[JsonNode]:
    """Return all nodes that are a table or contain one."""
    ancestors: set[JsonNode] = set()
    for table_node in tables:
        node: JsonNode | None = table_node
        while node is not None and node not in ancestors:
            ancestors.add(node)
            node = node.parent
    return ancestors


def _format_size(node: JsonNode) -> str:
    return f"[{len(node.items)}]" if node.keys is None else f"({len(node.items)})"


def _format_header(table: RecordTable) -> str:
    names = ((".".join(map(format_key, path)), table.shared_values.get(path)) for path in table.columns)
    return ",".join(name if value is None else f"{name}={value}" for name, value in names)
