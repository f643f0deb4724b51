"""Finds in a JSON tree what a question names by its path: `$.items[3].name`, `data.items[3]`, `jq .time.created`."""

import re
from bisect import bisect_right
from collections.abc import Iterator, Sequence

from ..core import bm25
from .tree import Node, unfold

MOST_PATHS = 20

_PATH = re.compile(r"[\w$@-]*(?:\.[\w$@-]+|\.?\[(?:\d{1,9}|\"[^\"\n]{1,100}\"|'[^'\n]{1,100}')\])+")
_STEP = re.compile(r"\[(\d+)\]|\[[\"']([^\"']+)[\"']\]|([\w$@-]+)")


def named(question: str, text: str, root: Node) -> Iterator[Node]:
    """Follow the paths in the question from the root, as they stand or without their first step (a variable's name)."""
    paths = dict.fromkeys(_PATH.findall(question[: bm25.MOST_QUESTION]))
    for path in list(paths)[:MOST_PATHS]:
        steps = [step[step.lastindex or 0] for step in _STEP.finditer(path) if step[0] != "$"]
        for skipped in (0, 1):
            node = _follow(text, root, steps[skipped:])
            if node is not None and node is not root:
                yield node
                break


def _follow(text: str, root: Node, steps: Sequence[str]) -> Node | None:
    node = root
    for step in steps:
        items = unfold(text, node)
        if node.keys is not None and f'"{step}"' in node.keys:
            node = items[node.keys.index(f'"{step}"')]
        elif node.keys is None and step.isdecimal() and int(step) < node.size:
            node = items[int(step) if node.places is None else bisect_right(node.places, int(step)) - 1]
        else:
            return node if node.many > 1 else None
    return node
