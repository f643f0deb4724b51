"""Parses request bodies incrementally: messages of an earlier body are reused, and only new ones are parsed.

A client sends its whole conversation with every request, mostly as the bytes of the previous one with more behind them.
An earlier body of the same owner is found by a hash of its blocks, up to the end of a message. The memory saves time
and changes nothing else: the result equals that of `parse_request`. Parsed messages are shared between requests and
are never modified.
"""

import re
from collections.abc import Sequence
from contextlib import suppress
from itertools import accumulate, pairwise
from json import JSONDecoder
from typing import Any, NamedTuple

import orjson
from cachetools import LRUCache

from . import json_codec
from .json_types import Json, is_array, is_object
from .request_json import MAX_VALUES, parse_request

MAX_BYTES = 16 * 2**20  # of all known bodies together, as estimated
BLOCK_BYTES = 2**13  # a shorter body is not remembered
MIN_ELEMENTS = 8  # messages of a body that is remembered
MIN_CHECKPOINT_ELEMENTS = 16  # messages of a new body that is also remembered without its last one
MAX_BRANCHES = 4  # known bodies with the same whole blocks
BYTES_PER_ELEMENT = 1000  # of the objects made of a message, besides its texts
_BLANKS = b" \t\r\n"
_BLANK = re.compile(r"[ \t\r\n]*")
_scan_value = JSONDecoder().raw_decode
BlockKey = tuple[str, str, int, int]  # the owner, the field of the messages, the number of blocks, and their hash


class ParsedBody(NamedTuple):
    """A parsed body, or None if it is not a JSON object, and its messages as compact JSON texts, if they are known."""

    body: Json | None
    element_texts: Sequence[bytes] = ()


class _KnownStart(NamedTuple):
    """The first bytes of a body, up to the end of a message.

    `remainder` are those behind the last whole block, `end` are the bytes from the end of the list to that of the
    body, and `fields` is the body with an empty list. A checkpoint is likely to be continued by several bodies.
    """

    key: BlockKey
    remainder: bytes
    end: bytes
    fields: Json
    elements: list[Any]
    texts: list[bytes]
    is_checkpoint: bool

    @property
    def length(self) -> int:
        """Return the number of bytes."""
        return self.key[2] * BLOCK_BYTES + len(self.remainder)

    @property
    def size(self) -> int:
        """Return the estimated bytes of memory: the messages are kept as objects and as texts."""
        return 2 * self.length + BYTES_PER_ELEMENT * len(self.elements)


class KnownBodies:
    """Parses bodies and remembers them, up to `max_bytes`; the least recently used go first. Not thread-safe."""

    def __init__(self, max_bytes: int = MAX_BYTES) -> None:
        self._starts: LRUCache[BlockKey, tuple[_KnownStart, ...]] = LRUCache(
            max_bytes, getsizeof=lambda starts: sum(start.size for start in starts)
        )

    @property
    def size(self) -> int:
        """Return the estimated bytes in use."""
        return int(self._starts.currsize)

    def parse(self, owner: str, elements_key: str, text: bytes) -> ParsedBody:
        """Parse the body of a request, whose messages are in the field `elements_key`.

        Raises:
            ApiError: 413 for a text of too many values.
        """
        if not BLOCK_BYTES <= len(text) <= MAX_VALUES:
            return ParsedBody(parse_request(text))
        keys = _hash_blocks(owner, elements_key, text)
        start = self._find_start(keys, text)
        if start is not None:
            parsed = self._parse_rest(start, keys, text)
            if parsed is not None:
                return parsed
        try:
            body: object = orjson.loads(text)
        except orjson.JSONDecodeError:
            return ParsedBody(parse_request(text))
        if not is_object(body) or not is_array(elements := body.get(elements_key)) or len(elements) < MIN_ELEMENTS:
            return ParsedBody(body if is_object(body) else None)
        texts = list(map(json_codec.dumps_plain, elements))
        self._remember_new(body, texts, keys, text)
        return ParsedBody(body, texts)

    def _find_start(self, keys: Sequence[BlockKey], text: bytes) -> _KnownStart | None:
        """Return the longest known start of a body."""
        for key in reversed(keys):
            position = key[2] * BLOCK_BYTES
            matches = [start for start in self._starts.get(key, ()) if text.startswith(start.remainder, position)]
            if matches:
                return max(matches, key=lambda start: len(start.remainder))
        return None

    def _parse_rest(self, start: _KnownStart, keys: Sequence[BlockKey], text: bytes) -> ParsedBody | None:
        """Parse the bytes behind a known start. Return None if the body ends in another way than the earlier one.

        The first byte of `start.end` closes the list of messages if the bytes before it are a list of JSON values.
        """
        content = text.rstrip(_BLANKS)
        list_end = len(content) - len(start.end)
        if list_end < start.length or not content.endswith(start.end):
            return None
        added = text[start.length : list_end].rstrip(_BLANKS)
        elements: list[Any] = []
        if added:
            before, _, values = added.lstrip(_BLANKS).partition(b",")
            try:
                elements = orjson.loads(b"[" + values + b"]")
            except orjson.JSONDecodeError:
                return None
            if before or not elements:
                return None
        texts = [*start.texts, *map(json_codec.dumps_plain, elements)]
        elements = [*start.elements, *elements]
        body = {**start.fields, start.key[1]: elements}
        if added:
            self._remember(start, keys, text, start.length + len(added), elements, texts)
        return ParsedBody(body, texts)

    def _remember_new(self, body: Json, texts: list[bytes], keys: Sequence[BlockKey], text: bytes) -> None:
        """Remember a body without a known start, and the same body without its last message."""
        elements_key = keys[0][1]
        places = _locate_elements(text, elements_key)
        if places is None or len(places.ends) != len(texts):
            return
        end = text[places.list_end :].rstrip(_BLANKS)
        fields: object = orjson.loads(text[: places.list_start + 1] + end)
        if not is_object(fields) or fields.get(elements_key) != []:  # the field is repeated
            return
        elements = body[elements_key]
        model = _KnownStart(keys[0], b"", end, fields, [], [], is_checkpoint=False)
        if len(texts) >= MIN_CHECKPOINT_ELEMENTS:
            checkpoint = model._replace(is_checkpoint=True)
            self._remember(checkpoint, keys, text, places.ends[-2], elements[:-1], texts[:-1])
        self._remember(model, keys, text, places.ends[-1], elements, texts)

    def _remember(
        self,
        model: _KnownStart,
        keys: Sequence[BlockKey],
        text: bytes,
        length: int,
        elements: list[Any],
        texts: list[bytes],
    ) -> None:
        """Remember the first `length` bytes of a body.

        `model` has its other fields; it is a checkpoint without messages for a new one.
        """
        blocks = length // BLOCK_BYTES
        if not blocks:
            return
        key, remainder = keys[blocks - 1], text[blocks * BLOCK_BYTES : length]
        is_checkpoint = model.is_checkpoint and not model.elements
        start = _KnownStart(key, remainder, model.end, model.fields, elements, texts, is_checkpoint)
        others = [other for other in self._starts.get(key, ()) if other.remainder != remainder]
        others.sort(key=lambda other: not other.is_checkpoint)  # many bodies may continue a checkpoint
        with suppress(ValueError):  # a body larger than the memory is not remembered
            self._starts[key] = (start, *others[: MAX_BRANCHES - 1])


