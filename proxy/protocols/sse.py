"""Server-sent events: splits a stream into events, reads the usage and errors in it, and writes events.

The bytes of a stream pass unchanged, comments and line ends included. Only an event that has not ended yet is held
back, and no client can use such an event either.
"""

import asyncio
import re
from collections.abc import AsyncGenerator
from itertools import pairwise

from ..stores.reply_bill import ReplyFacts
from . import usage_fields
from .api_errors import has_error
from .json_types import Json, is_object, parse_object_exactly

_LINE_END = rb"(?:\r\n|\n|\r(?!\n))"
# Four times faster than `{2}`: the search knows its first byte. Further blank lines belong to the same end, so that a
# stream of them has few events.
_BLANK_LINE = re.compile(_LINE_END + _LINE_END + rb"[\r\n]*")
_NULL_USAGE = re.compile(rb',\s*"usage"\s*:\s*null(?=\s*[,}])')  # in a string its quotes would be escaped
# The end of a stream in any protocol. In a string the quotes would be escaped.
_STREAM_END = re.compile(
    rb'(?:^|[\r\n])data:\s*\[DONE\]|"(?:finish_reason|stop_reason)"\s*:\s*"'
    rb'|"type"\s*:\s*"(?:message_stop|response\.(?:completed|incomplete|failed|cancelled))"'
)
PIECE_BYTES = 2**13  # bytes of a stream that are processed at once: some thousand events of the shortest kind
MAX_EVENT_BYTES = 2**24  # more than a generated image takes; a longer event passes unread


class EventSplitter:
    """Splits a stream into whole events. An event of more than `MAX_EVENT_BYTES` comes out in pieces."""

    def __init__(self) -> None:
        self._pending = bytearray()

    def __len__(self) -> int:
        """Return the number of bytes of an event that has not ended yet."""
        return len(self._pending)

    def feed(self, chunk: bytes) -> list[bytes]:
        """Add the next bytes of the stream and return the events that they complete."""
        if not self._pending and _is_one_event(chunk):
            return [chunk]  # nearly all of them
        previous_length = len(self._pending)
        self._pending += chunk
        ends = [blank.end() for blank in _BLANK_LINE.finditer(self._pending, max(0, previous_length - 3))]
        if not ends and len(self._pending) > MAX_EVENT_BYTES:
            ends = [len(self._pending)]
        events = [bytes(self._pending[start:end]) for start, end in pairwise([0, *ends])]
        del self._pending[: ends[-1] if ends else 0]
        return events

    def flush(self) -> list[bytes]:
        """Return the rest of a stream that has ended."""
        rest, self._pending = bytes(self._pending), bytearray()
        return [rest] if rest else []


