"""JSON: the same values in fewer tokens first; if that is not short enough, the values that the question asks for.

Chooses values (of wide objects) or whole rows (of narrow tables): those on a path named in the question, those whose
key or value the question names and what stands beside them, errors, outliers, the first and the last.
"""

import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence

from ..compressor import Condensed, Gap, Task
from ..markers import render
from . import bm25, json_tree, lines, signals
from .json_layout import UNIT, Table, Writer, tables
from .json_tree import Node, Parsed, parse
from .select import Units, choose, fit, tokens

BESIDE = 0.5  # what a value takes over from the best one in its object, a level further 0.85 of that
UNDER = 0.5  # and from the keys above it
FIRST, LAST = 0.15, 0.1
ODD = 0.3  # an error or an outlier
FEWEST_ALIKE = 8  # values from which on one of them can be odd
FAR = 4.0  # standard deviations
FEW = 40  # values under a path named in the question that are all kept
MOST_PATHS = 20

_PATH = re.compile(r"[\w$@-]*(?:\.[\w$@-]+|\.?\[(?:\d{1,9}|\"[^\"\n]{1,100}\"|'[^'\n]{1,100}')\])+")
_STEP = re.compile(r"\[(\d+)\]|\[[\"']([^\"']+)[\"']\]|([\w$@-]+)")
_NOTHING_WRONG = re.compile(r"(?:null|false|true|0|\"\"|\[\s*\]|\{\s*\}|\"none\")$", re.IGNORECASE)


class JsonData:
    """Compresses JSON, JSON lines, and JSON with a little other text around it."""

    name = "json"

    def recognises(self, text: str) -> bool:
        """Recognise what a strict parser takes."""
        return json_tree.takes(text)

    def compress(self, task: Task) -> Condensed | None:
        """Re-lay without loss; when that is still over the target, choose."""
        parsed = parse(task.text)
        if parsed is None:
            return None
        found = tables(task.text, parsed.root)
        whole = _condensed(parsed, Writer(task.text, found, None).write(parsed.root, by_line=parsed.by_line))
        size = tokens(render(whole, None), task.count)
        chosen = _Choice(task, parsed, found).fitting() if size > task.target else None
        if chosen is not None:
            return chosen
        return whole if size < tokens(task.text, task.count) else None


def _condensed(parsed: Parsed, parts: Sequence[str | Gap]) -> Condensed:
    around = [parsed.before] if parsed.before else [], [parsed.after] if parsed.after else []
    return Condensed((*around[0], *parts, *around[1]), parsed.root.leaves, UNIT)


def _named(task: Task, root: Node) -> Iterator[Node]:
    """Follow the paths in the question from the root, as they stand or without their first step (a variable's name)."""
    paths = dict.fromkeys(_PATH.findall(task.question[: bm25.MOST_QUESTION]))
    for path in list(paths)[:MOST_PATHS]:
        steps = [step[step.lastindex or 0] for step in _STEP.finditer(path) if step[0] != "$"]
        for skipped in (0, 1):
            node = _follow(root, steps[skipped:])
            if node is not None and node is not root:
                yield node
                break


def _follow(root: Node, steps: Sequence[str]) -> Node | None:
    node = root
    for step in steps:
        if node.keys is not None and f'"{step}"' in node.keys:
            node = node.items[node.keys.index(f'"{step}"')]
        elif node.keys is None and step.isdecimal() and int(step) < len(node.items):
            node = node.items[int(step)]
        else:
            return None
    return node


def _units_under(node: Node, index_of: Mapping[Node, int]) -> list[int]:
    """List the units that make up a node, or the one that it is a part of."""
    above: Node | None = node
    while above is not None and above not in index_of:
        above = above.parent
    if above is not node:
        return [] if above is None else [index_of[above]]
    found: list[int] = []
    stack = [node]
    while stack:
        one = stack.pop()
        if one in index_of:
            found.append(index_of[one])
            stack.extend(one.items)
    return found


