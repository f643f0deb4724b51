"""A JSON text as a tree of offsets: no value is converted, so no value can change.

Accepts JSON as a strict parser does, several values in a row, and JSON with a few lines of other text around it.
Nothing recurses on the input; a value nested too deeply stays one opaque value. A container without containers is one
match of a pattern, and is parsed only on demand (`parse_items`), because most of them are kept or left out whole.
"""

import json
import re
from collections.abc import Sequence
from itertools import accumulate
from typing import NamedTuple

import orjson

WIDE_CHARACTERS = 450  # the members of a longer object are selected one by one
MAX_DEPTH = 48  # a deeper container is opaque
MAX_SURROUNDING_CHARACTERS = 400  # of other text before, and after
MAX_UNITS = 3_000  # approximate number of units in a text
JSON_LINES, NOT_MEMOIZED = (0, 0), (-1, -1)
MEMO_SIZE = 1_000  # texts with known bounds
RUN_CHARACTERS = 60  # array elements merged into one item; more in a long text

_STRING = r'"[^"\\]*+(?:\\.[^"\\]*+)*+"'
_SCALAR = r'[^\s{}\[\],:"]+'
_FLAT_CONTAINER = (
    rf'[{{\[][^{{}}\[\]"]*+(?:{_STRING}[^{{}}\[\]"]*+)*+[}}\]]'  # possessive: what does not fit costs one look
)
_SMALL_ARRAY = r'\[[^\[\]{}"]{0,20}+\]'  # an array of a few numbers
_FLAT_OBJECT = rf'{{[^{{}}\[\]"]*+(?:{_STRING}[^{{}}\[\]"]*+)++}}'
_TREE_PART = re.compile(
    rf"{_STRING}|({_SMALL_ARRAY}(?:\s{{0,9}}+,\s{{0,9}}+{_SMALL_ARRAY}){{1,2}}+)|{_FLAT_CONTAINER}"
    rf"|(\[\s*+{_FLAT_OBJECT}(?:\s*+,\s*+{_FLAT_OBJECT})*+\s*+\])|[{{}}\[\]]|{_SCALAR}",
    re.DOTALL,
)
_FLAT_OBJECT_PATTERN = re.compile(_FLAT_OBJECT, re.DOTALL)
SMALL_ARRAYS_GROUP, OBJECT_ARRAY_GROUP = 1, 2  # groups of the pattern above
_TOKEN = re.compile(rf"{_STRING}|[{{}}\[\],:]|{_SCALAR}", re.DOTALL)
_OBJECT_TOKEN = re.compile(rf"{_STRING}|[{{}}]|{_SCALAR}", re.DOTALL)
_LITERAL = re.compile(rf"{_STRING}|{_SCALAR}", re.DOTALL)
_NEXT_CHARACTER = re.compile(r"\S")


def _refuse_constant(name: str) -> None:
    """Refuse `NaN` and `Infinity`, which are no JSON."""
    raise ValueError(name)


_DECODER = json.JSONDecoder(parse_int=str, parse_float=str, parse_constant=_refuse_constant)
_CONTAINER_START = re.compile(r"^\s*[\[{]", re.MULTILINE)


_bounds_memo: dict[tuple[int, int], tuple[int, int] | None] = {}


class JsonNode:
    """A value, or `element_count` adjacent elements of an array, all scalars or all short arrays of scalars.

    `items`: empty for a scalar, for merged elements, and for an unparsed container. `keys`: literals with quotes, of an
    object; else None. `key_start`: the offset of the value's key, or of the value. `leaf_count`: the number of scalars
    and empty containers. `element_indices`: the first element of each item, if items are merged. `object_tokens`: all
    braces, keys and values of an array of flat objects with equal numbers of members.
    """

    __slots__ = (
        "element_count",
        "element_indices",
        "end",
        "is_unparsed",
        "items",
        "key_start",
        "keys",
        "leaf_count",
        "object_tokens",
        "parent",
        "start",
    )

    def __init__(self, key_start: int, start: int, end: int, parent: "JsonNode | None") -> None:
        self.key_start = key_start
        self.start = start
        self.end = end
        self.parent = parent
        self.items: list[JsonNode] = NO_ITEMS
        self.keys: list[str] | None = None
        self.leaf_count = 1
        self.element_count = 1
        self.is_unparsed = False
        self.element_indices: Sequence[int] | None = None
        self.object_tokens: list[str] | None = None

    @property
    def size(self) -> int:
        """Return the number of elements or members."""
        if self.element_indices is None:
            return len(self.items)
        return self.element_indices[-1] + self.items[-1].element_count

    def element_index(self, item: int) -> int:
        """Return the index of the first element of an item."""
        return item if self.element_indices is None else self.element_indices[item]


