"""Leaves out words: verbatim pieces with their own blanks remain, in order, under their headings.

A sentence without kept words is left out whole and shows as `[...]`; the heading of a kept sentence is kept whole. A
line break remains between two lines with kept words.
"""

from bisect import bisect_left
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from math import inf, nextafter

from ..compressor import CompressedPassage, Gap, Task
from ..extract.core.bm25 import Span
from ..extract.core.selection import estimate_token_count
from ..markers import WORD_UNIT, render
from .guard import Piece, add_guarded, split_pieces
from .jobs import UnitScores

FIT_ROUNDS = 8  # of the search for a threshold, each of which counts the tokens of an outcome
SENTENCE_GAP_UNIT = "words of a sentence"
MAX_BLANKS = 4  # shown as they are between two kept sentences

Guard = Callable[[Sequence[str], Sequence[bool]], list[bool]]


@dataclass(slots=True)
class SentenceLayout:
    """The sentences of a text; `parents` are their headings or -1, `partners` closing tags by their headings."""

    text: str
    spans: Sequence[Span]
    parents: Sequence[int]
    partners: Mapping[int, int] = field(default_factory=dict[int, int])
    companions: frozenset[int] = frozenset()  # sentences that are kept only with others: headings of documents


class WordPruner:
    """The words of one text with their scores."""

    def __init__(self, layout: SentenceLayout, scored: UnitScores, guard: Guard = add_guarded) -> None:
        self._layout, self._guard = layout, guard
        text = layout.text
        self._pieces = [split_pieces(text, span) for span in layout.spans]
        reader = _ScoreReader(scored)
        self._scores = [[reader.read(piece.start, piece.end) for piece in pieces] for pieces in self._pieces]
        self._word_counts = [sum(piece.is_word for piece in pieces) for pieces in self._pieces]

    def list_word_scores(self) -> list[float]:
        """Return the scores of all words that may be kept for their own sake, ascending."""
        return sorted(
            score
            for index, (pieces, scores) in enumerate(zip(self._pieces, self._scores, strict=True))
            if index not in self._layout.companions
            for piece, score in zip(pieces, scores, strict=True)
            if piece.is_word
        )

    def prune(self, threshold: float) -> CompressedPassage:
        """Keep the words with a score above the threshold, and those that the guard adds."""
        flags = [self._choose(index, threshold) for index in range(len(self._pieces))]
        self._keep_companions(flags)
        parts: list[str | Gap] = []
        end = 0  # of the last kept piece
        left_out = 0  # words of whole sentences since then
        for index, (pieces, kept) in enumerate(zip(self._pieces, flags, strict=True)):
            if not any(kept):
                left_out += self._word_counts[index]
                continue
            first = pieces[kept.index(True)].start
            parts += self._join(end, first, left_out, is_first=not parts)
            left_out = 0
            parts += self._iter_sentence(pieces, kept)
            end = pieces[len(kept) - 1 - kept[::-1].index(True)].end
        if left_out:
            parts += self._join(end, len(self._layout.text), left_out, is_first=not parts)
        return CompressedPassage(tuple(parts), sum(self._word_counts), WORD_UNIT, is_inline=True)

    def _choose(self, index: int, threshold: float) -> list[bool]:
        """Return the flags of a sentence's pieces; nothing is kept for marks, or for a document's heading, alone."""
        pieces, scores = self._pieces[index], self._scores[index]
        nothing = [False] * len(pieces)
        if index in self._layout.companions:
            return nothing
        words = [position for position, piece in enumerate(pieces) if piece.is_word]
        own = [scores[position] > threshold for position in words]
        if not any(own):
            return nothing
        text = self._layout.text
        guarded = self._guard([text[pieces[position].start : pieces[position].end] for position in words], own)
        flags = nothing
        for position, is_kept in zip(words, guarded, strict=True):
            flags[position] = is_kept
        for position, piece in enumerate(pieces):
            if not piece.is_word:
                is_edge = position in (0, len(pieces) - 1)  # a bullet, a full stop
                flags[position] = is_edge or scores[position] > threshold or _is_between_kept(pieces, flags, position)
        return flags

    def _keep_companions(self, flags: list[list[bool]]) -> None:
        """Keep the headings of kept sentences whole, and their closing tags."""
        layout = self._layout
        for index in range(len(flags) - 1, -1, -1):
            parent = layout.parents[index]
            if parent >= 0 and any(flags[index]):
                flags[parent] = [True] * len(flags[parent])
        for heading, partner in layout.partners.items():
            if any(flags[heading]):
                flags[partner] = [True] * len(flags[partner])

    def _join(self, end: int, start: int, left_out: int, *, is_first: bool) -> Iterator[str | Gap]:
        """Yield the blanks, and the gap, between two kept sentences."""
        between = self._layout.text[end:start]
        separator = "\n" if "\n" in between else " "
        if left_out:
            if not is_first:
                yield separator
            yield Gap(left_out, SENTENCE_GAP_UNIT)
            if start < len(self._layout.text):
                yield separator
        elif not is_first:
            yield between if len(between) <= MAX_BLANKS and not between.strip() else _find_blank(between)

    def _iter_sentence(self, pieces: Sequence[Piece], kept: Sequence[bool]) -> Iterator[str | Gap]:
        """Yield the kept runs of a sentence and the gaps between them, each gap with one blank of its text."""
        text = self._layout.text
        run: Span | None = None
        was_kept, skipped = True, 0
        for piece, is_kept in zip(pieces, kept, strict=True):
            if not is_kept:
                was_kept = False
                skipped += piece.is_word
                continue
            if run is not None and was_kept:
                run = (run[0], piece.end)
                continue
            if run is not None:
                yield text[slice(*run)]
            yield from [Gap(skipped, WORD_UNIT)] if skipped else []
            is_attached = not piece.is_word and not text[piece.start - 1].isspace()  # a full stop
            if run is not None and not is_attached and (blank := _find_blank(text[run[1] : piece.start])):
                yield blank
            run, was_kept, skipped = (piece.start, piece.end), True, 0
        if run is not None:
            yield text[slice(*run)]
        yield from [Gap(skipped, WORD_UNIT)] if skipped else []


