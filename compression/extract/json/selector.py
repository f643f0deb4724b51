"""Selects the kept part of a JSON tree: values of wide objects, or whole rows of narrow tables.

Kept first are values on a path in the question, values whose key or literal matches the question with their siblings,
errors, outliers, and the first and last elements. In a long text, neighbours form one unit, so that no text has more
than some ten thousand units.
"""

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from math import inf, sqrt
from typing import NamedTuple

from ...compressor import Task
from ..core import answer_types, bm25, line_values, severity
from ..core.bm25 import Span
from ..core.outliers import EMPTY_LITERAL, find_outliers
from ..core.scoring import score_matches
from ..core.selection import Units, choose_units, drop_worthless_units
from . import paths
from .records import RecordTable
from .tree import RUN_CHARACTERS, JsonNode, ParsedJson, compute_unit_size, parse_items
from .weights import JsonWeights
from .writer import VALUE_UNIT

TAIL_CHARACTERS = 20  # of a unit; enough for an empty value
ROW_NUMBER_CHARACTERS = 8  # in front of a row

_IDENTITY_KEY = re.compile(
    r'"(?:id|_id|uid|uuid|key|name|full_?name|title|number|path|file|file_?name|sha|hash|slug|subject|login|email)"',
    re.IGNORECASE,
)
_EMPTY_VALUE = re.compile(r"(?:null|false|true|0|\"\"|\[\s*\]|\{\s*\}|\"none\")$", re.IGNORECASE)


class _OpenContainer(NamedTuple):
    """A container in progress: its remaining groups, the index of its own unit, and the cost of its items.

    `written_share` of an item's characters is written, plus `number_cost` characters.
    """

    groups: Iterator[Sequence[JsonNode]]
    unit_index: int
    written_share: float
    number_cost: int