NO_ITEMS: list[JsonNode] = []  # shared; never changed


class ParsedJson(NamedTuple):
    """A tree and the text around it; the values of JSON lines are the items of one array."""

    root: JsonNode
    text_before: str
    text_after: str
    is_json_lines: bool


def is_parsable(text: str) -> bool:
    """Return True if `parse_json` accepts the text, without building a tree."""
    return _find_json(text) is not None


def parse_json(text: str) -> ParsedJson | None:
    """Parse JSON into a tree; return None for other text."""
    bounds = _find_json(text)
    if bounds is None:
        return None
    if bounds == JSON_LINES:
        return ParsedJson(_build_lines_tree(text), "", "", is_json_lines=True)
    start, end = bounds
    return ParsedJson(
        _build_tree(text, start, end), text[:start].strip("\r\n"), text[end:].strip("\r\n"), is_json_lines=False
    )


def minify(text: str, start: int, end: int) -> str:
    """Return a value without blanks between its tokens; tokens stay as they are."""
    if text.find('"', start, end) < 0:
        return "".join(text[start:end].split())  # without strings, every blank is between tokens
    return "".join(_TOKEN.findall(text, start, end))


def list_literals(text: str, node: JsonNode) -> list[str]:
    """Return the tokens of an unparsed container: the scalars of an array, or alternating keys and values."""
    return _LITERAL.findall(text, node.start, node.end)


def _find_json(text: str) -> tuple[int, int] | None:
    """Return the offsets of the JSON in a text; JSON_LINES for JSON lines; None for other text.

    The result is memoized by the text's hash, since a text is recognised before it is parsed.
    """
    key = (hash(text), len(text))
    bounds = _bounds_memo.get(key, NOT_MEMOIZED)
    if bounds != NOT_MEMOIZED:
        return bounds
    bounds = _find_candidate_bounds(text)
    if bounds is not None and not _is_json(text[bounds[0] : bounds[1]]):
        bounds = JSON_LINES if _is_json_sequence(text) else None
    if len(_bounds_memo) >= MEMO_SIZE:
        _bounds_memo.clear()
    _bounds_memo[key] = bounds
    return bounds


def _find_candidate_bounds(text: str) -> tuple[int, int] | None:
    """Return the offsets of the first line that opens a container and of the last character that closes one."""
    opening = _CONTAINER_START.search(text, 0, MAX_SURROUNDING_CHARACTERS)
    last = max(0, len(text) - MAX_SURROUNDING_CHARACTERS)
    end = max(text.rfind("}", last), text.rfind("]", last)) + 1
    return (opening.end() - 1, end) if opening is not None and end > opening.end() else None


def _is_json(text: str) -> bool:
    try:
        orjson.loads(text)
    except ValueError:
        return False
    return True


def find_value_end(text: str, start: int) -> int:
    """Return the offset after the object or array that begins at an offset; -1 if it is no JSON."""
    try:
        return _DECODER.raw_decode(text, start)[1]
    except (ValueError, RecursionError):
        return -1


def _is_json_sequence(text: str) -> bool:
    """Return True for several objects or arrays apart by white space only, on one line each or over many lines."""
    position = count = 0
    while (opening := _NEXT_CHARACTER.search(text, position)) is not None:
        position = find_value_end(text, opening.start()) if opening[0] in "{[" else -1
        if position < 0:
            return False
        count += 1
    return count > 1


