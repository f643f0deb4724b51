"""Keeps what words must not lose when their neighbours are left out: numbers, paths, ids and negations.

A word is a run of characters without blanks and without the marks around it, kept or left out whole: `v1.2.3`,
`don't` and `src/app.py` are never cut. In a sentence of which words are kept, the guard adds

- every number (the option of LLMLingua-2 that reserves digits),
- every other literal beside a kept word,
- every negation up to `NEGATION_REACH` words before a kept word, or directly behind one, and the word that it denies.
"""

import re
from collections.abc import Sequence
from typing import NamedTuple

from ..extract.core.bm25 import Span
from ..grounding import extract_run_literal
from ..polarity import is_negation

NEGATION_REACH = 4  # words
_CLAUSE_MARKS = "\u3001\uff0c\u3002\uff01\uff1f\uff1b\uff1a"  # scripts without blanks are cut here
_RUN = re.compile(rf"[^\s{_CLAUSE_MARKS}]+|[{_CLAUSE_MARKS}]")
_LEADING, _TRAILING = "\"'\u201c\u2018\u00ab(\u300c\u300e", "\"'\u201d\u2019\u00bb)\u300d\u300f,;:.!?\u2026"
_DIGIT = re.compile(r"\d")
_MAX_LITERAL_CHARACTERS = 2_000  # a longer run is no word of a text


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
    for index, word in enumerate(words):
        if _DIGIT.search(word):
            guarded[index] = True
    for order in (range(len(words)), range(len(words) - 1, -1, -1)):  # a literal beside a kept literal is kept, too
        for index in order:
            if not guarded[index] and _has_kept_neighbour(guarded, index) and _is_literal(words[index]):
                guarded[index] = True
    for index, word in enumerate(words):
        if is_negation(word) and (
            guarded[index] or any(kept[max(0, index - 1) : index]) or any(kept[index + 1 : index + 1 + NEGATION_REACH])
        ):
            guarded[index : index + 2] = [True] * len(guarded[index : index + 2])
    return guarded


def _has_kept_neighbour(flags: Sequence[bool], index: int) -> bool:
    return (index > 0 and flags[index - 1]) or (index + 1 < len(flags) and flags[index + 1])


def _is_literal(word: str) -> bool:
    return len(word) <= _MAX_LITERAL_CHARACTERS and bool(extract_run_literal(word))
