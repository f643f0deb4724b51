"""Compares a passage with its compressed text: verbatim parts, parts left out, parts written. Pure.

Markers are recognized by their shape, which is enough for display. Invariant: the `before` texts of the blocks add up
to the original, and the `after` texts to the text sent, to the last character.
"""

import re
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Iterator
from itertools import groupby
from typing import Literal, NamedTuple

BlockKind = Literal["kept", "left-out", "written"]
MAX_LINE_DISTANCE = 4_000  # characters between the last match and a line shorter than MIN_LINE_CHARS
MIN_LINE_CHARS = 4
MAX_MISSES = 200  # failed searches before a text counts as rewritten
MIN_VERBATIM_SHARE = 0.5  # smallest verbatim share of the text sent; below it the text counts as rewritten

_MARKER_PATTERN = re.compile(r"\[(?:\.\.\.|\d.* left out.*|reformatted; .*)\]\n*")
_WORD_PATTERN = re.compile(r"\w+")
_INSIDE_WORD_PATTERN = re.compile(r"\w\w")  # no word boundary between two characters


class Block(NamedTuple):
    """A piece of both texts. `left-out` has no `after` but perhaps a marker; `written` has no `before`."""

    kind: BlockKind
    before: str
    after: str


class Comparison(NamedTuple):
    """Blocks in order.

    `is_rewritten` means that the compressor rewrote the text (JSON as a table, a model's own words), so its lines have
    no counterparts. Then the words missing from the text sent are the `left-out` blocks, and the last block is the
    whole text sent.
    """

    is_rewritten: bool
    blocks: list[Block]


def compare_texts(before: str, after: str) -> Comparison:
    """Compare two texts, in time roughly linear in their length."""
    blocks = _align_blocks(before, after)
    if blocks is not None:
        merged = _merge_blocks(blocks)
        verbatim = sum(len(block.after) for block in merged if block.kind == "kept")
        added = sum(len(block.after) for block in merged if block.kind == "written")
        if verbatim >= MIN_VERBATIM_SHARE * (verbatim + added):
            return Comparison(is_rewritten=False, blocks=merged)
    return Comparison(is_rewritten=True, blocks=[*_mark_missing_words(before, after), Block("written", "", after)])


def _align_blocks(before: str, after: str) -> list[Block] | None:
    """Find the pieces of `after` in `before`, in order; None after `MAX_MISSES` failed searches."""
    blocks: list[Block] = []
    lines = _LineIndex(before)
    position = misses = 0
    for is_marker, text in _split_markers(after):
        if is_marker:
            blocks.append(Block("left-out", "", text))
            continue
        start = before.find(text.strip("\n"), position)
        if start >= 0:
            position = _append_match(blocks, before, position, start, text)
            continue
        misses += 1
        if misses > MAX_MISSES:
            return None
        for line in text.splitlines(keepends=True):
            line_start = lines.find_line(line, position)
            if line_start is None:
                blocks.append(Block("written", "", line))
            else:
                position = _append_match(blocks, before, position, line_start, line)
    return [*blocks, Block("left-out", before[position:], "")]


def _append_match(blocks: list[Block], before: str, position: int, start: int, text: str) -> int:
    """Append the gap up to `start` and the match, with the line ends that both texts share; return its end."""
    core = text.strip("\n")
    blocks.append(Block("left-out", before[position:start], ""))
    end = start + len(core)
    line_ends = len(text) - len(text.rstrip("\n")) if core else 0
    while line_ends and before[end : end + 1] == "\n":
        end, line_ends = end + 1, line_ends - 1
    blocks.append(Block("kept", before[start:end], text))
    return end


def _split_markers(after: str) -> Iterator[tuple[bool, str]]:
    """Split a text into runs of marker lines (True) and runs of other lines (False)."""
    lines = after.splitlines(keepends=True)
    for is_marker, run in groupby(lines, key=lambda line: bool(_MARKER_PATTERN.fullmatch(line))):
        yield is_marker, "".join(run)


class _LineIndex:
    """An index of the lines of a text, by content."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._misses = 0
        self._positions: defaultdict[str, list[int]] = defaultdict(list)
        start = 0
        for line in text.splitlines(keepends=True):
            self._positions[line.strip("\n")].append(start)
            start += len(line)

    def find_line(self, line: str, start: int) -> int | None:
        """Return the position of a line, or of a nearby part of a line, from `start` on; None without a clear match."""
        core = line.strip("\n")
        positions = self._positions.get(core, [])
        index = bisect_left(positions, start)
        if not core.strip():
            return None
        is_long = len(core) >= MIN_LINE_CHARS
        if index < len(positions) and (positions[index] - start <= MAX_LINE_DISTANCE or is_long):
            return positions[index]
        return self._find_substring(core, start) if is_long else None

    def _find_substring(self, core: str, start: int) -> int | None:
        """Return the position of a text between word boundaries; None at once after `MAX_MISSES` failed searches."""
        if self._misses > MAX_MISSES:
            return None
        end = min(len(self._text), start + MAX_LINE_DISTANCE)
        match = self._text.find(core, start, end)
        while match >= 0:
            last = match + len(core) - 1
            edges = self._text[max(0, match - 1) : match + 1], self._text[last : last + 2]
            if not any(_INSIDE_WORD_PATTERN.fullmatch(edge) for edge in edges):
                return match
            match = self._text.find(core, match + 1, end)
        self._misses += 1
        return None


def _merge_blocks(blocks: list[Block]) -> list[Block]:
    """Join adjacent blocks of the same kind, add blanks to the verbatim block before them, and drop empty blocks."""
    merged: list[Block] = []
    for block in blocks:
        if not block.before and not block.after:
            continue
        last = merged[-1] if merged else None
        is_blank = block.kind == "left-out" and not block.before.strip() and not block.after
        if last is not None and (last.kind == block.kind or (is_blank and last.kind == "kept")):
            merged[-1] = Block(last.kind, last.before + block.before, last.after + block.after)
        else:
            merged.append(block)
    return merged


def _mark_missing_words(before: str, after: str) -> Iterator[Block]:
    """Yield the original with words missing from the text sent as `left-out`; neighbours on a line share a block."""
    sent_words = set(_WORD_PATTERN.findall(after))
    end = 0
    span: tuple[int, int] | None = None
    for word in _WORD_PATTERN.finditer(before):
        is_missing = word[0] not in sent_words
        if span is not None and is_missing and "\n" not in before[span[1] : word.start()]:
            span = span[0], word.end()
            continue
        if span is not None:
            yield from _split_span(before, end, span)
            end = span[1]
        span = word.span() if is_missing else None
    if span is not None:
        yield from _split_span(before, end, span)
        end = span[1]
    if end < len(before):
        yield Block("kept", before[end:], "")


def _split_span(before: str, end: int, span: tuple[int, int]) -> Iterator[Block]:
    if end < span[0]:
        yield Block("kept", before[end : span[0]], "")
    yield Block("left-out", before[span[0] : span[1]], "")
