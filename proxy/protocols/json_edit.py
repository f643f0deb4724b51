"""Replaces strings in a JSON text, puts elements into its arrays, and leaves every other byte as it came (law 5).

The text is walked once, without recursion. A splice that does not find every string and array where and as it should be
changes nothing at all, and says so.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import orjson

Path = tuple[str | int, ...]
# Possessive: what a string's part has taken it never gives back, which saves a quarter of the time.
_TOKEN = re.compile(rb'[\[\]{},:]|"[^"\\]*+(?:\\.[^"\\]*+)*+"', re.DOTALL)
_OBJECT, _BACKSLASH = 0x7B, 0x5C
LONG_TEXT_BYTES = 10_000  # bytes of a text of which a part may be left unread
END = -1


class JsonEditError(ValueError):
    """The JSON text does not hold what is expected at a path."""


@dataclass(frozen=True, slots=True)
class StringEdit:
    """What a string said, and what it shall say."""

    old: str
    new: str


@dataclass(frozen=True, slots=True)
class ArrayEdit:
    """Changes to an array: `cut` elements go from its beginning, then JSON texts come in before an element, by index.

    An index counts the elements as they stand in the text; `END` is behind the last one.
    """

    drop_count: int = 0
    insertions: Mapping[int, Sequence[bytes]] = field(default_factory=dict[int, Sequence[bytes]])


class BodyChanges(NamedTuple):
    """What a body gets: strings edited, elements woven in, and the tokens that come with them."""

    string_edits: Mapping[Path, StringEdit]
    array_edits: Mapping[Path, ArrayEdit]
    tokens: int


NO_CHANGES = BodyChanges({}, {}, 0)


class _ArraySpan(NamedTuple):
    """An array in the text: where each element begins, and where the bracket stands that closes it."""

    path: Path
    starts: list[int]
    end: int


class _StringSpan(NamedTuple):
    """A string in the text: its path, its first byte, the byte after its last."""

    path: Path
    start: int
    end: int


class _Frame:
    """An open object or array: the edits wanted beneath it, and where in it the walk stands."""

    __slots__ = ("array", "edits", "is_object", "key")

    def __init__(self, edits: dict[str | int | None, Any] | None, *, is_object: bool) -> None:
        self.edits = edits
        self.is_object = is_object
        self.key: str | int | None = None if is_object else 0
        self.array: tuple[Path, list[int]] | None = None


def apply_edits(
    text: bytes, string_edits: Mapping[Path, StringEdit], array_edits: Mapping[Path, ArrayEdit] | None = None
) -> bytes:
    """Return the JSON text with the strings at these paths replaced and the arrays at those changed.

    `text` must be valid JSON. What is cut off from an array is not edited as well.

    Raises:
        SpliceError: a path does not lead to a string or an array, or to another string than the edit expects.
    """
    array_edits = array_edits or {}
    at = 0 if string_edits else _find_tail_start(text, array_edits)
    if at:  # nothing changes before this key of the outermost object, so that much need not be walked
        return text[:at] + apply_edits(b"{" + text[at:], string_edits, array_edits)[1:]
    changes: list[tuple[int, int, bytes]] = []
    left = set(string_edits) | set(array_edits)
    for found in _find_spans(text, _build_path_tree(string_edits, array_edits)):
        left.discard(found.path)
        if isinstance(found, _StringSpan):
            changes += _iter_string_changes(text, found, string_edits[found.path])
        else:
            changes += _iter_array_changes(found, array_edits[found.path])
    if left:
        raise JsonEditError(f"nothing of the kind at {min(left, key=str)}")
    return _apply_changes(text, changes)


def _find_tail_start(text: bytes, array_edits: Mapping[Path, ArrayEdit]) -> int:
    """Return where in the second half of the text the one key stands that the weaves are about; 0 where it does not."""
    keys = {path[0] for path in array_edits if path}
    if len(keys) != 1 or len(text) < LONG_TEXT_BYTES:
        return 0
    key = orjson.dumps(keys.pop())
    at = text.rfind(key, len(text) // 2)
    if at < 1 or text[at - 1] == _BACKSLASH:
        return 0
    try:  # only of the outermost object is what follows a whole one; the key must not come twice
        whole = isinstance(orjson.loads(b"{" + text[at:]), dict)
    except orjson.JSONDecodeError:
        return 0
    return at if whole and text.count(key, 0, at) == 0 else 0


def append_elements(text: bytes, path: Path, elements: Sequence[bytes]) -> bytes:
    """Return the JSON text with more elements at the end of an array; every byte before them stays where it was."""
    return apply_edits(text, {}, {path: ArrayEdit(insertions={END: elements})})


def _iter_string_changes(text: bytes, found: _StringSpan, edit: StringEdit) -> Iterator[tuple[int, int, bytes]]:
    if orjson.loads(text[found.start : found.end]) != edit.old:
        raise JsonEditError(f"another text than expected at {found.path}")
    if edit.new != edit.old:
        yield found.start, found.end, orjson.dumps(edit.new)


def _iter_array_changes(found: _ArraySpan, array_edit: ArrayEdit) -> Iterator[tuple[int, int, bytes]]:
    bounds = [*found.starts, found.end]
    length = len(found.starts)
    if array_edit.drop_count > length or max(array_edit.insertions, default=0) > length:
        raise JsonEditError(f"the array at {found.path} has {length} elements only")
    if array_edit.drop_count:
        yield bounds[0], bounds[array_edit.drop_count], b""
    for place, elements in array_edit.insertions.items():
        index = length if place == END else place
        joined = b",".join(elements)
        alone = index == length and array_edit.drop_count == length
        if joined:
            at = bounds[index]
            yield at, at, joined if alone else b"," + joined if index == length else joined + b","


def _apply_changes(text: bytes, changes: list[tuple[int, int, bytes]]) -> bytes:
    pieces: list[bytes] = []
    at = 0
    for start, end, new in sorted(changes, key=lambda change: change[:2]):
        if start < at:  # inside what was cut off
            continue
        pieces += [text[at:start], new]
        at = end
    return b"".join([*pieces, text[at:]])


def _build_path_tree(
    string_edits: Mapping[Path, StringEdit], array_edits: Mapping[Path, ArrayEdit]
) -> dict[str | int | None, Any]:
    tree: dict[str | int | None, Any] = {}
    for path in string_edits:
        _get_node(tree, path[:-1])[path[-1]] = path
    for path in array_edits:
        _get_node(tree, path)[None] = path
    return tree


def _get_node(tree: dict[str | int | None, Any], path: Path) -> dict[str | int | None, Any]:
    for step in path:
        tree = tree.setdefault(step, {})
    return tree


def _find_spans(text: bytes, tree: dict[str | int | None, Any]) -> Iterator[_StringSpan | _ArraySpan]:
    """Walk the JSON text and yield the strings and arrays that are wanted."""
    stack = [_Frame({0: tree}, is_object=False)]
    for token in _TOKEN.finditer(text):
        frame = stack[-1]
        match text[token.start()]:
            case 0x7B | 0x5B as opening:
                stack.append(_open_frame(frame, opening == _OBJECT, token.end()))
            case 0x7D | 0x5D:
                closed = stack.pop()
                if closed.array is not None:
                    yield _close_array(text, closed.array, token.start())
            case 0x2C:
                frame.key = None if frame.is_object else int(frame.key or 0) + 1
                if frame.array is not None:
                    frame.array[1].append(token.end())
            case 0x22 if frame.key is None:
                frame.key = orjson.loads(token[0]) if frame.edits else ""
            case 0x22 if frame.edits and isinstance(path := frame.edits.get(frame.key), tuple):
                yield _StringSpan(path, token.start(), token.end())
            case _:
                pass


def _open_frame(frame: _Frame, is_object: bool, at: int) -> _Frame:
    beneath = frame.edits.get(frame.key) if frame.edits else None
    inner = _Frame(None if isinstance(beneath, tuple) else beneath, is_object=is_object)  # no string stands there
    if not is_object and inner.edits and None in inner.edits:
        inner.array = (inner.edits[None], [at])
    return inner


def _close_array(text: bytes, found: tuple[Path, list[int]], end: int) -> _ArraySpan:
    path, starts = found
    empty = len(starts) == 1 and not text[starts[0] : end].strip()
    return _ArraySpan(path, [] if empty else starts, end)
