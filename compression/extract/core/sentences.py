"""Splits text into sentences, in any script, by punctuation and layout.

A list item, a table row or a line of code counts as a sentence.
"""

import re
from collections.abc import Iterator
from itertools import pairwise

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
    r"|(?<![^\n])[#*>§ \t]{0,8}\d{1,3}\.$"  # the number of a title or an item
)


def find_sentences(text: str, start: int = 0, end: int | None = None) -> list[Span]:
    """Return the sentences between two offsets, without surrounding blanks."""
    end = len(text) if end is None else end
    bounds = [start]
    for match in _SENTENCE_END.finditer(text, start, end):
        stop, after = match.span()
        if text[stop] != "." or not _ABBREVIATION.search(text, max(bounds[-1], stop - 12), stop + 1):
            bounds.append(after)
    sentences: list[Span] = []
    for begin, after in pairwise([*bounds, end]):
        piece = text[begin:after].rstrip()
        last = begin + len(piece)
        first = last - len(piece.lstrip())
        if last - first > MAX_SENTENCE_CHARACTERS:
            sentences.extend(_cut_sentence(text, first, last))
        elif first < last:
            sentences.append((first, last))
    return sentences


def _cut_sentence(text: str, first: int, end: int) -> Iterator[Span]:
    """Cut an over-long sentence into pieces."""
    while end - first > MAX_SENTENCE_CHARACTERS:
        cut = max(text.rfind("\n", first + 1, first + MAX_SENTENCE_CHARACTERS), first)
        cut = cut if cut > first else text.rfind(" ", first + 1, first + MAX_SENTENCE_CHARACTERS)
        cut = cut if cut > first else first + MAX_SENTENCE_CHARACTERS
        yield first, cut
        first = cut + 1 if text[cut].isspace() else cut
    if first < end:
        yield first, end