class _ElementPlaces(NamedTuple):
    """Positions in bytes: of the brackets of the list of messages, and behind each message."""

    list_start: int
    list_end: int
    ends: list[int]


def _hash_blocks(owner: str, elements_key: str, text: bytes) -> list[BlockKey]:
    """Return the keys of the starts of a text that consist of whole blocks, by their number of blocks less one."""
    keys: list[BlockKey] = []
    value = 0
    for number in range(1, len(text) // BLOCK_BYTES + 1):
        value = hash((value, text[(number - 1) * BLOCK_BYTES : number * BLOCK_BYTES]))
        keys.append((owner, elements_key, number, value))
    return keys


def _locate_elements(text: bytes, elements_key: str) -> _ElementPlaces | None:
    """Return where the messages are in the JSON text of an object, or None if they are not found."""
    try:
        string = text.decode()
        list_start, ends, list_end = _scan_object(string, elements_key)
    except (ValueError, IndexError, RecursionError):
        return None
    if len(string) == len(text):
        return _ElementPlaces(list_start, list_end, ends)
    positions = [list_start, *ends, list_end]
    lengths = [len(string[start:end].encode()) for start, end in pairwise([0, *positions])]
    offsets = list(accumulate(lengths))
    return _ElementPlaces(offsets[0], offsets[-1], offsets[1:-1])


def _scan_object(string: str, elements_key: str) -> tuple[int, list[int], int]:
    """Return the positions of the opening bracket, of the ends of the elements, and of the closing bracket.

    Raises:
        ValueError: the field does not hold an array.
    """
    position = _skip_blanks(string, string.index("{") + 1)
    while True:
        name, position = _scan_value(string, position)
        position = _skip_blanks(string, string.index(":", position) + 1)
        if name == elements_key:
            break
        position = _skip_blanks(string, _scan_value(string, position)[1])
        if string[position] != ",":
            raise ValueError(f"there is no field {elements_key}")
        position = _skip_blanks(string, position + 1)
    if string[position] != "[":
        raise ValueError(f"{elements_key} is not an array")
    list_start, ends = position, list[int]()
    position = _skip_blanks(string, position + 1)
    while string[position] != "]":
        position = _scan_value(string, position)[1]
        ends.append(position)
        position = _skip_blanks(string, position)
        if string[position] == ",":
            position = _skip_blanks(string, position + 1)
    return list_start, ends, position


def _skip_blanks(string: str, position: int) -> int:
    match = _BLANK.match(string, position)
    return position if match is None else match.end()
