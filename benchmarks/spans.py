"""What later turns of a conversation use of a tool's output, found by string matching: a lower bound, no judgement.

A span is a piece that an assistant's text or a call's arguments hold verbatim: an identifier, a path, a number or an id
of at least four characters with something in it that plain words lack (a digit, `_ . / \\`, an inner capital), or a
whole line of at least twelve. It counts once, where it is first used, and only if a tool's output is where it came
from: no user, system or assistant text held it before. It is lost when nothing that was forwarded for the earlier
messages holds it.
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
    """A piece of text, the message whose output it came from, and the message that first used it."""

    text: str
    source_message: int
    first_use: int

    @property
    def is_line(self) -> bool:
        """Say whether it is a whole line rather than a token."""
        return any(map(str.isspace, self.text))


def find_spans(messages: Sequence[Json]) -> Iterator[Span]:
    """List what assistants use of tools' outputs, in the order of use."""
    known = ""
    met: set[str] = set()
    outputs: list[tuple[int, str]] = []
    for index, message in enumerate(messages):
        text = "\n".join(chat.iter_content_texts(message))
        if message["role"] in ("tool", "function"):
            outputs.append((index, text))
            continue
        if message["role"] == "assistant":
            text = "\n".join((text, *_iter_arguments(message)))
            for piece in dict.fromkeys(_iter_pieces(text)):
                source = None if piece in met or piece in known else _find_source(piece, outputs)
                met.add(piece)
                if source is not None:
                    yield Span(piece, source, index)
        known += "\n" + text


def is_lost(span: Span, forwarded: Sequence[str]) -> bool:
    """Say whether nothing that was forwarded before the use holds the span; `forwarded` has a text a message."""
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
