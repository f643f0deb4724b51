"""JSON as a tree of places in its text: no value is ever converted, so none can be altered.

Takes only what a strict parser takes as well, also one value per line, also a value with a few lines of other text
around it. Nothing recurses on the input; what is nested too deeply stays one opaque value. A container that holds no
other is one match of a pattern, and is looked into only when somebody asks (`unfold`): most are kept or left out whole.
"""

import re
from collections.abc import Sequence
from itertools import accumulate
from typing import NamedTuple

import orjson

WIDE_CHARACTERS = 450  # characters of an object, from which on its members are chosen one by one
MAX_DEPTH = 48  # levels; a container further down is a value like any other
MAX_SURROUNDING_CHARACTERS = 400  # characters of other text before, and after
MAX_UNITS = 3_000  # about so many are told apart in a text
JSON_LINES, NOT_MEMOIZED = (0, 0), (-1, -1)
MEMO_SIZE = 1_000  # texts of which it is remembered whether they are JSON
RUN_CHARACTERS = 60  # characters of an array's neighbours that make one item together; in long texts, more

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
_CONTAINER_START = re.compile(r"^\s*[\[{]", re.MULTILINE)


_bounds_memo: dict[tuple[int, int], tuple[int, int] | None] = {}


class JsonNode:
    """One value, or `many` neighbours of an array, all scalars or all short arrays of them: where, and what it holds.

    `items` is NOTHING for a scalar, for neighbours, and for a container nobody has looked into (`folded`); `keys`
    (literals, quotes included) is None for everything but objects. `first` is where the value's key begins, or the
    value itself where it has none. `leaves` counts scalars and empty containers. `places` says which element each item
    begins with, where it is not its own number. `words` has all braces, keys and values of an array of objects that
    hold no containers and all have the same number of members.
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

    def __init__(self, first: int, start: int, end: int, parent: "JsonNode | None") -> None:
        self.key_start = first
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
        return (
            len(self.items) if self.element_indices is None else self.element_indices[-1] + self.items[-1].element_count
        )

    def element_index(self, at: int) -> int:
        """Return the element that an item begins with."""
        return at if self.element_indices is None else self.element_indices[at]


NO_ITEMS: list[JsonNode] = []  # never added to


class ParsedJson(NamedTuple):
    """A tree and the text around it; `by_line` when the text held one value per line, gathered in an array here."""

    root: JsonNode
    text_before: str
    text_after: str
    is_json_lines: bool


def is_parsable(text: str) -> bool:
    """Say whether `parse` would take the text, without building anything."""
    return _find_json(text) is not None


def parse_json(text: str) -> ParsedJson | None:
    """Parse a text that is JSON; None for everything else."""
    shape = _find_json(text)
    if shape is None:
        return None
    if shape == JSON_LINES:
        return ParsedJson(_build_lines_tree(text), "", "", is_json_lines=True)
    start, end = shape
    return ParsedJson(
        _build_tree(text, start, end), text[:start].strip("\r\n"), text[end:].strip("\r\n"), is_json_lines=False
    )


def minify(text: str, start: int, end: int) -> str:
    """Write a value without blanks between its tokens; every token stays as it is."""
    if text.find('"', start, end) < 0:
        return "".join(text[start:end].split())  # no string, so every blank stands between tokens
    return "".join(_TOKEN.findall(text, start, end))


def list_literals(text: str, node: JsonNode) -> list[str]:
    """List the tokens of a folded container: an array's scalars, or an object's keys and values in turn."""
    return _LITERAL.findall(text, node.start, node.end)


def _find_json(text: str) -> tuple[int, int] | None:
    """Say where the JSON of a text begins and ends, BY_LINE for JSON lines, None for what is no JSON.

    Remembered by the text's hash: a text is recognised before it is parsed, and a strict parser builds all its values.
    """
    key = (hash(text), len(text))
    known = _bounds_memo.get(key, NOT_MEMOIZED)
    if known != NOT_MEMOIZED:
        return known
    bounds = _find_candidate_bounds(text)
    if bounds is not None and not _is_json(text[bounds[0] : bounds[1]]):
        bounds = JSON_LINES if _is_json_lines(text) else None
    if len(_bounds_memo) >= MEMO_SIZE:
        _bounds_memo.clear()
    _bounds_memo[key] = bounds
    return bounds


def _find_candidate_bounds(text: str) -> tuple[int, int] | None:
    """Find where JSON may begin and end: the first line that opens a container, the last character that closes one."""
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


def _is_json_lines(text: str) -> bool:
    lines = [line for line in text.split("\n") if line and not line.isspace()]
    return len(lines) > 1 and all(line.lstrip()[0] in "{[" and _is_json(line) for line in lines)


def _build_lines_tree(text: str) -> JsonNode:
    """Gather the containers, one per line, in an array."""
    root = JsonNode(0, 0, len(text), None)
    root.items = []
    _add_values(text, root, 0, len(text))
    _close_container(text, root, len(text))
    return root


def compute_unit_size(text: str) -> int:
    """Return the characters of neighbours that are one unit in a text of this length, so that units stay few."""
    return len(text) // MAX_UNITS


def _build_tree(text: str, start: int, stop: int) -> JsonNode:
    """Build the tree of a container that a strict parser took, so that nothing need be checked again."""
    outside = JsonNode(start, start, stop, None)
    outside.items = []
    _add_values(text, outside, start, stop)
    _close_container(text, outside, stop)
    top = outside.items[0]
    top.parent = None
    return top


def _add_values(text: str, into: JsonNode, start: int, stop: int) -> None:
    """Add the values between two offsets to a container, and the values inside them to those."""
    current = into
    key: re.Match[str] | None = None
    depth = skipped = 0
    run = max(RUN_CHARACTERS, compute_unit_size(text))
    for match in _TREE_PART.finditer(text, start, stop):
        at, end = match.span()
        head = text[at]
        bracket = end == at + 1 and head in "{}[]"
        if skipped:
            skipped += ((head in "{[") - (head in "}]")) if bracket else 0
            current.items[-1].end = end
        elif bracket and head in "}]":
            _close_container(text, current, end)
            current, depth = current.parent or into, depth - 1
        elif key is None and current.keys is not None:
            key = match
        elif bracket or key is not None or head != "[" or not _merge_into_neighbour(text, current, match, run):
            node = _add_node(current, key, match)
            key = None
            if bracket and depth == MAX_DEPTH:
                skipped = 1
            elif bracket:
                node.items, node.keys = [], [] if head == "{" else None
                current, depth = node, depth + 1
            elif match.lastindex == OBJECT_ARRAY_GROUP:
                _read_object_array(text, node, deep=depth == MAX_DEPTH)
            elif head in "{[":
                _defer_parsing(text, node)


def _read_object_array(text: str, node: JsonNode, *, deep: bool) -> None:
    """Read an array of objects that hold no containers, all at once; in the deepest level it stays closed."""
    if deep:
        return
    spans = [match.span() for match in _FLAT_OBJECT_PATTERN.finditer(text, node.start + 1, node.end)]
    node.items = [JsonNode(start, start, end, node) for start, end in spans]
    for item in node.items:
        item.is_unparsed, item.leaf_count = True, 0  # counted now that the array ends
    _close_container(text, node, node.end)


def _add_node(to: JsonNode, key: re.Match[str] | None, match: re.Match[str]) -> JsonNode:
    start, end = match.span()
    node = JsonNode(start, start, end, to)
    if key is not None and to.keys is not None:
        node.key_start = key.start()
        to.keys.append(key[0])
    if match.lastindex == SMALL_ARRAYS_GROUP:
        node.element_count = match[0].count("[")
        to.element_indices = ()  # counted when the array ends
    to.items.append(node)
    return node


def _close_container(text: str, node: JsonNode, end: int) -> None:
    node.end = end
    items = node.items
    if node.element_indices is not None:
        node.element_indices = [0, *accumulate([item.element_count for item in items[:-1]])]
    leaves = [item.leaf_count for item in items]
    if 0 in leaves:
        unknown = [item for item in items if not item.leaf_count]
        narrow = end - node.start <= WIDE_CHARACTERS * len(items)
        node.object_tokens = _list_regular_tokens(text, node) if narrow and len(unknown) == len(items) else None
        width = len(node.object_tokens) // len(items) // 2 - 1 if node.object_tokens is not None else 0
        for item in unknown:
            wide = not width and item.end - item.start > WIDE_CHARACTERS  # it will be looked into anyway
            item.leaf_count = width or (
                len(parse_items(text, item)) if wide else _count_leaves(text, item.start, item.end)
            )
        leaves = [item.leaf_count for item in items]
    node.leaf_count = sum(leaves) or 1


def _list_regular_tokens(text: str, node: JsonNode) -> list[str] | None:
    """List the words of an array of objects without containers that all have the same number of members."""
    if node.keys is not None:
        return None
    words = _OBJECT_TOKEN.findall(text, node.start, node.end)
    many, step = len(node.items), words.index("}") + 1
    regular = len(words) == many * step and words[::step].count("{") == many == words[step - 1 :: step].count("}")
    return words if regular and step > 2 else None


def _merge_into_neighbour(text: str, array: JsonNode, match: re.Match[str], run: int) -> bool:
    """Add a short array of scalars to its neighbour, another one, in the same array; false where it stands apart."""
    at, end = match.span()
    last = array.items[-1] if array.items and array.parent is not None else None  # lines stay apart
    if (
        last is None
        or match.lastindex == OBJECT_ARRAY_GROUP
        or end - last.start > run
        or text[last.start] != "["
        or last.items
    ):
        return False
    last.leaf_count += _count_leaves(text, at, end)
    last.element_count += match[0].count("[") if match.lastindex == SMALL_ARRAYS_GROUP else 1
    last.end = end
    last.is_unparsed = False
    array.element_indices = ()  # counted when the array ends
    return True


def _defer_parsing(text: str, node: JsonNode) -> None:
    """Count what a container without containers holds, without looking at it any closer; an object's has time."""
    if text[node.start] == "{" and text.find('"', node.start, node.end) >= 0:
        node.is_unparsed = True
        node.leaf_count = 0  # counted when the container around it ends
        return
    node.leaf_count = _count_leaves(text, node.start, node.end)
    empty = node.leaf_count == 1 and _LITERAL.search(text, node.start, node.end) is None
    node.is_unparsed = node.element_count == 1 and not empty


def _count_leaves(text: str, start: int, end: int) -> int:
    if text[start] == "[" and text.find('"', start, end) < 0:
        return text.count(",", start, end) + 1
    found = len(_LITERAL.findall(text, start, end))
    return (found // 2 if text[start] == "{" else found) or 1


def parse_items(text: str, node: JsonNode) -> list[JsonNode]:
    """Return the items of a node, after looking into it where nobody did so far."""
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
    """Cut an array of scalars into items of about RUN characters."""
    many = max(1, max(RUN_CHARACTERS, compute_unit_size(text)) * node.leaf_count // (node.end - node.start))
    found = [match.span() for match in _LITERAL.finditer(text, node.start + 1, node.end - 1)]
    for at in range(0, len(found), many):
        together = found[at : at + many]
        item = JsonNode(together[0][0], together[0][0], together[-1][1], node)
        item.leaf_count = item.element_count = len(together)
        node.items.append(item)
    if many > 1:
        node.element_indices = range(0, len(found), many)
