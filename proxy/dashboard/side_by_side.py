"""A passage as it came and as it was sent, side by side: what is in both, what was left out, what was written. Pure.

It knows markers by their shape only, and shows; nothing depends on it. The invariant: the `before`s of the blocks are
the text as it came, and the `after`s the text as it was sent, to the last character.
"""

import re
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Iterator
from itertools import groupby
from typing import Literal, NamedTuple

BlockKind = Literal["kept", "left-out", "written"]
MAX_LINE_DISTANCE = 4_000  # characters that a line of few letters may be away from where the last piece ended
MIN_LINE_CHARS = 4  # letters
MAX_MISSES = 200  # pieces that are looked for in vain: beyond that, a text counts as laid out anew
MIN_VERBATIM_SHARE = 0.5  # share of what was sent that must stand in the original, else it counts as laid out anew

_MARKER_PATTERN = re.compile(r"\[(?:\.\.\.|\d.* left out.*|reformatted; .*)\]\n*")
_WORD_PATTERN = re.compile(r"\w+")
_INSIDE_WORD_PATTERN = re.compile(r"\w\w")  # two characters with no end of a word between them


class Block(NamedTuple):
    """A stretch of both texts. `left-out`: only before, and after at most a marker. `written`: only after."""

    kind: BlockKind
    before: str
    after: str


class Comparison(NamedTuple):
    """Blocks in order. With `anew` the text was laid out anew (JSON as a table, a model's own words).

    Then there is no place in the one for each place in the other: of the original, what is left out are those words
    that do not stand in what was sent, and all that was sent is one block.
    """

    is_rewritten: bool
    blocks: list[Block]


def compare_texts(before: str, after: str) -> Comparison:
    """Compare two texts, in time that is about linear in their length."""
    blocks = _align_blocks(before, after)
    if blocks is not None:
        merged = _merge_blocks(blocks)
        same = sum(len(block.after) for block in merged if block.kind == "kept")
        written = sum(len(block.after) for block in merged if block.kind == "written")
        if same >= MIN_VERBATIM_SHARE * (same + written):
            return Comparison(is_rewritten=False, blocks=merged)
    return Comparison(
        is_rewritten=True, blocks=[*_mark_missing_words(before, after), Block("written", "", after)] if after else []
    )


def _align_blocks(before: str, after: str) -> list[Block] | None:
    """Find the pieces of `after` in `before`, one behind the other; None when there are too few of them."""
    blocks: list[Block] = []
    lines = _LineIndex(before)
    at = misses = 0
    for is_marker, text in _split_markers(after):
        if is_marker:
            blocks.append(Block("left-out", "", text))
            continue
        whole = before.find(text.strip("\n"), at)
        if whole >= 0:
            at = _append_match(blocks, before, at, whole, text)
            continue
        misses += 1
        if misses > MAX_MISSES:
            return None
        for line in text.splitlines(keepends=True):
            where = lines.find_line(line, at)
            if where is None:
                blocks.append(Block("written", "", line))
            else:
                at = _append_match(blocks, before, at, where, line)
    return [*blocks, Block("left-out", before[at:], "")]


def _append_match(blocks: list[Block], before: str, at: int, where: int, text: str) -> int:
    """Add what lies between, then the piece at `where`, with as many line ends as both have; return where it ends."""
    core = text.strip("\n")
    blocks.append(Block("left-out", before[at:where], ""))
    end = where + len(core)
    ends = len(text) - len(text.rstrip("\n")) if core else 0
    while ends and before[end : end + 1] == "\n":
        end, ends = end + 1, ends - 1
    blocks.append(Block("kept", before[where:end], text))
    return end


def _split_markers(after: str) -> Iterator[tuple[bool, str]]:
    """Cut a text into markers, which have a line of their own, and what stands between them."""
    for is_marker, lines in groupby(
        after.splitlines(keepends=True), key=lambda line: bool(_MARKER_PATTERN.fullmatch(line))
    ):
        yield is_marker, "".join(lines)


class _LineIndex:
    """Where the lines of a text are, found by what they say."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._misses = 0
        self._positions: defaultdict[str, list[int]] = defaultdict(list)
        start = 0
        for line in text.splitlines(keepends=True):
            self._positions[line.strip("\n")].append(start)
            start += len(line)

    def find_line(self, line: str, at: int) -> int | None:
        """Return the first place of a line from `at` on, or of a part of a line nearby; None where that is chance."""
        core = line.strip("\n")
        places = self._positions.get(core, [])
        index = bisect_left(places, at)
        if not core.strip():
            return None
        if index < len(places) and (places[index] - at <= MAX_LINE_DISTANCE or len(core) >= MIN_LINE_CHARS):
            return places[index]
        return self._find_substring(core, at) if len(core) >= MIN_LINE_CHARS else None

    def _find_substring(self, core: str, at: int) -> int | None:
        """Find a text between two words' ends; after many times in vain it is not looked for any more."""
        if self._misses > MAX_MISSES:
            return None
        end = min(len(self._text), at + MAX_LINE_DISTANCE)
        where = self._text.find(core, at, end)
        while where >= 0:
            edges = self._text[max(0, where - 1) : where + 1], self._text[where + len(core) - 1 : where + len(core) + 1]
            if not any(_INSIDE_WORD_PATTERN.fullmatch(edge) for edge in edges):
                return where
            where = self._text.find(core, where + 1, end)
        self._misses += 1
        return None


def _merge_blocks(blocks: list[Block]) -> list[Block]:
    """Join blocks of a kind, let blanks go with what stands before them, and drop what is empty."""
    merged: list[Block] = []
    for block in blocks:
        if not block.before and not block.after:
            continue
        last = merged[-1] if merged else None
        blank = block.kind == "left-out" and not block.before.strip() and not block.after
        if last is not None and (last.kind == block.kind or (blank and last.kind == "kept")):
            merged[-1] = Block(last.kind, last.before + block.before, last.after + block.after)
        else:
            merged.append(block)
    return merged


def _mark_missing_words(before: str, after: str) -> Iterator[Block]:
    """Mark those words of the original that do not stand in what was sent, in one stretch where they share a line."""
    known = set(_WORD_PATTERN.findall(after))
    end = 0
    stretch: tuple[int, int] | None = None
    for word in _WORD_PATTERN.finditer(before):
        gone = word[0] not in known
        if stretch is not None and gone and "\n" not in before[stretch[1] : word.start()]:
            stretch = stretch[0], word.end()
            continue
        if stretch is not None:
            yield from _split_stretch(before, end, stretch)
            end = stretch[1]
        stretch = word.span() if gone else None
    if stretch is not None:
        yield from _split_stretch(before, end, stretch)
        end = stretch[1]
    if end < len(before):
        yield Block("kept", before[end:], "")


def _split_stretch(before: str, end: int, stretch: tuple[int, int]) -> Iterator[Block]:
    if end < stretch[0]:
        yield Block("kept", before[end : stretch[0]], "")
    yield Block("left-out", before[stretch[0] : stretch[1]], "")
