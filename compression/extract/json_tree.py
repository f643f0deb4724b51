"""JSON as a tree of places in its text: no value is ever converted, so none can be altered.

Takes only what a strict parser takes as well, also one value per line, also a value with a few lines of other text
around it. Nothing recurses on the input; what is nested too deeply stays one opaque value.
"""

import re
from typing import NamedTuple

import orjson

DEEPEST = 48  # levels; a container further down is a value like any other
MOST_AROUND = 400  # characters of other text before, and after

_PART = re.compile(r'"[^"\\]*(?:\\.[^"\\]*)*"|[{}\[\]]|[^\s{}\[\],:"]+', re.DOTALL)
_TOKEN = re.compile(r'"[^"\\]*(?:\\.[^"\\]*)*"|[{}\[\],:]|[^\s{}\[\],:"]+', re.DOTALL)
_OPENING = re.compile(r"^\s*[\[{]", re.MULTILINE)


class Node:
    """One value: where it stands in the text, and what it holds.

    `items` is NOTHING for a scalar; `keys` (literals, quotes included) is None for everything but objects. `first` is
    where the value's key begins, or the value itself where it has none. `leaves` counts scalars and empty containers.
    """

    __slots__ = ("end", "first", "items", "keys", "leaves", "parent", "start")

    def __init__(self, first: int, start: int, end: int, parent: "Node | None") -> None:
        self.first = first
        self.start = start
        self.end = end
        self.parent = parent
        self.items: list[Node] = NOTHING
        self.keys: list[str] | None = None
        self.leaves = 1


NOTHING: list[Node] = []  # never added to


class Parsed(NamedTuple):
    """A tree and the text around it; `by_line` when the text held one value per line, gathered in an array here."""

    root: Node
    before: str
    after: str
    by_line: bool


def takes(text: str) -> bool:
    """Say whether `parse` would take the text, without building anything."""
    bounds = _bounds(text)
    return bounds is not None and (_is_json(text[bounds[0] : bounds[1]]) or _is_by_line(text))


def parse(text: str) -> Parsed | None:
    """Parse a text that is JSON; None for everything else."""
    bounds = _bounds(text)
    if bounds is None:
        return None
    if _is_json(text[bounds[0] : bounds[1]]):
        root = _tree(text, *bounds)
        return Parsed(root, text[: bounds[0]].strip("\r\n"), text[bounds[1] :].strip("\r\n"), by_line=False)
    return Parsed(_tree_by_line(text), "", "", by_line=True) if _is_by_line(text) else None


def minified(text: str, start: int, end: int) -> str:
    """Write a value without blanks between its tokens; every token stays as it is."""
    return "".join(_TOKEN.findall(text, start, end))


def _bounds(text: str) -> tuple[int, int] | None:
    """Find where JSON may begin and end: the first line that opens a container, the last character that closes one."""
    opening = _OPENING.search(text, 0, MOST_AROUND)
    last = max(0, len(text) - MOST_AROUND)
    end = max(text.rfind("}", last), text.rfind("]", last)) + 1
    return (opening.end() - 1, end) if opening is not None and end > opening.end() else None


def _is_json(text: str) -> bool:
    try:
        orjson.loads(text)
    except ValueError:
        return False
    return True


def _is_by_line(text: str) -> bool:
    lines = [line for line in text.split("\n") if line and not line.isspace()]
    return len(lines) > 1 and all(line.lstrip()[0] in "{[" and _is_json(line) for line in lines)


def _tree_by_line(text: str) -> Node:
    """Gather the containers, one per line, in an array."""
    root = Node(0, 0, len(text), None)
    root.items = []
    root.leaves = 0
    at = 0
    for line in text.split("\n"):
        if line and not line.isspace():
            start, end = at + len(line) - len(line.lstrip()), at + len(line.rstrip())
            node = _tree(text, start, end)
            node.parent = root
            root.items.append(node)
            root.leaves += node.leaves
        at += len(line) + 1
    return root


def _tree(text: str, start: int, stop: int) -> Node:
    """Build the tree of a container that a strict parser took, so that nothing need be checked again."""
    top = current = _opened(text, start, start, None)
    key: re.Match[str] | None = None
    depth, skipped = 1, 0
    for match in _PART.finditer(text, start + 1, stop):
        at, end = match.span()
        head = text[at]
        if skipped:
            skipped += (head in "{[") - (head in "}]")
            current.items[-1].end = end
        elif head in "}]":
            current.end = end
            current.leaves = sum([item.leaves for item in current.items]) or 1
            current = current.parent or top
            depth -= 1
        elif key is None and current.keys is not None:
            key = match
        else:
            first = at if key is None else key.start()
            if key is not None and current.keys is not None:
                current.keys.append(key[0])
                key = None
            deep = depth == DEEPEST
            node = Node(first, at, end, current) if deep or head not in "{[" else _opened(text, first, at, current)
            current.items.append(node)
            skipped = int(deep and head in "{[")
            if node.items is not NOTHING:
                current, depth = node, depth + 1
    return top


def _opened(text: str, first: int, start: int, parent: Node | None) -> Node:
    node = Node(first, start, start, parent)
    node.items = []
    node.keys = [] if text[start] == "{" else None
    return node
