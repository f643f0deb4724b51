"""Leaves out most of a long text before its lines are scored, which takes some 10 µs a line.

The text is cut where a record begins. Pieces with rare words, words of the question, or reports of failures stay, and
so do both ends. The cheap scores count in how few pieces a word is, so that words of every piece have no influence.
"""

from bisect import bisect_right
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from itertools import chain, pairwise
from math import log
from statistics import median_low

from ...compressor import Task
from . import bm25, lines, severity, terms
from .bm25 import Span
from .word_search import WordFinder

MAX_CHARACTERS = 64_000  # of a text that is scored as a whole, besides the shares below
TARGET_FACTOR = 1.5  # characters scored for each character that may be kept
MIN_REDUCTION = 1.5  # a text is thinned if that makes it so many times shorter
PIECE_CHARACTERS = 1_000
END_CHARACTERS = 6_000  # kept at either end
CHARACTERS_PER_TOKEN = 4
MAX_TERM_CHARACTERS = 40
NOVELTY_WEIGHT = 1.0
SEVERITY_WEIGHT = 1.0
_WORD_TABLE = bytes(
    code if chr(code).isalpha() else ord("0" if chr(code).isdigit() else " ") for code in range(128)
).ljust(256)
_SEVERE_WORDS = (
    *("error", "fail", "exception", "fatal", "panic", "critical", "denied", "refused", "timed out", "killed", "assert"),
    *("cannot ", "not found", "conflict", "abort", "unreachable", "corrupt", "mismatch", "✗", "✕", "❌"),
)


def find_line(text: str, offset: int, is_start: Callable[[str, int], object]) -> int:
    """Return the offset of the first line behind an offset that `is_start` accepts; the text's length without one."""
    while (offset := text.find("\n", offset) + 1) > 0:
        if is_start(text, offset):
            return offset
    return len(text)


def is_long(task: Task) -> bool:
    """Return True if thinning would leave out a considerable part of the text."""
    return len(task.text) > MIN_REDUCTION * _compute_limit(task)


def _compute_limit(task: Task) -> float:
    return MAX_CHARACTERS + TARGET_FACTOR * task.target * CHARACTERS_PER_TOKEN


def thin(task: Task, find_cut: Callable[[int], int], needed: Sequence[int] = ()) -> Task:
    """Return the task with a shorter text, made of the best pieces, and with its `skips`.

    `find_cut` returns the first offset from another one at which a record begins, or the length of the text. The pieces
    with the offsets of `needed` stay. Returns the task itself if the text is not long or has no small pieces.
    """
    text, limit = task.text, _compute_limit(task)
    if not is_long(task):
        return task
    pieces = list(_iter_pieces(find_cut, len(text)))
    starts = [start for start, _ in pieces]
    kept = {bisect_right(starts, offset) - 1 for offset in needed}
    kept |= {i for i, (start, end) in enumerate(pieces) if start < END_CHARACTERS or end > len(text) - END_CHARACTERS}
    size = sum(pieces[index][1] - pieces[index][0] for index in kept)
    scores = _score_pieces(task, pieces) if MIN_REDUCTION * size <= len(text) else []
    for index in sorted(range(len(scores)), key=lambda index: -scores[index]):
        length = pieces[index][1] - pieces[index][0]
        if index not in kept and size + length <= limit:
            kept.add(index)
            size += length
    return _write(task, pieces, sorted(kept)) if MIN_REDUCTION * size <= len(text) else task


def _iter_pieces(find_cut: Callable[[int], int], length: int) -> Iterator[Span]:
    """Yield pieces of about PIECE_CHARACTERS or of one record, if that is longer."""
    start = 0
    while start < length:
        end = find_cut(start + PIECE_CHARACTERS) if start + PIECE_CHARACTERS < length else length
        yield start, end
        start = end


def _write(task: Task, pieces: Sequence[Span], kept: Sequence[int]) -> Task:
    parts: list[str] = []
    skips: list[tuple[int, int]] = []
    length = 0
    for before, index in pairwise((-1, *kept, len(pieces))):
        if index > before + 1:
            skips.append((length, _count_lines(task.text[pieces[before + 1][0] : pieces[index - 1][1]])))
        if index < len(pieces):
            parts.append(task.text[slice(*pieces[index])])
            length += len(parts[-1])
    return replace(task, text="".join(parts), skips=tuple(skips))


def _count_lines(text: str) -> int:
    """Return the number of lines as `lines.find_line_spans` counts them."""
    text_lines = text.split("\n")
    if "\r" in text or max(map(len, text_lines)) > lines.MIN_CUT_CHARACTERS:
        return len(lines.find_line_spans(text))
    return sum(map(bool, map(str.strip, text_lines)))


def _score_pieces(task: Task, pieces: Sequence[Span]) -> list[float]:
    """Score pieces by the words of the question, reports of failures, and words that are in no other piece."""
    text = task.text
    lowered = severity.lower(text)
    starts = [start for start, _ in pieces]
    scores = _score_novelty(text, pieces)
    query = bm25.parse_query(task.question)
    words = [(term[:MAX_TERM_CHARACTERS], weight) for term, weight in query.term_weights.items() if len(term) > 1]
    words += [(literal.lower(), query.parameters.literal_weight) for literal in query.literals]
    words += [(word, SEVERITY_WEIGHT) for word in _SEVERE_WORDS]
    finder = WordFinder(lowered, [*(word for word, _ in words), *severity.REPORT_WORDS])
    for word, weight in words:
        hits = finder.find_spans(word, starts, pieces)
        worth = weight * log((len(pieces) + 1) / (len(hits) + 0.5))
        for index in hits:
            scores[index] += worth
    for index, grade in severity.iter_status_grades(text, finder, starts, pieces):
        scores[index] += SEVERITY_WEIGHT * (grade >= severity.ERROR)
    return scores


def _score_novelty(text: str, pieces: Sequence[Span]) -> list[float]:
    """Score pieces with more words that are in no other piece than usual; numbers count as words of so many digits."""
    plain = terms.translate_ascii(text, _WORD_TABLE, str)
    words = [set(plain[start:end].split()) for start, end in pieces]
    frequencies = Counter(chain.from_iterable(words))
    unique = {word for word, frequency in frequencies.items() if frequency == 1 and _is_plain(word)}
    counts = [len(unique.intersection(piece_words)) for piece_words in words]
    usual = median_low(counts)
    return [NOVELTY_WEIGHT * log(1.0 + max(0, count - usual) / (1.0 + usual)) for count in counts]


def _is_plain(word: str) -> bool:
    """Return True for words without digits and for numbers, False for names with numbers and hexadecimal ids."""
    return "0" not in word or not word.strip("0")
