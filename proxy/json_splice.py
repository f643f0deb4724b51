"""Replaces strings inside a JSON text and leaves every other byte as it came (law 5).

The text is walked once, without recursion. A splice that does not find every string where and as it should be
changes nothing at all, and says so.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import orjson

Path = tuple[str | int, ...]
_TOKEN = re.compile(rb'[\[\]{},:]|"[^"\\]*(?:\\.[^"\\]*)*"', re.DOTALL)
_OBJECT = 0x7B


class SpliceError(ValueError):
    """The JSON text does not hold the expected string at a path."""


@dataclass(frozen=True, slots=True)
class Edit:
    """What a string said, and what it shall say."""

    old: str
    new: str


class _Frame:
    """An open object or array: the edits wanted beneath it, and where in it the walk stands."""

    __slots__ = ("edits", "is_object", "key")

    def __init__(self, edits: dict[str | int | None, Any] | None, *, is_object: bool) -> None:
        self.edits = edits
        self.is_object = is_object
        self.key: str | int | None = None if is_object else 0


def replace(text: bytes, edits: Mapping[Path, Edit]) -> bytes:
    """Return the JSON text with the strings at these paths replaced; `text` must be valid JSON.

    Raises:
        SpliceError: a path does not lead to a string, or to another string than the edit expects.
    """
    pieces: list[bytes] = []
    at = 0
    left = set(edits)
    for path, start, end in _strings(text, _tree(edits)):
        edit = edits[path]
        if orjson.loads(text[start:end]) != edit.old:
            raise SpliceError(f"another text than expected at {path}")
        if edit.new != edit.old:
            pieces += [text[at:start], orjson.dumps(edit.new)]
            at = end
        left.discard(path)
    if left:
        raise SpliceError(f"no string at {min(left, key=str)}")
    return b"".join([*pieces, text[at:]])


def _tree(edits: Mapping[Path, Edit]) -> dict[str | int | None, Any]:
    tree: dict[str | int | None, Any] = {}
    for path in edits:
        node = tree
        for step in path[:-1]:
            node = node.setdefault(step, {})
        node[path[-1]] = path
    return tree


def _strings(text: bytes, tree: dict[str | int | None, Any]) -> Iterator[tuple[Path, int, int]]:
    """Walk the JSON text and yield the wanted strings: path, first byte, byte after the last."""
    stack = [_Frame({0: tree}, is_object=False)]
    for token in _TOKEN.finditer(text):
        frame = stack[-1]
        match text[token.start()]:
            case 0x7B | 0x5B as opening:
                beneath = frame.edits.get(frame.key) if frame.edits else None
                tree_beneath = None if isinstance(beneath, tuple) else beneath  # no string stands there
                stack.append(_Frame(tree_beneath, is_object=opening == _OBJECT))
            case 0x7D | 0x5D:
                stack.pop()
            case 0x2C:
                frame.key = None if frame.is_object else int(frame.key or 0) + 1
            case 0x22 if frame.key is None:
                frame.key = orjson.loads(token[0]) if frame.edits else ""
            case 0x22 if frame.edits and isinstance(path := frame.edits.get(frame.key), tuple):
                yield path, token.start(), token.end()
            case _:
                pass
