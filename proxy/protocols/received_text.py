"""Counts the text of a reply that passes through, for clients that leave before the usage arrives.

The fields that hold text are found in the JSON without parsing it; the text is counted in blocks, so that neither
memory nor the event loop depends on the length of the reply.
"""

import re
from collections.abc import Callable

import orjson

_BLOCK_CHARACTERS = 4096
_MAX_PARTIAL_BYTES = 2**20  # of a string that has not ended yet; a longer one counts by its bytes
_VALUE = rb'\s*:\s*"((?:[^"\\]++|\\.)*+)"'
# The names differ, because the Responses API repeats the whole text in its last events.
_TEXT_FIELDS = {
    "chat": rb"content|text|reasoning_content|reasoning|refusal|arguments",
    "responses": rb"delta",
    "messages": rb"text|partial_json|thinking",
}
_STREAM_PATTERNS = {
    protocol: re.compile(rb'"(?:' + fields + rb')"' + _VALUE, re.DOTALL) for protocol, fields in _TEXT_FIELDS.items()
}
_WHOLE_REPLY_PATTERN = re.compile(rb'"(?:text|arguments|content|thinking|reasoning_content)"' + _VALUE, re.DOTALL)


class ReceivedText:
    """Counts the tokens of the text in a stream, or in a whole reply."""

    def __init__(self, protocol: str, count_tokens: Callable[[str], int]) -> None:
        self._pattern = _STREAM_PATTERNS.get(protocol, _STREAM_PATTERNS["chat"])
        self._count_tokens = count_tokens
        self._partial = b""
        self._pieces: list[str] = []
        self._length = 0
        self._tokens = 0

    def feed(self, chunk: bytes) -> None:
        """Add the next bytes of a stream."""
        data = self._partial + chunk
        end = data.rfind(b"\n") + 1
        self._add_matches(data[:end])
        self._partial = data[end:]
        if len(self._partial) > _MAX_PARTIAL_BYTES:
            self._tokens += len(self._partial) // 4
            self._partial = b""

    def feed_whole_reply(self, body: bytes) -> None:
        """Add a reply that is not streamed."""
        for match in _WHOLE_REPLY_PATTERN.finditer(body):
            self._add_text(match[1])

    @property
    def tokens(self) -> int:
        """Return the number of tokens so far, those of a partial event included."""
        self._add_matches(self._partial)
        self._partial = b""
        self._count_block()
        return self._tokens

    def _add_matches(self, data: bytes) -> None:
        for match in self._pattern.finditer(data):
            self._add_text(match[1])

    def _add_text(self, literal: bytes) -> None:
        try:
            text = str(orjson.loads(b'"' + literal + b'"'))
        except ValueError:
            text = literal.decode("utf-8", "replace")
        self._pieces.append(text)
        self._length += len(text)
        if self._length >= _BLOCK_CHARACTERS:
            self._count_block()

    def _count_block(self) -> None:
        if self._pieces:
            self._tokens += self._count_tokens("".join(self._pieces))
            self._pieces, self._length = [], 0
