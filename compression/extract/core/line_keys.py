"""The key of a line: what it has in common with the same line of another record, and whether it names the record."""

import re
from collections.abc import Iterable, Sequence

from .bm25 import Span

MAX_KEY_CHARACTERS = 80

_WORD_KEY = re.compile(
    r"<([\w:.-]{1,80})|([^\w\s\"'\[({<-]{1,3})(?= )|([^\w\s]{0,4}[\w.-]{1,40})"
)  # without a separator
_KEY = re.compile(
    r"[- ]{0,4}[\"']?([^\W\d][\w.@/$()<>-]{0,40}(?: [\w.@/$()<>-]{1,40}){0,4})[\"']?\s{0,40}[:=](?=\s|$)"
    rf"|{_WORD_KEY.pattern}"
)
_DIGITS = re.compile(r"\d+")
_IDENTITY_KEY = re.compile(
    r"[- ]{0,4}<?[\"']?(?:[\w.-]{0,30}[ _.-])?(?:name|id|uid|uuid|title|kind|path|file|host|hostname|user|login|author|"
    r"date|subject|from|commit|hash|sha|package|number|key|address|[bs]?ssid|device|interface|dn|cn|url|version)[\"']?\s{0,40}[:=>]",
    re.IGNORECASE,
)
_SEPARATOR = re.compile(r"[:=>]")


class LineKeys:
    """What each line has in common with the same line of another record: its key, tag or first word."""

    def __init__(self, text: str, spans: Sequence[Span], starts: Sequence[int]) -> None:
        self.text, self.spans, self.starts = text, spans, starts
        self._keys: dict[int, str] = {}
        self._identities: dict[str, bool] = {}

    def __getitem__(self, line: int) -> str:
        """Return the key of a line, without its digits."""
        key = self._keys.get(line)
        if key is None:
            start = self.starts[line]
            self._keys[line] = key = read_key(self.text, start, self.spans[line][1])
        return key

    def is_identity(self, line: int) -> bool:
        """Return True if the line has a key such as `Name:`."""
        start, end = self.starts[line], self.spans[line][1]
        separator = _SEPARATOR.search(self.text, start, end)
        if separator is None:
            return False
        first_part = self.text[start : separator.end()]
        verdict = self._identities.get(first_part)
        if verdict is None:
            verdict = self._identities[first_part] = _IDENTITY_KEY.match(self.text, start, end) is not None
        return verdict

    def list_keys(self, lines: Iterable[int]) -> list[str]:
        """Return the keys of these lines."""
        return [self[line] for line in lines]


def read_key(text: str, start: int, end: int) -> str:
    """Return the key, the tag or the first word between two offsets, without its digits."""
    stop = min(end, start + MAX_KEY_CHARACTERS)
    has_separator = text.find(":", start, stop) >= 0 or text.find("=", start, stop) >= 0
    match = (_KEY if has_separator else _WORD_KEY).match(text, start, stop)
    key = match[match.lastindex or 0] if match is not None else ""
    return key if key.isalpha() else _DIGITS.sub("0", key)


def is_title(text: str, span: Span) -> bool:
    """Return True if a line has no value of its own: `Containers:`, `resource "a" "b" {`, `commit 1f0c`."""
    start, end = span
    return (
        text[end - 1] in ":{[("
        or _KEY.match(text, start + len(text[start:end]) - len(text[start:end].lstrip()), end) is None
    )


def is_identity(text: str, span: Span) -> bool:
    """Return True if a line has a key such as `Name:`."""
    return _IDENTITY_KEY.match(text, *span) is not None
