"""Finds the parts of tool outputs used by later turns of a conversation, by string matching: a lower bound.

A span is a verbatim piece of an assistant's text or of a call's arguments: an identifier, a path, a number or an id of
at least four characters, unlike plain words (with a digit, `_ . / \\` or an inner capital), or a whole line of at least
twelve. It counts once, at its first use, and only if it comes from a tool output rather than from earlier text of the
user, the system or the assistant. It is lost if no forwarded text of the earlier messages contains it.
"""

import re
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from ..compression.file_reads import list_argument_values
from ..proxy.protocols import chat
from ..proxy.protocols.json_types import Json

MAX_TOKEN_CHARS, MIN_LINE_CHARS, MAX_LINE_CHARS = 200, 12, 400
_TOKEN_PATTERN = re.compile(r"[\w@~+-]+(?:[./:\\]+[\w@~+-]+)*")
_IDENTIFIER_PATTERN = re.compile(r"(?=.*[\d_./\\]|.+[A-Z]).{4,}")


class Span(NamedTuple):
    """A piece of text, the index of its source message, and the index of the message with its first use."""

    text: str
    source_message: int
    first_use: int

    @property
    def is_line(self) -> bool:
        """Return True for a line, False for a token."""
        return any(map(str.isspace, self.text))


def find_spans(messages: Sequence[Json]) -> Iterator[Span]:
    """Yield the spans of tool outputs in the order of their first use."""
    earlier_text = ""
    seen_pieces: set[str] = set()
    outputs: list[tuple[int, str]] = []
    for index, message in enumerate(messages):
        text = "\n".join(chat.iter_content_texts(message))
        if message["role"] in ("tool", "function"):
            outputs.append((index, text))
            continue
        if message["role"] == "assistant":
            text = "\n".join((text, *_iter_arguments(message)))
            for piece in dict.fromkeys(_iter_pieces(text)):
                source = None if piece in seen_pieces or piece in earlier_text else _find_source(piece, outputs)
                seen_pieces.add(piece)
                if source is not None:
                    yield Span(piece, source, index)
        earlier_text += "\n" + text


def is_lost(span: Span, forwarded: Sequence[str]) -> bool:
    """Return True if no text forwarded before the first use contains the span; `forwarded` has one text per message."""
    return not any(span.text in text for text in forwarded[span.source_message : span.first_use])


def _find_source(piece: str, outputs: Sequence[tuple[int, str]]) -> int | None:
    return next((index for index, text in outputs if piece in text), None)


def _iter_arguments(message: Json) -> Iterator[str]:
    for call in message.get("tool_calls") or ():
        yield from list_argument_values(call["function"]["arguments"])


def _iter_pieces(text: str) -> Iterator[str]:
    for token in _TOKEN_PATTERN.findall(text):
        if len(token) <= MAX_TOKEN_CHARS and _IDENTIFIER_PATTERN.fullmatch(token):
            yield token
    for line in text.split("\n"):
        if MIN_LINE_CHARS <= len(line.strip()) <= MAX_LINE_CHARS:
            yield line.strip()
