"""Keeps numbers, paths, ids and negations beside the words that a pruner keeps.

A word is a run of characters without blanks and without the marks around it, kept or left out whole: `v1.2.3`,
`don't` and `src/app.py` are never cut. In a sentence with kept words, the guard adds

- every number (the option of LLMLingua-2 that reserves digits),
- every other literal beside a kept word,
- every negation up to `NEGATION_REACH` words before a kept word, with the words between,
- every negation directly behind a kept word, and the word behind every kept negation.
"""

import re
from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

from ..extract.core.bm25 import Span
from ..grounding import extract_run_literal
from ..polarity import is_negation

NEGATION_REACH = 4  # words
_CLAUSE_MARKS = "\u3001\uff0c\u3002\uff01\uff1f\uff1b\uff1a"  # scripts without blanks are cut here
_RUN = re.compile(rf"[^\s{_CLAUSE_MARKS}]+|[{_CLAUSE_MARKS}]")
_LEADING, _TRAILING = "\"'\u201c\u2018\u00ab(\u300c\u300e", "\"'\u201d\u2019\u00bb)\u300d\u300f,;:.!?\u2026"
_DIGIT = re.compile(r"\d")
MAX_WORD_CHARACTERS = 200  # the beginning of a longer word tells its kind


class Piece(NamedTuple):
    """A word, or marks of punctuation (`is_word` False)."""

    start: int
    end: int
    is_word: bool


def split_pieces(text: str, span: Span) -> list[Piece]:
    """Return the words and marks of a sentence, in order; they cover all but its blanks."""
    pieces: list[Piece] = []
    for run in _RUN.finditer(text, *span):
        core = run[0].lstrip(_LEADING)
        start = run.end() - len(core)
        core = core.rstrip(_TRAILING)
        end = start + len(core)
        if not any(map(str.isalnum, core)):
            pieces.append(Piece(run.start(), run.end(), is_word=False))
            continue
        if run.start() < start:
            pieces.append(Piece(run.start(), start, is_word=False))
        pieces.append(Piece(start, end, is_word=True))
        if end < run.end():
            pieces.append(Piece(end, run.end(), is_word=False))
    return pieces


def add_guarded(words: Sequence[str], kept: Sequence[bool]) -> list[bool]:
    """Return the flags of a sentence's words with those that the guard adds; unchanged if no word is kept."""
    guarded = list(kept)
    if not any(kept):
        return guarded
    traits = [_read_traits(word) for word in words]
    for index, word in enumerate(traits):
        if word.has_digit:
            guarded[index] = True
    for order in (range(len(words)), range(len(words) - 1, -1, -1)):  # a literal beside a kept literal is kept, too
        for index in order:
            if traits[index].is_literal and not guarded[index] and _has_kept_neighbour(guarded, index):
                guarded[index] = True
    for index, word in enumerate(traits):
        if word.is_negation:
            denied = _find_kept(kept, index + 1, index + NEGATION_REACH)
            if denied or guarded[index] or (index and kept[index - 1]):
                last = min(denied or index + 1, len(words) - 1)
                guarded[index : last + 1] = [True] * (last + 1 - index)
    return guarded


def _find_kept(kept: Sequence[bool], first: int, last: int) -> int:
    """Return the index of the first kept word between two indices, or 0."""
    return next((index for index in range(first, min(last + 1, len(kept))) if kept[index]), 0)


def _has_kept_neighbour(flags: Sequence[bool], index: int) -> bool:
    return (index > 0 and flags[index - 1]) or (index + 1 < len(flags) and flags[index + 1])


class _Traits(NamedTuple):
    has_digit: bool
    is_literal: bool
    is_negation: bool


def _read_traits(word: str) -> _Traits:
    return _classify(word[:MAX_WORD_CHARACTERS])


@lru_cache(maxsize=4_096)
def _classify(word: str) -> _Traits:
    return _Traits(_DIGIT.search(word) is not None, bool(extract_run_literal(word)), is_negation(word))
