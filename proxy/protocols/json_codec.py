"""JSON that is rewritten without changing any other value in it.

orjson does the work. What it cannot carry exactly goes through the standard library: integers of more than 64 bits,
numbers that a double does not hold, repeated keys in an object, lone surrogates, and nesting beyond 254 levels.

Three ways to parse:

- `loads_readable` for values that are only read. One orjson call; a lone surrogate reads as U+FFFD.
- `reload_exactly` for a text read that way that has to be written again with changes.
- `loads` for both at once. It costs one more `orjson.dumps`.

A text is carried exactly by orjson if writing the parsed value yields the same bytes. Clients write compact JSON, so
this check settles nearly all of them; the standard library parses the others once more, and keeps the difference.
NaN and Infinity are not JSON and are rejected.
"""

import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Concatenate, ParamSpec, cast

import orjson

from . import offload

Json = dict[str, Any]
P = ParamSpec("P")
MAX_EXACT_NUMBER_CHARS = 16  # a sign or a point and 15 digits: a double holds those
MAX_INTEGER_CHARS = 4000  # Python converts no longer ones
_SURROGATE = re.compile(rb"\\u[dD][89a-fA-F]")
# An escaped surrogate behind an even number of backslashes: a pair, or a lone one.
_SURROGATES = re.compile(
    rb"(?<!\\)(?P<backslashes>(?:\\\\)*)\\(?:u[dD][89abAB]..\\u[dD][c-fC-F]..|(?P<lone>u[dD][89a-fA-F]..))"
)


class ExactNumber(float):
    """A number with its JSON text, which the nearest double would change."""

    text: str

    def __new__(cls, text: str) -> "ExactNumber":
        """Parse the text of a JSON number."""
        number = super().__new__(cls, text)
        number.text = text
        return number


class DuplicateKeyObject(dict[str, Any]):
    """An object that repeats keys. It reads as a dict of the last values; `shadowed` lists the earlier ones."""

    def __init__(self, members: Mapping[str, Any], shadowed: list[tuple[str, Any]]) -> None:
        super().__init__(members)
        self.shadowed = shadowed

    @property
    def shadowed_keys(self) -> set[str]:
        """Return the keys that are repeated."""
        return {key for key, _ in self.shadowed}


def loads(text: bytes) -> object:
    """Parse a JSON text exactly.

    Raises:
        ValueError: the text is not valid JSON in UTF-8.
        RecursionError: it is nested too deeply.
    """
    try:
        value: object = orjson.loads(text)
    except orjson.JSONDecodeError:
        return _parse_exactly(text)
    return reload_exactly(text, value)


def loads_readable(text: bytes) -> object:
    """Parse a JSON text for reading, with U+FFFD in place of each lone surrogate.

    Raises:
        ValueError: the text is not valid JSON in UTF-8.
        RecursionError: it is nested too deeply.
    """
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError:
        return _parse_exactly(_SURROGATES.sub(_replace_lone_surrogate, text) if _SURROGATE.search(text) else text)


def reload_exactly(text: bytes, value: object) -> object:
    """Return the exact value of a text that `loads_readable` has parsed to `value`: mostly `value` itself."""
    try:
        is_exact = orjson.dumps(value, option=orjson.OPT_PASSTHROUGH_SUBCLASS) == text.strip()
    except TypeError:
        is_exact = False
    return value if is_exact else _parse_exactly(text)


def dumps(value: object) -> bytes:
    """Write a JSON value in compact form.

    Raises:
        TypeError: a value in it has no JSON form.
    """
    try:
        return orjson.dumps(value, option=orjson.OPT_PASSTHROUGH_SUBCLASS)
    except TypeError:
        return b"".join(_encode_exactly(value))


def dumps_plain(value: object) -> bytes:
    """Write a value with orjson alone.

    Raises:
        TypeError: orjson cannot carry it.
    """
    return orjson.dumps(value, option=orjson.OPT_PASSTHROUGH_SUBCLASS)


def dumps_with_texts(body: Json, key: str, elements: Sequence[object]) -> bytes:
    """Write an object whose array `key` has these elements; bytes among them are written as they are."""
    fragments = [orjson.Fragment(element) if isinstance(element, bytes) else element for element in elements]
    return dumps_plain({**body, key: fragments})


def dumps_canonical(value: object) -> bytes:
    """Write a value for a hash: its strings yield the same bytes, whether they were read by `loads` or for reading."""
    try:
        return orjson.dumps(value)
    except TypeError:
        return dumps(loads_readable(dumps(value)))


