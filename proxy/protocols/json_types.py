"""Type guards for parsed JSON of any shape."""

from collections.abc import Callable
from typing import Any, TypeGuard

from . import json_codec

Json = json_codec.Json


def is_object(value: object) -> TypeGuard[Json]:
    """Return True if a parsed value is a JSON object."""
    return isinstance(value, dict)


def is_array(value: object) -> TypeGuard[list[Any]]:
    """Return True if a parsed value is a JSON array."""
    return isinstance(value, list)


def parse_object(text: bytes | None) -> Json | None:
    """Parse a JSON object for reading. Return None for any other text."""
    return _keep_object(json_codec.loads_readable, text)


def parse_object_exactly(text: bytes | None) -> Json | None:
    """Parse a JSON object that is written again later. Return None for any other text."""
    return _keep_object(json_codec.loads, text)


def _keep_object(parse: Callable[[bytes], object], text: bytes | None) -> Json | None:
    try:
        value = parse(text or b"")
    except (ValueError, RecursionError):
        return None
    return value if is_object(value) else None