def _build_lines_tree(text: str) -> JsonNode:
    """Build an array of all containers in a row."""
    root = JsonNode(0, 0, len(text), None)
    root.items = []
    _add_values(text, root, 0, len(text))
    _close_container(text, root, len(text))
    return root


def compute_unit_size(text: str) -> int:
    """Return the number of characters of a unit, which grows with the text so that units stay few."""
    return len(text) // MAX_UNITS


def _build_tree(text: str, start: int, stop: int) -> JsonNode:
    """Build the tree of a container; a strict parser has accepted it, so nothing is validated here."""
    wrapper = JsonNode(start, start, stop, None)
    wrapper.items = []
    _add_values(text, wrapper, start, stop)
    _close_container(text, wrapper, stop)
    root = wrapper.items[0]
    root.parent = None
    return root


def _add_values(text: str, container: JsonNode, start: int, stop: int) -> None:
    """Add the values between two offsets to a container, with all values inside them."""
    current = container
    key: re.Match[str] | None = None
    depth = skipped_depth = 0
    run = max(RUN_CHARACTERS, compute_unit_size(text))
    for match in _TREE_PART.finditer(text, start, stop):
        begin, end = match.span()
        head = text[begin]
        is_bracket = end == begin + 1 and head in "{}[]"
        if skipped_depth:
            skipped_depth += ((head in "{[") - (head in "}]")) if is_bracket else 0
            current.items[-1].end = end
        elif is_bracket and head in "}]":
            _close_container(text, current, end)
            current, depth = current.parent or container, depth - 1
        elif key is None and current.keys is not None:
            key = match
        elif is_bracket or key is not None or head != "[" or not _merge_into_neighbour(text, current, match, run):
            node = _add_node(current, key, match)
            key = None
            if is_bracket and depth == MAX_DEPTH:
                skipped_depth = 1
            elif is_bracket:
                node.items, node.keys = [], [] if head == "{" else None
                current, depth = node, depth + 1
            elif match.lastindex == OBJECT_ARRAY_GROUP:
                _read_object_array(text, node, is_opaque=depth == MAX_DEPTH)
            elif head in "{[":
                _defer_parsing(text, node)


def _read_object_array(text: str, node: JsonNode, *, is_opaque: bool) -> None:
    """Add all objects of an array of flat objects, unless it is nested too deeply."""
    if is_opaque:
        return
    spans = [match.span() for match in _FLAT_OBJECT_PATTERN.finditer(text, node.start + 1, node.end)]
    node.items = [JsonNode(start, start, end, node) for start, end in spans]
    for item in node.items:
        item.is_unparsed, item.leaf_count = True, 0  # counted by _close_container
    _close_container(text, node, node.end)


def _add_node(parent: JsonNode, key: re.Match[str] | None, match: re.Match[str]) -> JsonNode:
    start, end = match.span()
    node = JsonNode(start, start, end, parent)
    if key is not None and parent.keys is not None:
        node.key_start = key.start()
        parent.keys.append(key[0])
    if match.lastindex == SMALL_ARRAYS_GROUP:
        node.element_count = match[0].count("[")
        parent.element_indices = ()  # computed by _close_container
    parent.items.append(node)
    return node


def _close_container(text: str, node: JsonNode, end: int) -> None:
    """Set the end, the leaf count and the element indices of a container, and the leaf counts of unparsed items."""
    node.end = end
    items = node.items
    if node.element_indices is not None:
        node.element_indices = [0, *accumulate([item.element_count for item in items[:-1]])]
    leaf_counts = [item.leaf_count for item in items]
    if 0 in leaf_counts:
        uncounted = [item for item in items if not item.leaf_count]
        is_narrow = end - node.start <= WIDE_CHARACTERS * len(items)
        is_uniform = is_narrow and len(uncounted) == len(items)
        node.object_tokens = _list_regular_tokens(text, node) if is_uniform else None
        width = len(node.object_tokens) // len(items) // 2 - 1 if node.object_tokens is not None else 0
        for item in uncounted:
            is_wide = not width and item.end - item.start > WIDE_CHARACTERS  # the selector parses it anyway
            item.leaf_count = width or (
                len(parse_items(text, item)) if is_wide else _count_leaves(text, item.start, item.end)
            )
        leaf_counts = [item.leaf_count for item in items]
    node.leaf_count = sum(leaf_counts) or 1


