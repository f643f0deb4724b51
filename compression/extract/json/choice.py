"""Chooses what stays of a JSON tree: values (of wide objects) or whole rows (of narrow tables).

Those on a path named in the question, those whose key or value the question names and what stands beside them, errors,
outliers, the first and the last. In a very long text neighbours are chosen together, so that no text has more than some
ten thousand units.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from math import inf, sqrt
from typing import NamedTuple

from ...compressor import Task
from .. import lines
from ..core import bm25, severity
from ..core.outliers import find_outliers
from ..core.selection import Units, choose_units
from . import paths
from .records import RecordTable
from .tree import RUN_CHARACTERS, JsonNode, ParsedJson, compute_unit_size, parse_items
from .writer import VALUE_UNIT

SIBLING_WEIGHT = 0.5  # what a value takes over from the best one in its object, a level further 0.85 of that
KEY_WEIGHT = 0.5  # and from the keys above it
FIRST_BONUS, LAST_BONUS = 0.15, 0.1
OUTLIER_BONUS = 0.3  # an error or an outlier
TAIL_CHARACTERS = 20  # characters of a unit in which a value that says that nothing is wrong fits
PATH_BONUS = 0.5
MIN_COMPARED_ROWS = 3  # from which on they are compared
MAX_REQUIRED_VALUES = 40  # values under a path named in the question that are all kept
ROW_NUMBER_CHARACTERS = 8  # characters that the number in front of a row takes

_EMPTY_VALUE = re.compile(r"(?:null|false|true|0|\"\"|\[\s*\]|\{\s*\}|\"none\")$", re.IGNORECASE)


class _OpenContainer(NamedTuple):
    """A container whose items are being gathered: the groups still to come, and the index of its own unit.

    `share` of the items' characters is written, and `number` characters more for each.
    """

    groups: Iterator[Sequence[JsonNode]]
    unit_index: int
    written_share: float
    number_cost: int


class JsonSelector:
    """The units of a tree in the order of the text: containers (never chosen for themselves), and neighbours in one.

    `groups[at]` are the neighbours that a unit holds, `nodes[at]` the first of them; `sizes[at]` is 0 for a container.
    """

    def __init__(self, task: Task, parsed: ParsedJson, tables: Mapping[JsonNode, RecordTable]) -> None:
        self.task = task
        self.text = task.text
        self.root = parsed.root
        self.tables = tables
        self.nodes: list[JsonNode] = []
        self.groups: list[Sequence[JsonNode]] = []
        self.parents: list[int] = []
        self.sizes: list[int] = []
        self.units = self._gather_units()

    def select_nodes(self, budget: int) -> dict[JsonNode, int]:
        """Choose units of so many characters; return how many leaves stay of each node of which any does."""
        chosen = choose_units(self.units, budget)
        counts = [0] * len(chosen)
        kept: dict[JsonNode, int] = {}
        for at in range(len(chosen) - 1, -1, -1):
            if chosen[at] and self.sizes[at]:
                counts[at] = self.sizes[at]
                for node in self.groups[at]:
                    kept[node] = node.leaf_count
            elif counts[at]:
                kept[self.nodes[at]] = counts[at]
            if counts[at] and at:
                counts[self.parents[at]] += counts[at]
        return kept

    @property
    def total_characters(self) -> int:
        """Return what all units together take of a budget."""
        return sum([end - start + 1 for start, end in self.units.spans])

    def _gather_units(self) -> Units:
        spans: list[bm25.Span] = []
        costs: list[bm25.Span] = []
        most = compute_unit_size(self.text)
        open_: list[_OpenContainer] = [_OpenContainer(iter([(self.root,)]), -1, 1.0, 0)]
        while open_:
            groups, parent, share, number = open_[-1]
            for group in groups:
                node = group[0]
                alone = len(group) == 1
                whole = share < 1.0 or not alone or not _is_split(self.text, node, most)
                self.nodes.append(node)
                self.groups.append(group)
                self.parents.append(parent)
                self.sizes.append(
                    (node.leaf_count if alone else sum([one.leaf_count for one in group])) if whole else 0
                )
                end = group[-1].end if whole else node.start
                spans.append((node.key_start, end))
                costs.append((0, int((end - node.key_start) * share) + number * len(group)))
                if not whole:
                    open_.append(self._open_container(node, len(self.nodes) - 1, most))
                    break
            else:
                open_.pop()
        scores = self._score_units(spans)
        must = self._find_path_units(scores)
        return Units(
            self.text, costs, scores, VALUE_UNIT, sizes=self.sizes, parents=self.parents, required=must, marker_cost=0
        )

    def _open_container(self, node: JsonNode, index: int, most: int) -> "_OpenContainer":
        table = self.tables.get(node)
        rows = table is not None and table.is_narrow
        share = _compute_written_share(node, table) if table is not None and rows else 1.0
        groups = _group_neighbours(self.text, node, most, rows=rows)
        return _OpenContainer(iter(groups), index, share, ROW_NUMBER_CHARACTERS if node.keys is None else 0)

    @cached_property
    def _unit_indices(self) -> dict[JsonNode, int]:
        return {node: index for index, group in enumerate(self.groups) for node in group}

    def _find_path_units(self, scores: list[float]) -> list[int]:
        """Find what stands on the paths named in the question; where that is much, only make it worth more."""
        must: list[int] = []
        for node in paths.find_named_nodes(self.task.question, self.text, self.root):
            under = self._list_units_under(node)
            if sum(self.sizes[index] for index in under) <= MAX_REQUIRED_VALUES:
                must += under
            else:
                for index in under:
                    scores[index] += PATH_BONUS
        return sorted(set(must))

    def _list_units_under(self, node: JsonNode) -> list[int]:
        """List the units that make up a node, or the one that it is a part of."""
        above: JsonNode | None = node
        while above is not None and above not in self._unit_indices:
            above = above.parent
        if above is not node:
            return [] if above is None else [self._unit_indices[above]]
        found: list[int] = []
        stack = [node]
        while stack:
            one = stack.pop()
            if one in self._unit_indices:
                found.append(self._unit_indices[one])
                stack.extend(one.items)
        return found

    def _score_units(self, spans: Sequence[bm25.Span]) -> list[float]:
        own = lines.normalize_scores(bm25.score_spans(self.text, spans, bm25.parse_query(self.task.question)))
        worth = self._score_containers(own)
        beside, under, edges = [0.0] * len(own), [0.0] * len(own), [0.0] * len(own)
        scores = self._score_outliers(spans)
        for index, (group, parent) in enumerate(zip(self.groups, self.parents, strict=True)):
            if parent >= 0:
                beside[index] = 0.85 * beside[parent]
                under[index] = 0.85 * under[parent]
                edges[index] = 0.7 * edges[parent] + _compute_edge_bonus(group)
            if self.sizes[index]:
                asked = own[index] * (1.0 + beside[index])  # what is asked for, where it is asked for
                scores[index] += asked + SIBLING_WEIGHT * beside[index] + KEY_WEIGHT * under[index] + edges[index]
                scores[index] -= 0.1 * min(1.0, (spans[index][1] - group[0].start) / 1000)
            else:
                beside[index] = max(beside[index], worth[index])
                under[index] += own[index]
        return scores

    def _score_containers(self, own: Sequence[float]) -> list[float]:
        """Say of each container how much of the question is in it; of a row, how much more than in the least of them.

        What all rows have in common, above all their keys, says nothing about which of them is asked for.
        """
        total = len(own)
        energy = [score * score for score in own]
        best, low, high = list(own), [inf] * total, [0.0] * total
        for index in range(total - 1, 0, -1):
            parent = self.parents[index]
            energy[parent] += energy[index]
            best[parent] = max(best[parent], best[index])
            if not self.sizes[index]:
                low[parent] = min(low[parent], energy[index])
                high[parent] = max(high[parent], energy[index])
        worth = [0.0] * total
        for index in range(total):
            node, parent = self.nodes[index], self.parents[index]
            if self.sizes[index] or node.leaf_count > self.root.leaf_count / 2:
                continue
            rows = node.parent is not None and (node.parent.keys is None or node.parent in self.tables)
            if rows and node.parent is not None and len(node.parent.items) >= MIN_COMPARED_ROWS:
                spread = sqrt(high[parent]) - sqrt(low[parent])
                worth[index] = best[parent] * (sqrt(energy[index]) - sqrt(low[parent])) / spread if spread > 0 else 0.0
            else:
                worth[index] = best[index]
        return worth

    def _score_outliers(self, spans: Sequence[bm25.Span]) -> list[float]:
        """Say of each unit what it is worth for being an error, or for a value that hardly any of its like has."""
        text = self.text
        scores = [
            OUTLIER_BONUS
            if grade >= severity.ERROR and not _EMPTY_VALUE.search(text, max(start, end - TAIL_CHARACTERS), end)
            else 0.0
            for grade, (start, end) in zip(severity.grade_lines(text, spans), spans, strict=True)
        ]
        for index in self._iter_outlier_units():
            scores[index] = OUTLIER_BONUS
        return scores

    def _iter_outlier_units(self) -> Iterator[int]:
        """Find the odd ones among the values of one key in the objects of one array, or of one column."""
        for node, table in self.tables.items():
            for at, (path, cells) in enumerate(zip(table.columns, table.cells, strict=True)):
                if path in table.shared_values:
                    continue
                for row in find_outliers(cells):
                    cell = node.items[row] if table.is_narrow else table.nodes[at][row]
                    if cell in self._unit_indices:
                        yield self._unit_indices[cell]


def _compute_written_share(node: JsonNode, table: RecordTable) -> float:
    """Return the share of a narrow table's characters that is written: not its keys, not what all rows have."""
    cells = [column for path, column in zip(table.columns, table.cells, strict=True) if path not in table.shared_values]
    written = sum([sum(map(len, column)) + len(column) for column in cells])
    return min(0.99, written / (node.end - node.start))


