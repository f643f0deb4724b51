"""Cuts a document into chunks along its structure: headings, paragraphs, functions, records, then lines.

Invariants: a chunk is verbatim, chunks are in order and do not overlap (unless an overlap is asked for), and together
they have every character of the document that is not blank.
"""

import re
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import NamedTuple

from .. import registry
from ..extract.core import headings, sentences

CHARACTERS_PER_TOKEN = 4  # a token has about four characters
MAX_TOKENS = 200  # CLaRa reads documents of at most 256 tokens
_MIN_SHARE = 0.25  # a smaller section is joined with its neighbours
MAX_HEADING_CHARACTERS = 120

_ATX_HEADING = re.compile(r"(#{1,6})[ \t]+(.+?)[ \t]*#*$")
_UNDERLINE = re.compile(r"(?:={3,}|-{3,})[ \t]*$")
_DEFINITION = re.compile(
    r"(?:@\w|(?:export |public |private |protected |static |async |pub(?:\(\w+\))? |default |abstract |final )*"
    r"(?:def|class|func|function|fn|impl|struct|interface|enum|type|trait|module|CREATE|create)\s)"
)


class Chunk(NamedTuple):
    """A piece of a document: its offsets in the document, and the titles of the sections around it, outermost first."""

    start: int
    end: int
    titles: tuple[str, ...] = ()


class _Block(NamedTuple):
    """Lines that belong together; `level` is that of a heading, else 0."""

    start: int
    end: int
    level: int = 0


def split_document(text: str, max_tokens: int = MAX_TOKENS, overlap_tokens: int = 0) -> list[Chunk]:
    """Return the chunks of a document.

    Args:
        text: the document
        max_tokens: the largest size of a chunk, at four characters a token
        overlap_tokens: how much of the text before it a chunk repeats, within its section
    """
    limit = max(1, max_tokens - overlap_tokens) * CHARACTERS_PER_TOKEN
    blocks = _find_blocks(text, has_headings=registry.classify_content(text) != "code")
    parents = headings.find_parent_headings(block.level for block in blocks)
    chunks = list(_pack_blocks(text, blocks, parents, limit))
    return _add_overlap(text, chunks, overlap_tokens * CHARACTERS_PER_TOKEN) if overlap_tokens else chunks


def _find_blocks(text: str, *, has_headings: bool) -> list[_Block]:
    """Return paragraphs, headings and definitions, without surrounding blank lines."""
    blocks: list[_Block] = []
    start = position = 0
    is_fenced = False
    previous = ""
    for line in text.splitlines(keepends=True):
        end = position + len(line)
        content = line.rstrip()
        level = _heading_level(content) if has_headings and not is_fenced else 0
        if content.lstrip().startswith(("```", "~~~")):
            is_fenced = not is_fenced
        if not content and not is_fenced:
            _add_block(blocks, text, start, position)
            start = end
        elif level:
            _add_block(blocks, text, start, position)
            blocks.append(_Block(position, position + len(content), level))
            start = end
        elif _UNDERLINE.match(content) and has_headings and not is_fenced and position > start and _is_title(previous):
            title_start = position - len(previous)
            _add_block(blocks, text, start, title_start)
            blocks.append(_Block(title_start, position + len(content), 1 if content[0] == "=" else 2))
            start = end
        elif _DEFINITION.match(content) and not previous.startswith("@"):
            _add_block(blocks, text, start, position)
            start = position
        previous, position = line, end
    _add_block(blocks, text, start, len(text))
    return blocks


def _heading_level(line: str) -> int:
    match = _ATX_HEADING.match(line)
    return len(match[1]) if match else 0


def _is_title(line: str) -> bool:
    content = line.strip()
    return 0 < len(content) <= MAX_HEADING_CHARACTERS and not line[0].isspace() and content[0] not in "|+-=#"


def _add_block(blocks: list[_Block], text: str, start: int, end: int) -> None:
    piece = text[start:end]
    if piece.strip():
        blank = len(piece) - len(piece.lstrip())
        indented = start + piece.rfind("\n", 0, blank) + 1  # the indentation of the first line belongs to the block
        blocks.append(_Block(indented, start + len(piece.rstrip())))


def _pack_blocks(text: str, blocks: Sequence[_Block], parents: Sequence[int], limit: int) -> Iterator[Chunk]:
    """Join neighbouring blocks up to the limit; a new section begins a new chunk unless the last one is small."""
    first = 0  # index of the first block of the open chunk
    for index, block in enumerate(blocks):
        is_bare = all(blocks[before].level for before in range(first, index))  # the open chunk has only headings
        size = blocks[index - 1].end - blocks[first].start if index > first else 0
        is_full = block.end - blocks[first].start > limit
        if not is_bare and (is_full or (block.level and size >= limit * _MIN_SHARE)):
            yield _make_chunk(text, blocks, parents, first, index)
            first, is_bare = index, True
        if is_bare and block.end - blocks[first].start > limit:
            titles = _list_titles(text, blocks, parents[index])
            whole = _Block(blocks[first].start, block.end)
            yield from (Chunk(start, end, titles) for start, end in _cut_block(text, whole, limit))
            first = index + 1
    if first < len(blocks):
        yield _make_chunk(text, blocks, parents, first, len(blocks))


def _make_chunk(text: str, blocks: Sequence[_Block], parents: Sequence[int], first: int, end: int) -> Chunk:
    return Chunk(blocks[first].start, blocks[end - 1].end, _list_titles(text, blocks, parents[first]))


def _list_titles(text: str, blocks: Sequence[_Block], heading: int) -> tuple[str, ...]:
    """Return the titles of a heading and of the headings above it, outermost first."""
    titles: list[str] = []
    level = 7
    while heading >= 0:
        if blocks[heading].level < level:
            level = blocks[heading].level
            line = text[blocks[heading].start : blocks[heading].end].partition("\n")[0]
            titles.append(line.strip("# \t\r")[:MAX_HEADING_CHARACTERS])
        heading = next((index for index in range(heading - 1, -1, -1) if 0 < blocks[index].level < level), -1)
    return tuple(reversed(titles))


def _cut_block(text: str, block: _Block, limit: int) -> Iterator[tuple[int, int]]:
    """Cut a block that is too large: between lines, within a line between sentences, else at the limit."""
    units = [unit for line in _iter_lines(text, block) for unit in _cut_line(text, *line, limit)]
    start = end = block.start
    for unit_start, unit_end in units:
        if unit_end - start > limit:
            if end > start:
                yield start, end
            start = unit_start
        end = unit_end
    if end > start:
        yield start, end


def _iter_lines(text: str, block: _Block) -> Iterator[tuple[int, int]]:
    position = block.start
    for line in text[block.start : block.end].splitlines(keepends=True):
        content = line.rstrip("\r\n")
        if content.strip():
            yield position, position + len(content)
        position += len(line)


def _cut_line(text: str, start: int, end: int, limit: int) -> Iterator[tuple[int, int]]:
    if end - start <= limit:
        yield start, end
        return
    for first, last in sentences.find_sentences(text, start, end):
        for cut in range(first, last, limit):
            yield cut, min(cut + limit, last)


def _add_overlap(text: str, chunks: Sequence[Chunk], characters: int) -> list[Chunk]:
    """Begin each chunk up to `characters` earlier, at a word, within the previous chunk of its section."""
    result = list(chunks[:1])
    for previous, chunk in pairwise(chunks):
        start = max(previous.start, chunk.start - characters)
        blank = text.find(" ", start, chunk.start)
        is_same = previous.titles == chunk.titles and blank >= 0
        result.append(chunk._replace(start=blank + 1) if is_same else chunk)
    return result
