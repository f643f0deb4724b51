"""Finds what a conversation has shown before: runs of lines that stand in full further up need not be sent again.

Pure: what is folded of a text depends on the texts before it alone. A run is folded only where one earlier stretch
holds all of it, in the same order, and that stretch was itself left standing; its first line stays, so that a reader
finds the place. Line numbers in front do not count where they rise by one from line to line: the first line tells them.
"""

import re
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import NamedTuple

from .compressor import CompressedPassage, Gap

REPEAT_UNIT = "lines shown before"
GRAM_LINES = 3  # lines in a row by which a repeat is found
MIN_REPEAT_CHARACTERS = (
    100  # characters that a run must hold beyond its first line: of code some 25 tokens, and a marker has 11
)
_LINE_NUMBER = re.compile(r"(?P<path>[\w./+@~-]{1,200}[:-])?[ \t]{0,8}(?P<at>\d{1,7})(?:\| ?|[:\t→-]|  )")


class RepeatedRun(NamedTuple):
    """Lines `start` to `end` (excluded) of a text, which stand further up just so."""

    start: int
    end: int


class ShownLines:
    """The lines that a conversation has shown in full so far, by their hashes; no text is kept."""

    def __init__(self) -> None:
        self._line_hashes: list[int] = []  # of all stretches, one after the other, each ended by a mark of its own
        self._gram_positions: dict[int, int] = {}  # where each gram stood first, by its hash
        self._text_count = 0

    def __len__(self) -> int:
        """Return how many lines are held."""
        return len(self._line_hashes)

    def add_text(self, text: str) -> None:
        """Take in a text that was forwarded as it stands."""
        self._append_hashes(_hash_lines(text.split("\n")))

    def remove_repeats(self, text: str) -> CompressedPassage | None:
        """Return the text without what was shown before, and take in what remains; None when nothing of it was."""
        lines = text.split("\n")
        keys = _hash_lines(lines)
        runs = list(self._find_repeats(lines, keys))
        if not runs:
            return None
        at = 0
        for run in runs:
            self._append_hashes(keys[at : run.start + 1])
            at = run.end
        self._append_hashes(keys[at:])
        return _replace_runs(lines, runs)

    def _append_hashes(self, keys: Sequence[int]) -> None:
        base = len(self._line_hashes)
        self._line_hashes += keys
        self._text_count += 1
        self._line_hashes.append(-self._text_count)  # no line's: those are at least zero
        for at in range(len(keys) - GRAM_LINES + 1):
            self._gram_positions.setdefault(_hash_gram(keys, at), base + at)

    def _find_repeats(self, lines: Sequence[str], keys: Sequence[int]) -> Iterator[RepeatedRun]:
        """List the runs worth folding; a run that is not is passed over as a whole, which keeps the time linear."""
        at = 0
        while at <= len(keys) - GRAM_LINES:
            place = self._gram_positions.get(_hash_gram(keys, at))
            end = at
            while place is not None and end < len(keys) and keys[end] == self._line_hashes[place + end - at]:
                end += 1
            if end - at < GRAM_LINES:
                at += 1
                continue
            if sum(len(line) for line in lines[at + 1 : end]) >= MIN_REPEAT_CHARACTERS:
                yield RepeatedRun(at, end)
                at = end
            else:
                at = end - GRAM_LINES + 1


def _hash_gram(keys: Sequence[int], at: int) -> int:
    return hash(tuple(keys[at : at + GRAM_LINES]))


def _replace_runs(lines: Sequence[str], runs: Sequence[RepeatedRun]) -> CompressedPassage:
    parts: list[str | Gap] = []
    at = 0
    for run in runs:
        parts += ["\n".join(lines[at : run.start + 1]), Gap(run.end - run.start - 1, REPEAT_UNIT)]
        at = run.end
    if at < len(lines):
        parts.append("\n".join(lines[at:]))
    return CompressedPassage(tuple(parts), len(lines), REPEAT_UNIT)


def _hash_lines(lines: Sequence[str]) -> list[int]:
    """Hash each line, without the line number in front of it where its neighbour has the next one."""
    numbers = [_LINE_NUMBER.match(line) for line in lines]
    counted = bytearray(len(lines))
    for at, (one, other) in enumerate(pairwise(numbers)):
        if one and other and int(other["at"]) == int(one["at"]) + 1 and one["path"] == other["path"]:
            counted[at : at + 2] = b"\1\1"
    return [
        hash(line[number.end() :] if number and inside else line) & 0x7FFF_FFFF_FFFF_FFFF
        for line, number, inside in zip(lines, numbers, counted, strict=True)
    ]
