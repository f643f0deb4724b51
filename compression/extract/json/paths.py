"""Finds the nodes of a JSON tree named by paths in a question: `$.items[3].name`, `data.items[3]`, `jq .created`."""

import re
from bisect import bisect_right
from collections.abc import Iterator, Sequence

from ..core import bm25
from .tree import JsonNode, parse_items

MAX_PATHS = 20

_JSON_PATH = re.compile(r"[\w$@-]*(?:\.[\w$@-]+|\.?\[(?:\d{1,9}|\"[^\"\n]{1,100}\"|'[^'\n]{1,100}')\])+")
_PATH_STEP = re.compile(r"\[(\d+)\]|\[[\"']([^\"']+)[\"']\]|([\w$@-]+)")


def find_named_nodes(question: str, text: str, root: JsonNode) -> Iterator[JsonNode]:
    """Yield the nodes of the paths in the question; the first step of a path may be the name of a variable."""
    paths = dict.fromkeys(_JSON_PATH.findall(question[: bm25.MAX_QUESTION_CHARACTERS]))
    for path in list(paths)[:MAX_PATHS]:
        steps = [step[step.lastindex or 0] for step in _PATH_STEP.finditer(path) if step[0] != "$"]
        for skipped in (0, 1):
            node = _follow_path(text, root, steps[skipped:])
            if node is not None and node is not root:
                yield node
                break


def _follow_path(text: str, root: JsonNode, steps: Sequence[str]) -> JsonNode | None:
    node = root
    for step in steps:
        items = parse_items(text, node)
        if node.keys is not None and f'"{step}"' in node.keys:
            node = items[node.keys.index(f'"{step}"')]
        elif node.keys is None and step.isdecimal() and int(step) < node.size:
            element = int(step)
            node = items[element if node.element_indices is None else bisect_right(node.element_indices, element) - 1]
        else:
            return node if node.element_count > 1 else None
    return node