def _is_split(text: str, node: JsonNode, most: int) -> bool:
    """Say whether a node's items are chosen one by one, rather than the node as a whole."""
    if not (node.items or node.is_unparsed):
        return False
    return node.end - node.start > (max(RUN_CHARACTERS, most) if node.is_unparsed and text[node.start] == "[" else most)


def _group_neighbours(text: str, node: JsonNode, most: int, *, rows: bool) -> list[Sequence[JsonNode]]:
    """Gather neighbours that are chosen together, of so many characters at most (RUN in an array of small values)."""
    items = parse_items(text, node)
    limit = most if rows or node.keys is not None else max(RUN_CHARACTERS, most)
    groups: list[Sequence[JsonNode]] = []
    together: list[JsonNode] = []
    start = 0
    for item in items:
        if together and item.end - start > limit:
            groups.append(together)
            together = []
        if not together:
            start = item.key_start
        if item.end - item.key_start <= limit and (rows or not _is_split(text, item, most)):
            together.append(item)
        else:
            groups.extend([together, [item]] if together else [[item]])
            together = []
    return [*groups, together] if together else groups


def _compute_edge_bonus(group: Sequence[JsonNode]) -> float:
    first, parent = group[0], group[0].parent
    if parent is None or parent.keys is not None or not (first.items or first.is_unparsed):
        return 0.0
    return FIRST_BONUS if first is parent.items[0] else LAST_BONUS if group[-1] is parent.items[-1] else 0.0
