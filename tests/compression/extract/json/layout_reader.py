"""Reads a complete JSON layout back into its value, to prove that it is lossless."""

import json
import re
from typing import Any, cast

from clara_proxy.compression.extract.json import writer


class Number(str):
    """A number as written."""

    __slots__ = ()


def _members(pairs: list[tuple[str, Any]]) -> Any:
    return dict(pairs) if len(dict(pairs)) == len(pairs) else tuple(pairs)  # duplicate keys stay


DECODER = json.JSONDecoder(parse_int=Number, parse_float=Number, object_pairs_hook=_members, strict=False)
_KEY = r'"(?:[^"\\]|\\.)*"|[A-Za-z_$@][\w$@-]*'
_NAME = re.compile(
    rf"(?:{_KEY}|\[\d+(?:-\d+)?\])(?:\.(?:{_KEY})|\[\d+\](?=[\[.(:]))*?(?=:|\[\d+\][:{{]|\(\d+\){{)", re.ASCII
)
_HEAD = re.compile(r"(\[(\d+)\]|\((\d+)\))\{(.*)\}:$", re.DOTALL)


class Reader:
    """Reads the lines of a complete layout."""

    def __init__(self, lines: list[str]) -> None:
        self.lines = lines
        self.position = 0
        self.headers: dict[str, str] = {}  # of the table before, by name

    def root(self) -> Any:
        line = self.lines[0]
        if len(self.lines) == 1 and not _HEAD.match(line):
            return DECODER.decode(line)
        if _HEAD.match(line):
            self.position = 1
            return self._table(line, "")
        array = re.fullmatch(r"\[(\d+)\]:", line)
        self.position = 1 if array else 0
        return self._children(0, int(array[1]) if array else None)

    def _children(self, depth: int, size: int | None) -> Any:
        members: list[tuple[str, Any]] = []
        while self.position < len(self.lines) and self._depth() == depth:
            name = _NAME.match(self.lines[self.position].lstrip(" "))
            assert name is not None, self.lines[self.position]
            rest = self.lines[self.position][depth + name.end() :]
            self.position += 1
            at_once = re.fullmatch(r"\[(\d+)-(\d+)\]", name[0])
            if at_once:
                several = zip(range(int(at_once[1]), int(at_once[2]) + 1), DECODER.decode(f"[{rest[2:]}]"), strict=True)
                members += [(f"[{index}]", value) for index, value in several]
                continue
            keys = re.findall(rf"{_KEY}|\[\d+\]", name[0])
            value = self._value(rest, depth, re.sub(r"\[\d+\]", "", name[0]))
            for key in reversed(keys[1:]):
                value = {_plain(key): value}
            members.append((keys[0], value))
        if size is not None:
            assert [key for key, _ in members] == [f"[{index}]" for index in range(size)]
            return [value for _, value in members]
        return _members([(_plain(key), value) for key, value in members])

    def _depth(self) -> int:
        return len(self.lines[self.position]) - len(self.lines[self.position].lstrip(" "))

    def _value(self, rest: str, depth: int, name: str) -> Any:
        if rest.startswith(": "):
            return DECODER.decode(rest[2:])
        if rest == ":":
            return self._children(depth + 1, None)
        if rest.startswith(":"):  # compact, as the text
            return DECODER.decode(rest[1:])
        array = re.fullmatch(r"\[(\d+)\]:", rest)
        return self._children(depth + 1, int(array[1])) if array else self._table(rest, name)

    def _table(self, head: str, name: str) -> Any:
        match = _HEAD.match(head)
        assert match is not None, head
        if match[4] != writer.SAME_COLUMNS:
            self.headers[name] = match[4]
        columns, shared = self._columns(self.headers[name])
        rows: list[tuple[str, Any]] = []
        for _ in range(int(match[2] or match[3])):
            line = self.lines[self.position].lstrip(" ")
            self.position += 1
            key = ""
            if match[3]:
                row_name = re.match(rf"({_KEY}):", line)
                assert row_name is not None
                key, line = _plain(row_name[1]), line[row_name.end() :]
            rows.append((key, self._row(line, columns, shared)))
        return dict(rows) if match[3] else [row for _, row in rows]

    def _columns(self, text: str) -> tuple[list[list[str]], dict[int, Any]]:
        columns: list[list[str]] = []
        shared: dict[int, Any] = {}
        offset = 0
        while offset < len(text):
            name = re.compile(rf"(?:{_KEY})(?:\.(?:{_KEY}))*").match(text, offset)
            assert name is not None, text[offset:]
            offset = name.end()
            if text[offset : offset + 1] == "=":
                shared[len(columns)], offset = DECODER.raw_decode(text, offset + 1)
            columns.append([_plain(key) for key in re.findall(_KEY, name[0])])
            offset += 1
        return columns, shared

    def _row(self, line: str, columns: list[list[str]], shared: dict[int, Any]) -> Any:
        row: dict[str, Any] = {}
        offset = 0
        for index, path in enumerate(columns):
            if index in shared:
                value, present = shared[index], True
            else:
                present = offset < len(line) and line[offset] != ","
                value, offset = DECODER.raw_decode(line, offset) if present else (None, offset)
                offset += 1
            if present:
                inner = row
                for key in path[:-1]:
                    inner = inner.setdefault(key, {})
                inner[path[-1]] = value
        return row


def _plain(key: str) -> str:
    return cast("str", json.loads(key)) if key.startswith('"') else key
