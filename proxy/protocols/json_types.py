"""The shapes of parsed JSON, for code that must not trust what it is given."""

from typing import Any, TypeGuard

import orjson

Json = dict[str, Any]


def is_object(value: object) -> TypeGuard[Json]:
    """Say whether a parsed value is a JSON object."""
    return isinstance(value, dict)


def is_array(value: object) -> TypeGuard[list[Any]]:
    """Say whether a parsed value is a JSON array."""
    return isinstance(value, list)


def parse_object(text: bytes | None) -> Json | None:
    """Parse a JSON object; None when the text is anything else."""
    try:
        value: object = orjson.loads(text or b"")
    except orjson.JSONDecodeError:
        return None
    return value if is_object(value) else None