def _list_regular_tokens(text: str, node: JsonNode) -> list[str] | None:
    """Return the tokens of an array of flat objects with equal numbers of members; None for other containers."""
    if node.keys is not None:
        return None
    tokens = _OBJECT_TOKEN.findall(text, node.start, node.end)
    count, step = len(node.items), tokens.index("}") + 1
    is_regular = len(tokens) == count * step and tokens[::step].count("{") == count == tokens[step - 1 :: step].count(
        "}"
    )
    return tokens if is_regular and step > 2 else None


def _merge_into_neighbour(text: str, array: JsonNode, match: re.Match[str], run: int) -> bool:
    """Merge a short array of scalars into the one before it in the same array; return False if it cannot be merged."""
    start, end = match.span()
    last = array.items[-1] if array.items and array.parent is not None else None  # JSON lines stay separate
    if (
        last is None
        or match.lastindex == OBJECT_ARRAY_GROUP
        or end - last.start > run
        or text[last.start] != "["
        or last.items
    ):
        return False
    last.leaf_count += _count_leaves(text, start, end)
    last.element_count += match[0].count("[") if match.lastindex == SMALL_ARRAYS_GROUP else 1
    last.end = end
    last.is_unparsed = False
    array.element_indices = ()  # computed by _close_container
    return True


def _defer_parsing(text: str, node: JsonNode) -> None:
    """Count the leaves of an array of scalars; leave an object to `_close_container`."""
    if text[node.start] == "{" and text.find('"', node.start, node.end) >= 0:
        node.is_unparsed = True
        node.leaf_count = 0  # counted by _close_container
        return
    node.leaf_count = _count_leaves(text, node.start, node.end)
    is_empty = node.leaf_count == 1 and _LITERAL.search(text, node.start, node.end) is None
    node.is_unparsed = node.element_count == 1 and not is_empty


def _count_leaves(text: str, start: int, end: int) -> int:
    if text[start] == "[" and text.find('"', start, end) < 0:
        return text.count(",", start, end) + 1
    literals = len(_LITERAL.findall(text, start, end))
    return (literals // 2 if text[start] == "{" else literals) or 1


def is_split(text: str, node: JsonNode, unit_size: int) -> bool:
    """Return True if the items of a node are selected one by one, rather than the node as a whole."""
    if not (node.items or node.is_unparsed):
        return False
    is_scalar_array = node.is_unparsed and text[node.start] == "["
    return node.end - node.start > (max(RUN_CHARACTERS, unit_size) if is_scalar_array else unit_size)


def parse_items(text: str, node: JsonNode) -> list[JsonNode]:
    """Return the items of a node; parse them first if necessary."""
    if node.is_unparsed:
        node.is_unparsed = False
        node.items = []
        if text[node.start] == "{":
            node.keys = []
            _add_values(text, node, node.start + 1, node.end - 1)
        else:
            _split_scalar_array(text, node)
    return node.items


def _split_scalar_array(text: str, node: JsonNode) -> None:
    """Cut an array of scalars into items of about RUN_CHARACTERS."""
    run = max(RUN_CHARACTERS, compute_unit_size(text))
    step = max(1, run * node.leaf_count // (node.end - node.start))
    spans = [match.span() for match in _LITERAL.finditer(text, node.start + 1, node.end - 1)]
    for first in range(0, len(spans), step):
        elements = spans[first : first + step]
        item = JsonNode(elements[0][0], elements[0][0], elements[-1][1], node)
        item.leaf_count = item.element_count = len(elements)
        node.items.append(item)
    if step > 1:
        node.element_indices = range(0, len(spans), step)