class JsonSelector:
    """The units of a tree in the order of the text: containers, which are never selected themselves, and neighbours.

    `groups[i]` are the neighbours in unit `i`, `nodes[i]` is the first of them; `sizes[i]` is 0 for a container.
    """

    def __init__(
        self, task: Task, parsed: ParsedJson, tables: Mapping[JsonNode, RecordTable], weights: JsonWeights
    ) -> None:
        self.task = task
        self.text = task.text
        self.root = parsed.root
        self.tables = tables
        self.weights = weights
        self.nodes: list[JsonNode] = []
        self.groups: list[Sequence[JsonNode]] = []
        self.parents: list[int] = []
        self.sizes: list[int] = []
        self.units = self._gather_units()

    def select_nodes(self, budget: int) -> dict[JsonNode, int]:
        """Select units within a budget of characters; return the number of kept leaves of each node with any."""
        flags = choose_units(self.units, budget)
        counts = [0] * len(flags)
        kept_leaves: dict[JsonNode, int] = {}
        for index in range(len(flags) - 1, -1, -1):
            if flags[index] and self.sizes[index]:
                counts[index] = self.sizes[index]
                for node in self.groups[index]:
                    kept_leaves[node] = node.leaf_count
            elif counts[index]:
                kept_leaves[self.nodes[index]] = counts[index]
            if counts[index] and index:
                counts[self.parents[index]] += counts[index]
        return kept_leaves

    @property
    def total_characters(self) -> int:
        """Return the budget that all units together use."""
        return sum([end - start + 1 for start, end in self.units.spans])

    def _gather_units(self) -> Units:
        spans: list[Span] = []
        costs: list[Span] = []
        unit_size = compute_unit_size(self.text)
        stack: list[_OpenContainer] = [_OpenContainer(iter([(self.root,)]), -1, 1.0, 0)]
        while stack:
            groups, parent, written_share, number_cost = stack[-1]
            for group in groups:
                node = group[0]
                is_single = len(group) == 1
                is_leaf = written_share < 1.0 or not is_single or not _is_split(self.text, node, unit_size)
                self.nodes.append(node)
                self.groups.append(group)
                self.parents.append(parent)
                leaf_count = node.leaf_count if is_single else sum([item.leaf_count for item in group])
                self.sizes.append(leaf_count if is_leaf else 0)
                end = group[-1].end if is_leaf else node.start
                spans.append((node.key_start, end))
                costs.append((0, int((end - node.key_start) * written_share) + number_cost * len(group)))
                if not is_leaf:
                    stack.append(self._open_container(node, len(self.nodes) - 1, unit_size))
                    break
            else:
                stack.pop()
        scores = self._score_units(spans)
        required = self._find_path_units(scores)
        units = Units(
            self.text,
            costs,
            scores,
            VALUE_UNIT,
            self.weights,
            sizes=self.sizes,
            parents=self.parents,
            required=required,
            matches=self._paths,
        )
        if not self.task.fills_target:
            drop_worthless_units(units)
        return units

    @cached_property
    def _paths(self) -> list[int]:
        return self._number_paths()

    @cached_property
    def _units_by_path(self) -> dict[int, list[int]]:
        units: dict[int, list[int]] = {}
        for index, path in enumerate(self._paths):
            units.setdefault(path, []).append(index)
        return units

    def _number_paths(self) -> list[int]:
        """Return for each unit the number of its path without indices: values of one column have the same."""
        numbers: dict[tuple[int, str], int] = {}
        paths: list[int] = []
        for group, parent in zip(self.groups, self.parents, strict=True):
            key = self.text[group[0].key_start : group[0].start]
            paths.append(numbers.setdefault((paths[parent] if parent >= 0 else -1, key), len(numbers)))
        return paths

    def _open_container(self, node: JsonNode, index: int, unit_size: int) -> _OpenContainer:
        table = self.tables.get(node)
        is_narrow = table is not None and table.is_narrow
        written_share = _compute_written_share(node, table) if table is not None and is_narrow else 1.0
        groups = _group_neighbours(self.text, node, unit_size, is_narrow=is_narrow)
        return _OpenContainer(iter(groups), index, written_share, ROW_NUMBER_CHARACTERS if node.keys is None else 0)

    @cached_property
    def _unit_indices(self) -> dict[JsonNode, int]:
        return {node: index for index, group in enumerate(self.groups) for node in group}

    def _find_path_units(self, scores: list[float]) -> list[int]:
        """Return the units on paths in the question; if they are many, raise their scores instead."""
        required: list[int] = []
        for node in paths.find_named_nodes(self.task.question, self.text, self.root):
            indices = self._list_units_under(node)
            if sum(self.sizes[index] for index in indices) <= self.weights.max_required_values:
                required += indices
            else:
                for index in indices:
                    scores[index] += self.weights.path_bonus
        return sorted(set(required))

    def _list_units_under(self, node: JsonNode) -> list[int]:
        """Return the units that make up a node, or the unit that contains it."""
        ancestor: JsonNode | None = node
        while ancestor is not None and ancestor not in self._unit_indices:
            ancestor = ancestor.parent
        if ancestor is not node:
            return [] if ancestor is None else [self._unit_indices[ancestor]]
        indices: list[int] = []
        stack = [node]
        while stack:
            descendant = stack.pop()
            if descendant in self._unit_indices:
                indices.append(self._unit_indices[descendant])
                stack.extend(descendant.items)
        return indices

    def _score_units(self, spans: Sequence[Span]) -> list[float]:
        weights = self.weights
        sibling_weight, key_weight, decay = weights.sibling_weight, weights.key_weight, weights.level_decay
        query = bm25.parse_query(self.task.question, weights)
        matches = score_matches(spans, bm25.count_terms(self.text, spans, query), query)
        container_scores = self._score_containers(matches)
        siblings, keys, edges = [0.0] * len(matches), [0.0] * len(matches), [0.0] * len(matches)
        scores = self._score_outliers(spans)
        for index, (group, parent) in enumerate(zip(self.groups, self.parents, strict=True)):
            if parent >= 0:
                siblings[index] = decay * siblings[parent]
                keys[index] = decay * keys[parent]
                edges[index] = weights.edge_decay * edges[parent] + self._compute_edge_bonus(group)
            if self.sizes[index]:
                match = matches[index] * (1.0 + siblings[index])  # a match is worth more beside other matches
                scores[index] += match + sibling_weight * siblings[index] + key_weight * keys[index] + edges[index]
                scores[index] -= weights.length_penalty * min(1.0, (spans[index][1] - group[0].start) / 1000)
            else:
                siblings[index] = max(siblings[index], container_scores[index])
                keys[index] += matches[index]
        for index in self._iter_shared_values():
            if not matches[index]:
                scores[index] *= weights.shared_factor
        for index in self._iter_asked_values(query):
            scores[index] += weights.asked_bonus
        self._raise_summary(scores, spans)
        self._raise_identities(scores)
        return scores

    def _iter_shared_values(self) -> Iterator[int]:
        """Yield the units with a value that nearly all rows have, besides the first one."""
        values = [
            (path, self.text[group[0].start : group[-1].end])
            for path, group in zip(self._paths, self.groups, strict=True)
        ]
        totals = Counter([path for path, _ in values])
        occurrences = Counter(values)
        shown: set[tuple[int, str]] = set()
        for index, value in enumerate(values):
            limit = max(self.weights.min_values, self.weights.min_shared_share * totals[value[0]])
            if self.sizes[index] and occurrences[value] >= limit:
                if value in shown:
                    yield index
                shown.add(value)

    def _raise_summary(self, scores: list[float], spans: Sequence[Span]) -> None:
        """Raise, in place, the scores of the short scalars of the outermost object, which sum up the others."""
        weights = self.weights
        if self.root.keys is None or self.root.leaf_count < weights.min_summarized_values * len(self.root.items):
            return
        for index, (parent, (start, end)) in enumerate(zip(self.parents, spans, strict=True)):
            if parent == 0 and self.sizes[index] and end - start <= weights.max_summary_characters:
                scores[index] += weights.summary_bonus

    def _raise_identities(self, scores: list[float]) -> None:
        """Raise, in place, the scores of the members that identify a row to nearly that of the row's best value."""
        best = [score if size else 0.0 for score, size in zip(scores, self.sizes, strict=True)]
        for index in range(len(best) - 1, 0, -1):
            best[self.parents[index]] = max(best[self.parents[index]], best[index])
        counts = Counter[int]()
        for index, parent in enumerate(self.parents):
            if not self.sizes[index] or parent < 0 or self.nodes[parent].keys is None:
                continue
            row = self.nodes[parent].parent
            if row is None or not (row.keys is None or row in self.tables):
                continue
            is_identity = any(_IDENTITY_KEY.match(self.text, node.key_start) for node in self.groups[index])
            is_identity = is_identity and best[parent] >= self.weights.outlier_bonus
            if is_identity and counts[parent] < self.weights.max_identity_values:
                counts[parent] += 1
                scores[index] = max(scores[index], self.weights.identity_weight * best[parent])

    def _score_containers(self, matches: Sequence[float]) -> list[float]:
        """Score each container by its matches of the question; a row, relative to the row with the fewest.

        Matches common to all rows, above all of their keys, do not tell rows apart.
        """
        total = len(matches)
        energy = [match * match for match in matches]
        best, low, high = list(matches), [inf] * total, [0.0] * total
        for index in range(total - 1, 0, -1):
            parent = self.parents[index]
            energy[parent] += energy[index]
            best[parent] = max(best[parent], best[index])
            if not self.sizes[index]:
                low[parent] = min(low[parent], energy[index])
                high[parent] = max(high[parent], energy[index])
        scores = [0.0] * total
        for index in range(total):
            node, parent = self.nodes[index], self.parents[index]
            if self.sizes[index] or node.leaf_count > self.root.leaf_count / 2:
                continue
            if self._is_compared(node):
                spread = sqrt(high[parent]) - sqrt(low[parent])
                scores[index] = best[parent] * (sqrt(energy[index]) - sqrt(low[parent])) / spread if spread > 0 else 0.0
            else:
                scores[index] = best[index]
        return scores

    def _is_compared(self, node: JsonNode) -> bool:
        """Return True if the node is a row among enough others."""
        parent = node.parent
        return (
            parent is not None
            and (parent.keys is None or parent in self.tables)
            and len(parent.items) >= self.weights.min_compared_rows
        )

    def _score_outliers(self, spans: Sequence[Span]) -> list[float]:
        """Return the bonus of each unit for an error or a rare value."""
        text, bonus = self.text, self.weights.outlier_bonus
        scores = [
            bonus
            if grade >= severity.ERROR and not _EMPTY_VALUE.search(text, max(start, end - TAIL_CHARACTERS), end)
            else 0.0
            for grade, (start, end) in zip(severity.grade_lines(text, spans), spans, strict=True)
        ]
        for index in self._iter_outlier_units():
            scores[index] = bonus
        return scores

    def _iter_outlier_units(self) -> Iterator[int]:
        """Yield the units of outliers among the values of a column, and values that few rows have."""
        for _, cells, units in self._iter_columns():
            yield from (units[row] for row in find_outliers(cells, self.weights))
            if 0 < cells.count(EMPTY_LITERAL) <= self.weights.max_missing_share * len(cells):
                yield from (unit for unit, cell in zip(units, cells, strict=True) if cell == EMPTY_LITERAL)
        for units in self._units_by_path.values():
            siblings = self._units_by_path[self._paths[self.parents[units[0]]]] if self._paths[units[0]] else units
            if len(siblings) >= self.weights.min_values and len(units) <= self.weights.max_rare_share * len(siblings):
                yield from filter(self.sizes.__getitem__, units)

    def _iter_asked_values(self, query: bm25.Query) -> Iterator[int]:
        """Yield the units with the greatest or least value of a field, if the question asks for them."""
        question, count = self.task.question, self.weights.asked_values
        for least in answer_types.list_directions(question):
            columns = list(self._iter_columns())
            cells = [(name, [literal.strip('"') for literal in literals]) for name, literals, _ in columns]
            for column, rows in line_values.rank_asked_columns(cells, question, query, count, least=least):
                yield from (columns[column][2][row] for row in rows)

    def _iter_columns(self) -> Iterator[tuple[str, Sequence[str], Sequence[int]]]:
        """Yield the name of each column, its literals, and their units: of tables, and of values with a path."""
        for node, table in self.tables.items():
            if table.is_narrow and node.items[0] in self._unit_indices:
                units = [self._unit_indices.get(item, 0) for item in node.items]
                for path, cells in zip(table.columns, table.cells, strict=True):
                    if path not in table.shared_values:
                        yield path[-1].strip('"'), cells, units
            for path, column in zip(table.columns, table.nodes, strict=False):  # a narrow table has no nodes
                cell_nodes = [cell for cell in column if cell is not None and cell in self._unit_indices]
                units = [self._unit_indices[cell] for cell in cell_nodes]
                if any(len(self.groups[index]) > 1 for index in units):  # others are values with a path
                    yield path[-1].strip('"'), [self.text[cell.start : cell.end] for cell in cell_nodes], units
        for units in self._units_by_path.values():
            if len(units) >= self.weights.min_values and all(len(self.groups[index]) == 1 for index in units):
                nodes = [self.nodes[index] for index in units]
                if self.sizes[units[0]] and nodes[0].key_start < nodes[0].start:
                    name = self.text[nodes[0].key_start : nodes[0].start].strip('": \n\t')
                    yield name, [self.text[node.start : node.end] for node in nodes], units

    def _compute_edge_bonus(self, group: Sequence[JsonNode]) -> float:
        first, parent = group[0], group[0].parent
        if parent is None or parent.keys is not None or not (first.items or first.is_unparsed):
            return 0.0
        if first is parent.items[0]:
            return self.weights.first_bonus
        return self.weights.last_bonus if group[-1] is parent.items[-1] else 0.0


