"""Server-sent events of a chat, read while they pass: learns the usage, and takes out what the client did not ask for.

Pure. Bytes go through as they came, comments and line ends included; nothing is held back but an event that has not
ended yet, of which a client can make nothing either.
"""

import re
from itertools import pairwise

from .shapes import Json, is_object, parsed

_END = rb"(?:\r\n|\n|\r(?!\n))"
_BLANK = re.compile(_END + _END)  # not `{2}`: so the search knows what it begins with, and takes a quarter of the time
_NO_USAGE = re.compile(rb',\s*"usage"\s*:\s*null(?=\s*[,}])')  # in a string its quotes would be escaped
LONGEST_EVENT = 2**20  # bytes; what goes on without an end is passed through unread


class Events:
    """Cuts a stream into whole events; what goes on without an end comes out as it is."""

    def __init__(self) -> None:
        self._pending = b""

    def feed(self, chunk: bytes) -> list[bytes]:
        """Take the next bytes of the stream and return the events that they complete."""
        buffer = self._pending + chunk
        ends = [blank.end() for blank in _BLANK.finditer(buffer, max(0, len(self._pending) - 3))]
        if not ends and len(buffer) > LONGEST_EVENT:
            ends = [len(buffer)]
        self._pending = buffer[ends[-1] :] if ends else buffer
        return [buffer[start:end] for start, end in pairwise([0, *ends])]

    def rest(self) -> list[bytes]:
        """Return what is left when the stream has ended."""
        left, self._pending = self._pending, b""
        return [left] if left else []


class UsageTap:
    """Reads one stream. With `strip`, the usage was asked for by us alone, and its traces are taken out again."""

    def __init__(self, *, strip: bool) -> None:
        self.usage: Json | None = None
        self._strip = strip
        self._pending = b""
        self._torn = False

    def feed(self, chunk: bytes) -> bytes:
        """Take the next bytes of the stream and return those to pass on now."""
        if not self._pending and b'"usage"' not in chunk and chunk.endswith(b"\n\n"):
            self._torn = False
            return chunk  # whole events that say nothing of interest: nearly all of them
        buffer = self._pending + chunk
        passed: list[bytes] = []
        at = 0
        for blank in _BLANK.finditer(buffer, max(0, len(self._pending) - 3)):
            passed.append(self._event(buffer[at : blank.end()]))
            at = blank.end()
            self._torn = False
        self._pending = buffer[at:]
        if len(self._pending) > LONGEST_EVENT:
            passed.append(self._pending)
            self._pending = b""
            self._torn = True
        return b"".join(passed)

    def end(self) -> bytes:
        """Return what is left when the stream has ended."""
        left = self._event(self._pending) if self._pending else b""
        self._pending = b""
        return left

    def broken(self) -> bytes:
        """Return what must precede an event that tells of a break: half an event is dropped, or closed."""
        self._pending = b""
        return b"\n\n" if self._torn else b""

    def _event(self, event: bytes) -> bytes:
        """Look at a whole event and return what is to be passed on of it."""
        if b'"usage"' not in event:
            return event
        found = data(event)
        told = [usage for part in _tellers(found) if is_object(usage := part.get("usage"))]
        for usage in told:
            self.usage = {**(self.usage or {}), **usage}  # Anthropic tells it in instalments
        if told:
            return b"" if self._strip and found.get("choices") == [] else event
        return _NO_USAGE.sub(b"", event) if self._strip else event


def _tellers(found: Json) -> list[Json]:
    """List where an event may tell the usage: itself, the response that it completes, the message that it starts."""
    return [part for part in (found.get("message"), found.get("response"), found) if is_object(part)]


def data(event: bytes) -> Json:
    """Parse the data of an event; of one that is no JSON object nothing is left."""
    lines = (line[5:] for line in event.splitlines() if line.startswith(b"data:"))
    return parsed(b"\n".join(lines)) or {}


def event(data: bytes, name: str = "") -> bytes:
    """Write one event; protocols whose events have names say them twice, outside the data and in it."""
    named = b"event: " + name.encode() + b"\n" if name else b""
    return named + b"data: " + data + b"\n\n"
