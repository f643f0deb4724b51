"""Parses the JSON bodies of requests, and bounds the time and the memory that this takes."""

from .api_errors import ApiError
from .json_types import Json, parse_object

MAX_VALUES = 500_000  # a conversation of a million tokens has some hundred thousand
_PIECE_BYTES = 2**20


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

    It stops at `MAX_VALUES` values or strings. It takes about a millisecond a megabyte, in pieces: other threads wait
    while a piece is searched.
    """
    values = strings = start = 0
    in_string = False
    while start < len(text) and max(values, strings) <= MAX_VALUES:
        piece = text[start : start + _PIECE_BYTES]
        if (len(piece) - len(piece.rstrip(b"\\"))) % 2:  # no piece ends within an escape
            piece = text[start : start + _PIECE_BYTES + 1]
        start += len(piece)
        if b"\\" in piece:
            piece = piece.replace(rb"\\", b"").replace(rb"\"", b"")
        parts = piece.split(b'"')
        outside = b"".join(parts[in_string::2])
        values += sum(map(outside.count, (b",", b"[", b"{")))
        strings += len(parts) // 2
        in_string ^= len(parts) % 2 == 0
    return max(values, strings) if strings > MAX_VALUES else values