def canonicalize_arguments(text: str) -> str:
    """Return the JSON text of a call's arguments in a form that does not depend on the client's writer.

    Clients parse arguments and write them again: with other spaces, in another order, `1.0` as `1`. A text that is not
    JSON is returned as it is.
    """
    try:
        value = loads_readable(text.encode("utf-8", "backslashreplace"))
        return orjson.dumps(_round_integral(value), option=orjson.OPT_SORT_KEYS).decode()
    except (ValueError, TypeError, RecursionError):
        return text


def _round_integral(value: object) -> object:
    """Return a copy of a JSON value with integral floats as integers."""
    if isinstance(value, float):
        return int(value) if value.is_integer() and abs(value) < 2**53 else value
    if isinstance(value, dict):
        return {key: _round_integral(member) for key, member in cast("Json", value).items()}
    if isinstance(value, list):
        return [_round_integral(item) for item in cast("list[object]", value)]
    return value


async def rewrite(
    function: Callable[Concatenate[bytes, P], bytes], text: bytes, *args: P.args, **kwargs: P.kwargs
) -> bytes:
    """Return `function(text, ...)`. A long text is rewritten in a thread, so that the event loop goes on."""
    return await offload.run_for(len(text), function, text, *args, **kwargs)


def merge(original: Json, *changes: Mapping[str, Any]) -> Json:
    """Return a copy of an object with these members set. Repeated keys that do not change stay."""
    merged = dict(original)
    for members in changes:
        merged.update(members)
    shadowed = _list_shadowed(original)
    if not shadowed:
        return merged
    changed = {key for members in changes for key in members}
    return DuplicateKeyObject(merged, [member for member in shadowed if member[0] not in changed])


def join_text(pieces: Iterable[str]) -> str:
    """Join pieces of a text, and the halves of a surrogate pair that was split between two pieces."""
    text = "".join(pieces)
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "surrogatepass")
    return text


def _replace_lone_surrogate(escape: re.Match[bytes]) -> bytes:
    return escape["backslashes"] + rb"\ufffd" if escape["lone"] else escape[0]


def _parse_exactly(text: bytes) -> object:
    return _EXACT_DECODER.decode(text.decode())


def _build_object(members: list[tuple[str, Any]]) -> Json:
    parsed = dict(members)
    if len(parsed) == len(members):
        return parsed
    last_places = {key: place for place, (key, _) in enumerate(members)}
    shadowed = [member for place, member in enumerate(members) if last_places[member[0]] != place]
    return DuplicateKeyObject(parsed, shadowed)


def _parse_integer(text: str) -> float:
    return int(text) if len(text) <= MAX_INTEGER_CHARS else ExactNumber(text)


def _parse_fraction(text: str) -> float:
    number = float(text)
    is_exact = len(text) <= MAX_EXACT_NUMBER_CHARS and 1e-290 < abs(number) < 1e290
    return number if is_exact or repr(number) == text else ExactNumber(text)


def _reject_constant(text: str) -> float:
    raise ValueError(f"{text} is not JSON")


_EXACT_DECODER = json.JSONDecoder(
    object_pairs_hook=_build_object,
    parse_int=_parse_integer,
    parse_float=_parse_fraction,
    parse_constant=_reject_constant,
)


def _list_shadowed(value: Json) -> list[tuple[str, Any]]:
    return value.shadowed if isinstance(value, DuplicateKeyObject) else []


def _encode_exactly(value: object) -> Iterator[bytes]:
    """Write a value without recursion. JSON text on the stack is bytes, everything else is still to be written."""
    stack = [value]
    while stack:
        item = stack.pop()
        if isinstance(item, bytes):
            yield item
        elif isinstance(item, dict):
            stack.extend(reversed(_split_object(cast("Json", item))))
        elif isinstance(item, list | tuple):
            stack.extend(reversed(_split_array(cast("list[object]", item))))
        else:
            yield _encode_scalar(item)


def _split_object(value: Json) -> list[object]:
    parts: list[object] = [b"{"]
    for key, member in (*_list_shadowed(value), *value.items()):
        parts += [b"," * (len(parts) > 1) + _encode_scalar(key) + b":", member]
    return [*parts, b"}"]


def _split_array(items: Iterable[object]) -> list[object]:
    parts: list[object] = [b"["]
    for item in items:
        parts += [b"," * (len(parts) > 1), item]
    return [*parts, b"]"]


def _encode_scalar(value: object) -> bytes:
    if isinstance(value, ExactNumber):
        return value.text.encode()
    try:
        return orjson.dumps(value)
    except TypeError:  # an integer of more than 64 bits, or a string with lone surrogates, which escapes can carry
        return json.dumps(value).encode()
