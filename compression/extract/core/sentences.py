"""Splits text into sentences, in any script, by punctuation and layout.

A list item, a table row or a line of code counts as a sentence.
"""

import re
from collections.abc import Iterator

from .bm25 import Span

MAX_SENTENCE_CHARACTERS = 700  # a longer sentence is cut at a line end or a blank

_SENTENCE_END = re.compile(  # begins with one set of characters, for which `re` searches quickly
    r"[.!?\n。！？…।॥။።។؟۔](?:"
    r"(?<=[.!?])[\"'”’)\]*_`]{0,4}\s{1,200}(?=[^\sa-zа-я])"  # the next sentence does not begin with a small letter
    r"|(?<=[。！？…।॥။።។])[」』”’）\u200b ]{0,2}"
    r"|(?<=[؟۔])[\"”»)]{0,2}\s{1,200}"
    r"|(?<=\n)(?:[ \t\r]{0,200}\n\s{0,400}"  # a paragraph ends
    r"|(?=[ \t]{0,40}(?:[-*+•>#|]|\d{1,3}[.)] |\[\d|\.\. |:\w|```|~~~))))"  # an item, a heading, a table row
)
_ABBREVIATION = re.compile(
    r"(?:^|[\s(])(?:[A-Z]|[A-Za-z]\.[A-Za-z]|Mr|Mrs|Ms|Dr|St|Prof|Sr|Jr|vs|etc|cf|al|No|Nos|Vol|Fig|Eq|Sec|pp|Inc|Ltd|Co|Gen|Col|Lt|Gov|Sen|Rep|Rev)\.$"
)


def find_sentences(text: str, start: int = 0, end: int | None = None) -> list[Span]:
    """Return the sentences between two offsets, without surrounding blanks."""
    end = len(text) if end is None else end
    sentences: list[Span] = []
    sentence_start = start
    for match in _SENTENCE_END.finditer(text, start, end):
        stop = match.start()
        if match[0][0] == "." and _ABBREVIATION.search(text, max(sentence_start, stop - 8), stop + 1):
            continue
        sentences.extend(_trim_span(text, sentence_start, match.end()))
        sentence_start = match.end()
    sentences.extend(_trim_span(text, sentence_start, end))
    return sentences


def _trim_span(text: str, start: int, end: int) -> Iterator[Span]:
    """Strip blanks from both ends, and cut an over-long sentence into pieces."""
    piece = text[start:end]
    first = start + len(piece) - len(piece.lstrip())
    end = start + len(piece.rstrip())
    while end - first > MAX_SENTENCE_CHARACTERS:
        cut = max(text.rfind("\n", first + 1, first + MAX_SENTENCE_CHARACTERS), first)
        cut = cut if cut > first else text.rfind(" ", first + 1, first + MAX_SENTENCE_CHARACTERS)
        cut = cut if cut > first else first + MAX_SENTENCE_CHARACTERS
        yield first, cut
        first = cut + 1 if text[cut].isspace() else cut
    if first < end:
        yield first, end
