"""Server-sent events of a chat, read while they pass: learns the usage, and takes out what the client did not ask for.

Pure. Bytes go through as they came, comments and line ends included; nothing is held back but an event that has not
ended yet, of which a client can make nothing either.
"""

import re
from itertools import pairwise

from .api_errors import has_error
from .json_types import Json, is_object, parse_object

_LINE_END = rb"(?:\r\n|\n|\r(?!\n))"
_BLANK_LINE = re.compile(
    _LINE_END + _LINE_END
)  # not `{2}`: so the search knows what it begins with, and takes a quarter of the time
_NULL_USAGE = re.compile(rb',\s*"usage"\s*:\s*null(?=\s*[,}])')  # in a string its quotes would be escaped
# How a stream says, in any protocol's words, that it has come to its end; in a string the quotes would be escaped.
_STREAM_END = re.compile(
    rb'(?:^|[\r\n])data:\s*\[DONE\]|"(?:finish_reason|stop_reason)"\s*:\s*"'
    rb'|"type"\s*:\s*"(?:message_stop|response\.(?:completed|incomplete|failed|cancelled))"'
)
MAX_EVENT_BYTES = 2**24  # bytes, a generated image and more; what goes on without an end is passed through unread


class EventSplitter:
    """Cuts a stream into whole events; what goes on without an end comes out as it is."""

    def __init__(self) -> None:
        self._pending = bytearray()

    def __len__(self) -> int:
        """Return how many bytes wait for the end of their event."""
        return len(self._pending)

    def feed(self, chunk: bytes) -> list[bytes]:
        """Take the next bytes of the stream and return the events that they complete."""
        begun = len(self._pending)
        self._pending += chunk
        ends = [blank.end() for blank in _BLANK_LINE.finditer(self._pending, max(0, begun - 3))]
        if not ends and len(self._pending) > MAX_EVENT_BYTES:
            ends = [len(self._pending)]
        events = [bytes(self._pending[start:end]) for start, end in pairwise([0, *ends])]
        del self._pending[: ends[-1] if ends else 0]
        return events

    def flush(self) -> list[bytes]:
        """Return what is left when the stream has ended."""
        left, self._pending = bytes(self._pending), bytearray()
        return [left] if left else []


class UsageTap:
    """Reads one stream. With `strip`, the usage was asked for by us alone, and its traces are taken out again."""

    def __init__(self, *, strip: bool) -> None:
        self.usage: Json | None = None
        self._strip = strip
        self._splitter = EventSplitter()
        self._is_inside_long_event = False
        self._has_error = False
        self._last_events = b"", b""  # where the end of the stream stands, or what is as good as one

    @property
    def has_failed(self) -> bool:
        """Say of a stream that is over whether it told of an error, or stopped without having said that it ends."""
        return self._has_error or not any(map(_STREAM_END.search, self._last_events))

    def feed(self, chunk: bytes) -> bytes:
        """Take the next bytes of the stream and return those to pass on now."""
        if not self._splitter and not _may_hold_usage_or_error(chunk) and chunk.endswith(b"\n\n"):
            self._is_inside_long_event = False
            self._last_events = self._last_events[1], chunk
            return chunk  # nearly all of them
        return b"".join(map(self._process_segment, self._splitter.feed(chunk)))

    def flush(self) -> bytes:
        """Return what is left when the stream has ended."""
        return b"".join(map(self._process_event, self._splitter.flush()))

    def discard_partial_event(self) -> bytes:
        """Return what must precede an event that tells of a break: half an event is dropped, or closed."""
        self._splitter = EventSplitter()
        return b"\n\n" if self._is_inside_long_event else b""

    def _process_segment(self, event: bytes) -> bytes:
        if event.endswith(b"\n\n") or _BLANK_LINE.search(event, max(0, len(event) - 4)):
            self._is_inside_long_event = False
            return self._process_event(event)
        self._last_events = (
            self._last_events if self._is_inside_long_event else (self._last_events[1], event)
        )  # the beginning of one that is too long
        self._is_inside_long_event = True
        return event

    def _process_event(self, event: bytes) -> bytes:
        """Look at a whole event and return what is to be passed on of it."""
        self._last_events = self._last_events[1], event
        without = _NULL_USAGE.sub(b"", event)
        if not _may_hold_usage_or_error(without):  # it need not be parsed
            return without if self._strip else event
        found = parse_data(event)
        self._has_error = self._has_error or has_error(found)
        told = [usage for part in _list_usage_holders(found) if is_object(usage := part.get("usage"))]
        for usage in told:
            self.usage = {**(self.usage or {}), **usage}  # Anthropic tells it in instalments
        if told:
            return b"" if self._strip and found.get("choices") == [] else event
        return without if self._strip else event


def _may_hold_usage_or_error(events: bytes) -> bool:
    """Say whether something may be told of the usage, or of an error; `in` would take half as long again."""
    return events.find(b'"usage"') >= 0 or events.find(b'"error"') >= 0


def _list_usage_holders(found: Json) -> list[Json]:
    """List where an event may tell the usage: itself, the response that it completes, the message that it starts."""
    return [part for part in (found.get("message"), found.get("response"), found) if is_object(part)]


def parse_data(event: bytes) -> Json:
    """Parse the data of an event; of one that is no JSON object nothing is left."""
    lines = (line[5:] for line in event.splitlines() if line.startswith(b"data:"))
    return parse_object(b"\n".join(lines)) or {}


def encode_event(data: bytes, name: str = "") -> bytes:
    """Write one event; protocols whose events have names say them twice, outside the data and in it."""
    named = b"event: " + name.encode() + b"\n" if name else b""
    return named + b"data: " + data + b"\n\n"