def _compute_written_share(node: JsonNode, table: RecordTable) -> float:
    """Return the share of a narrow table's characters that is written, without keys and shared values."""
    written = sum([sum(map(len, column)) + len(column) for column in table.list_written_columns()])
    return min(0.99, written / (node.end - node.start))


def _is_split(text: str, node: JsonNode, unit_size: int) -> bool:
    """Return True if the items of a node are selected one by one, rather than the node as a whole."""
    if not (node.items or node.is_unparsed):
        return False
    is_scalar_array = node.is_unparsed and text[node.start] == "["
    return node.end - node.start > (max(RUN_CHARACTERS, unit_size) if is_scalar_array else unit_size)


def _group_neighbours(text: str, node: JsonNode, unit_size: int, *, is_narrow: bool) -> list[Sequence[JsonNode]]:
    """Group items selected together, up to the unit size (at least RUN_CHARACTERS in an array of small values)."""
    items = parse_items(text, node)
    limit = unit_size if is_narrow or node.keys is not None else max(RUN_CHARACTERS, unit_size)
    groups: list[Sequence[JsonNode]] = []
    group: list[JsonNode] = []
    start = 0
    for item in items:
        if group and item.end - start > limit:
            groups.append(group)
            group = []
        if not group:
            start = item.key_start
        if item.end - item.key_start <= limit and (is_narrow or not _is_split(text, item, unit_size)):
            group.append(item)
        else:
            groups.extend([group, [item]] if group else [[item]])
            group = []
    return [*groups, group] if group else groups