class _Choice:
    """The units of a tree in the order of the text: containers (never chosen for themselves), leaves, whole rows."""

    def __init__(self, task: Task, parsed: Parsed, tables: dict[Node, Table]) -> None:
        self.task = task
        self.parsed = parsed
        self.tables = tables
        self.nodes: list[Node] = []
        self.parents: list[int] = []
        self.sizes: list[int] = []
        self._gather()

    def _gather(self) -> None:
        stack = [(self.parsed.root, -1, False)]
        while stack:
            node, parent, whole = stack.pop()
            index = len(self.nodes)
            whole = whole or not node.items
            self.nodes.append(node)
            self.parents.append(parent)
            self.sizes.append(node.leaves if whole else 0)
            if not whole:
                rows = self.tables.get(node)
                narrow = rows is not None and rows.narrow
                stack.extend((item, index, narrow) for item in reversed(node.items))

    def fitting(self) -> Condensed | None:
        """Choose as many units as fit the task's target."""
        spans = [
            (node.first, node.end if size else node.start) for node, size in zip(self.nodes, self.sizes, strict=True)
        ]
        scores = self._scores(spans)
        must = self._on_named_paths(scores)
        units = Units(self.task.text, spans, scores, UNIT, sizes=self.sizes, parents=self.parents, must=must, marker=0)
        return fit(self.task, len(self.task.text), lambda budget: self._written(choose(units, budget)))

    def _written(self, chosen: bytearray) -> Condensed:
        kept: dict[Node, int] = defaultdict(int)
        index = chosen.find(1)
        while index >= 0:
            node: Node | None = self.nodes[index]
            while node is not None and self.sizes[index]:
                kept[node] += self.sizes[index]
                node = node.parent
            index = chosen.find(1, index + 1)
        return _condensed(
            self.parsed, Writer(self.task.text, self.tables, kept).write(self.parsed.root, by_line=self.parsed.by_line)
        )

    def _on_named_paths(self, scores: list[float]) -> list[int]:
        """Find what stands on the paths named in the question; where that is much, only make it worth more."""
        index_of = {node: index for index, node in enumerate(self.nodes)}
        must: list[int] = []
        for node in _named(self.task, self.parsed.root):
            under = _units_under(node, index_of)
            if sum(self.sizes[index] for index in under) <= FEW:
                must += under
            else:
                for index in under:
                    scores[index] += 0.5
        return sorted(set(must))

    def _scores(self, spans: Sequence[bm25.Span]) -> list[float]:
        own = lines.normalised(bm25.score(self.task.text, spans, bm25.query(self.task.question)))
        best = list(own)
        for index in range(len(own) - 1, 0, -1):
            best[self.parents[index]] = max(best[self.parents[index]], best[index])
        most = self.parsed.root.leaves / 2
        beside = [0.0] * len(own)
        under = [0.0] * len(own)
        edges = [0.0] * len(own)
        scores = self._oddities(spans)
        for index, (node, parent) in enumerate(zip(self.nodes, self.parents, strict=True)):
            if parent >= 0:
                beside[index] = 0.85 * beside[parent]
                under[index] = 0.85 * under[parent]
                edges[index] = 0.7 * edges[parent] + self._edge(node)
            if self.sizes[index]:
                scores[index] += own[index] + BESIDE * beside[index] + UNDER * under[index] + edges[index]
                scores[index] -= 0.1 * min(1.0, (node.end - node.start) / 1000)
            else:
                beside[index] = max(beside[index], best[index] if node.leaves <= most else 0.0)
                under[index] += own[index]
        return scores

    def _edge(self, node: Node) -> float:
        siblings = node.parent.items if node.items and node.parent is not None and node.parent.keys is None else []
        return FIRST if siblings and node is siblings[0] else LAST if siblings and node is siblings[-1] else 0.0

    def _oddities(self, spans: Sequence[bm25.Span]) -> list[float]:
        """Say of each unit what it is worth for being an error, or for a value that hardly any of its like has."""
        text = self.task.text
        grades = signals.grades(text, spans)
        scores = [
            ODD if grade >= signals.ERROR and not _NOTHING_WRONG.search(text, *span) else 0.0
            for grade, span in zip(grades, spans, strict=True)
        ]
        for index in self._outliers():
            scores[index] = ODD
        return scores

    def _outliers(self) -> Iterator[int]:
        """Find the odd ones among the values of one key in the objects of one array, or of one column."""
        index_of = {node: index for index, node in enumerate(self.nodes)}
        text = self.task.text
        for node, rows in self.tables.items():
            for path in rows.columns:
                if path in rows.shared:
                    continue
                having = [at for at, row in enumerate(rows.rows) if path in row]
                cells = [rows.rows[at][path] for at in having]
                odd = _odd([text[cell.start : min(cell.end, cell.start + 80)] for cell in cells])
                units = (node.items[having[at]] if rows.narrow else cells[at] for at in odd)
                yield from (index_of[unit] for unit in units if unit in index_of)


def _odd(values: Sequence[str]) -> list[int]:
    """Find the values that are rare among few different ones, and the numbers far from all others."""
    if len(values) < FEWEST_ALIKE:
        return []
    counts = Counter(values)
    if len(counts) <= max(3, len(values) // 5):
        rare = max(1, len(values) // 20)
        return [at for at, value in enumerate(values) if counts[value] <= rare]
    try:
        numbers = [float(value) for value in values]
    except ValueError:
        return []
    mean = sum(numbers) / len(numbers)
    spread = (sum((number - mean) ** 2 for number in numbers) / len(numbers)) ** 0.5
    return [at for at, number in enumerate(numbers) if abs(number - mean) > FAR * spread]