class _ScoreReader:
    """Reads the mean score of a span's characters from the scores of a model's words."""

    def __init__(self, scored: UnitScores) -> None:
        words = [(span, score) for span, score in zip(scored.spans, scored.scores, strict=True) if span[0] < span[1]]
        self._spans, self._scores = [span for span, _ in words], [score for _, score in words]
        self._ends = [end for _, end in self._spans]

    def read(self, start: int, end: int) -> float:
        """Return the score; 0 for a span that no word covers."""
        total = covered = 0.0
        for index in range(bisect_left(self._ends, start + 1), len(self._spans)):
            first, last = self._spans[index]
            if first >= end:
                break
            length = min(last, end) - max(first, start)
            total, covered = total + length * self._scores[index], covered + length
        return total / covered if covered else 0.0


def _is_between_kept(pieces: Sequence[Piece], flags: Sequence[bool], position: int) -> bool:
    """Return True for marks that touch a kept word and stand between two kept words."""
    before = position > 0 and flags[position - 1]
    after = position + 1 < len(pieces) and flags[position + 1]
    return before and after


def _find_blank(between: str) -> str:
    if "\n" in between:
        return "\n"
    return " " if " " in between else next((character for character in between if character.isspace()), "")


def prune_words(task: Task, pruner: WordPruner, threshold: float) -> CompressedPassage | None:
    """Return the outcome for a target, by a search for its threshold, or for a threshold; None without words.

    The words with the best score are kept in any case.
    """
    thresholds = [nextafter(score, -inf) for score in pruner.list_word_scores()]
    if not thresholds:
        return None
    if not task.fills_target:
        return pruner.prune(min(threshold, thresholds[-1]))
    low, high = 0, len(thresholds) - 1  # a higher threshold keeps less
    best: CompressedPassage | None = None
    for _ in range(FIT_ROUNDS):
        if low > high:
            break
        middle = (low + high) // 2
        outcome = pruner.prune(thresholds[middle])
        if estimate_token_count(render(outcome, None), task.count) <= task.target:
            best, high = outcome, middle - 1
        else:
            low = middle + 1
    return best or pruner.prune(thresholds[-1])