class UsageTap:
    """Reads the usage and the errors of one stream.

    With `strip` the usage is removed from the stream, because only the proxy asked for it.
    """

    def __init__(self, *, strip: bool) -> None:
        self.usage: Json | None = None
        self.facts = ReplyFacts()
        self._strip = strip
        self._splitter = EventSplitter()
        self._is_inside_long_event = False
        self._has_error = False
        self._last_events = b"", b""  # one of the last two holds the end of the stream

    @property
    def pending_bytes(self) -> int:
        """Return the size of the event that has not ended yet."""
        return len(self._splitter)

    @property
    def has_failed(self) -> bool:
        """Return True if the stream reported an error, or stopped before its end."""
        return self._has_error or not any(map(_STREAM_END.search, self._last_events))

    def feed(self, chunk: bytes) -> bytes:
        """Add the next bytes of the stream and return those to forward now."""
        if self._splitter:
            return b"".join(map(self._process_segment, self._splitter.feed(chunk)))
        position = _find_usage_or_error(chunk)
        if position < 0 and chunk.endswith(b"\n\n"):
            return self._pass_events(chunk)  # nearly all of them
        start = chunk.rfind(b"\n\n", 0, position) + 2 if position >= 0 else 0
        visible = self._pass_events(chunk[:start]) if start > 2 else b""  # whole events without usage and errors
        return visible + b"".join(map(self._process_segment, self._splitter.feed(chunk[len(visible) :])))

    def flush(self) -> bytes:
        """Return the rest of a stream that has ended."""
        return b"".join(map(self._process_event, self._splitter.flush()))

    def discard_partial_event(self) -> bytes:
        """Drop an unfinished event and return the bytes that must precede an error event."""
        self._splitter = EventSplitter()
        return b"\n\n" if self._is_inside_long_event else b""

    def _pass_events(self, events: bytes) -> bytes:
        """Return whole events that hold neither usage nor errors."""
        self._is_inside_long_event = False
        self._last_events = self._last_events[1], events
        return events

    def _process_segment(self, event: bytes) -> bytes:
        if event.endswith(b"\n\n") or _BLANK_LINE.search(event, max(0, len(event) - 4)):
            self._is_inside_long_event = False
            return self._process_event(event)
        if not self._is_inside_long_event:
            self._last_events = self._last_events[1], event
        self._is_inside_long_event = True
        return event

    def _process_event(self, event: bytes) -> bytes:
        """Read a whole event and return the part to forward."""
        self._last_events = self._last_events[1], event
        if _find_usage_or_error(event) < 0:  # nearly all of them
            return event
        stripped = _NULL_USAGE.sub(b"", event)
        visible = stripped if self._strip else event
        if _find_usage_or_error(stripped) < 0:
            return visible
        data = parse_data(event)
        self._has_error = self._has_error or has_error(data)
        usages = [usage for holder in _list_usage_holders(data) if is_object(usage := holder.get("usage"))]
        for usage in usages:
            self.usage = usage_fields.merge_usages(self.usage or {}, usage)  # Anthropic reports it in parts
        if not usages:
            return visible
        self.facts = usage_fields.read_facts(data, self.facts)
        return b"" if self._strip and not data.get("choices") and not has_error(data) else event


def _is_one_event(chunk: bytes) -> bool:
    """Return True if a chunk is certainly one whole event, with the usual line ends."""
    return chunk.endswith(b"\n\n") and chunk.find(b"\n\n") == len(chunk) - 2 and chunk.find(b"\r") < 0


def _find_usage_or_error(events: bytes) -> int:
    """Return the first position at which events may report usage or an error, or -1 if they report neither.

    `find` takes two thirds of the time of `in`.
    """
    usage, error = events.find(b'"usage"'), events.find(b'"error"')
    return max(usage, error) if usage < 0 or error < 0 else min(usage, error)


def _list_usage_holders(data: Json) -> list[Json]:
    """List the objects of an event that may report usage: a started message, a completed response, the event itself."""
    return [holder for holder in (data.get("message"), data.get("response"), data) if is_object(holder)]


def parse_data(event: bytes) -> Json:
    """Parse the data of an event exactly. Return an empty object if it is not a JSON object."""
    if event.startswith(b"data:") and event.find(b"\n") == len(event) - 2 and _is_one_event(event):
        return parse_object_exactly(event[5:-2]) or {}
    lines = (line[5:] for line in event.splitlines() if line.startswith(b"data:"))
    return parse_object_exactly(b"\n".join(lines)) or {}


async def iter_pieces(chunk: bytes) -> AsyncGenerator[bytes]:
    """Yield a chunk of a stream. A long one comes in pieces, and other requests have their turn before each of them."""
    if len(chunk) <= PIECE_BYTES:
        yield chunk
        return
    for start in range(0, len(chunk), PIECE_BYTES):
        await asyncio.sleep(0)
        yield chunk[start : start + PIECE_BYTES]


def terminate_event(event: bytes) -> bytes:
    """Return an event that ends with a blank line."""
    return event if event.endswith((b"\n\n", b"\r\r", b"\r\n\r\n")) else event.rstrip(b"\r\n") + b"\n\n"


def is_broken_off(event: bytes) -> bool:
    """Return True if the data of an event stopped in the middle, so that no client can use it."""
    return b"data:" in event and b"[DONE]" not in event and not parse_data(event)


def encode_event(data: bytes, name: str = "") -> bytes:
    """Return one event. Protocols with event names repeat the name inside the data."""
    prefix = b"event: " + name.encode() + b"\n" if name else b""
    return prefix + b"data: " + data + b"\n\n"
