"""Parses the JSON bodies of requests, and bounds the time and the memory that this takes."""

from .api_errors import ApiError
from .json_types import Json, parse_object

MAX_VALUES = 500_000  # a conversation of a million tokens has some hundred thousand


def parse_request(text: bytes | None) -> Json | None:
    """Parse the JSON object of a request for reading. Return None for any other text.

    Raises:
        ApiError: 413 for a text of so many values that parsing it would take seconds and gigabytes.
    """
    if text is not None and len(text) > MAX_VALUES and count_values(text) > MAX_VALUES:
        message = f"the request body holds more than {MAX_VALUES:,} JSON values"
        raise ApiError(413, message, code="request_too_large")
    return parse_object(text)


def count_values(text: bytes) -> int:
    """Return about how many values a JSON text holds: the commas and opening brackets outside of its strings.

    Of a text with more than `MAX_VALUES` strings, these are counted only. It takes about a millisecond a megabyte.
    """
    plain = text.replace(rb"\\", b"").replace(rb"\"", b"")
    if (strings := plain.count(b'"') // 2) > MAX_VALUES:
        return strings
    outside = b"".join(plain.split(b'"')[::2])
    return sum(map(outside.count, (b",", b"[", b"{")))
