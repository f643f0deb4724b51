"""Finds the structure of a text by its layout: the parent of every line, and the lines that name a record.

A line belongs to the last line with less indentation. Tree characters count as indentation, list markers as half a
step. At the same indentation, a line that opens a record (`commit <hash>`, `-[ RECORD 3 ]-`, `File: <path>`, the first
line of a block) is above the lines after it. Openers are recognised by repetition, never by their words.
"""

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

from .bm25 import Span

MAX_INDENT = 200  # of a line, in columns; deeper lines count as this deep
TAB_WIDTH = 8
MAX_KEY_CHARACTERS = 80
MIN_REGULAR_RECORDS = 3
MAX_IDENTITY_LINES = 3  # of a record, besides its opener
MAX_IDENTITY_CHARACTERS = 160
MAX_PREFIX_LINES = 200
MIN_PREFIX_SHARE = 0.75
MAX_DOMINANT_LEVELS = 8
DOMINANT_SHARE = 0.6  # lines of a record that is around most of the text
IDENTITY_SEARCH_LINES = 8  # after the opener

_TREE_LEAD = re.compile(r"[ \t│├└─┬╷╵|\u00a0]*(?:[`+\\|](?:--|-) ?)?")
_BLANK_LEAD = re.compile(r"[ \t]*(?:│[ \t]*)*")
_TREE_TEXT = re.compile(r"^[ │|\u00a0]*(?:[├└]─|[|`+\\]--)", re.MULTILINE)
_PREFIXES = (re.compile(r"[^\s:=]{2,40} [^\s:=]{2,40} "), re.compile(r"\S{2,40} "))
_BRACKETS = re.compile(r"[\[({]+(?=[\[({\"'])")
_CHANGE_MARKER = re.compile(r"(?:-/\+|\+/-|<=|[-+~])[ \t]+")
_CHANGED_TEXT = re.compile(r"^[ \t]+[+~] \w", re.MULTILINE)
_CLOSER = re.compile(r"[━╸╺─█▉▊▋▌▍▎▏▓▒░#=>-]{10,}[ \t]|[-=_*~.+| ]{3,}$|[}\])]+[,;]?\s*$|</[\w:.-]{1,80}>\s*$")
_COMMENT = re.compile(r"\(|[#;] |//")
_KEY = re.compile(r"[- ]{0,4}[\"']?([^\W\d][\w.@/$ ()<>-]{0,60}?)[\"']?\s{0,40}[:=](?=\s|$)")
_OPENING_TAG = re.compile(r"<([\w:.-]{1,80})")
_OPENING_WORD = re.compile(r"[^\w\s]{0,4}[\w.-]{1,40}")
_DIGITS = re.compile(r"\d+")
_BANNER = re.compile(r"(?:[-=*#+~]{2,}|==>|@{2,})[\[( ]{1,3}(?=[^\n]{0,200}\w).{1,200}$")
_IDENTITY_KEY = re.compile(
    r"[- ]{0,4}<?[\"']?(?:[\w.-]{0,30}[ _.-])?(?:name|id|uid|uuid|title|kind|path|file|host|hostname|user|login|author|"
    r"date|subject|from|commit|hash|sha|package|number|key|address|[bs]?ssid|device|interface|dn|cn|url|version)[\"']?\s{0,40}[:=>]",
    re.IGNORECASE,
)


@dataclass(frozen=True, slots=True)
class Structure:
    """The structure of the lines of a text.

    `parents[i]` is the line that line `i` belongs to, a lower index, or -1. `ends[i]` is the index after the last line
    that belongs to line `i`, directly or not. `identities` maps the first line of a record to the next line that names
    the record, that line to the next one, and so on. `closers` flags lines without words: rules,
    progress bars, closing brackets and tags.
    """

    parents: list[int]
    ends: list[int]
    identities: dict[int, int]
    closers: list[bool]


def find_structure(text: str, spans: Sequence[Span]) -> Structure:
    """Return the structure of the lines; linear in the text."""
    indents, starts = _measure_indents(text, spans)
    blocks = _find_block_starts(text, spans)
    keys = [_extract_key(text, start, end) for start, (_, end) in zip(starts, spans, strict=True)]
    openers, is_flat = _find_openers(text, spans, indents, keys, blocks)
    if is_flat or _are_numbers_aligned(text, starts, indents):
        indents = [0] * len(indents)
    closers = [_CLOSER.match(text, start, end) is not None for start, (_, end) in zip(starts, spans, strict=True)]
    titles = _find_titles(text, spans, indents, blocks) if not is_flat else set[int]()
    comments = {index for index, start in enumerate(starts) if _COMMENT.match(text, start) and index not in openers}
    parents = _assign_parents(indents, openers, titles, closers, blocks, comments)
    ends = _find_ends(parents)
    identities = _find_identities(text, spans, starts, keys, parents, ends)
    return Structure(parents, ends, identities, closers)


def _measure_indents(text: str, spans: Sequence[Span]) -> tuple[list[int], list[int]]:
    """Return the indentation of each line (two steps a column, one for a list marker) and the start of its content."""
    sample = text[:20_000]
    lead = _TREE_LEAD if _TREE_TEXT.search(sample) else _BLANK_LEAD
    has_changes = _CHANGED_TEXT.search(sample) is not None
    indents: list[int] = []
    starts: list[int] = []
    prefix = _find_shared_prefix(text, spans)
    for start, end in spans:
        if prefix and text.startswith(prefix, start, end):
            start += len(prefix)  # noqa: PLW2901
        match = lead.match(text, start, end)
        content = match.end() if match is not None else start
        blanks = text[start:content]
        width = len(blanks.expandtabs(TAB_WIDTH)) if "\t" in blanks else len(blanks)
        marker = _CHANGE_MARKER.match(text, content, end) if has_changes else None
        if marker is not None:
            width += len(marker[0])
            content = marker.end()
        brackets = _BRACKETS.match(text, content, end)
        if brackets is not None:  # `[{"id": 1,` begins the same record as ` {"id": 2,`
            width += len(brackets[0])
            content = brackets.end()
        is_item = marker is None and text.startswith("- ", content, end)
        indents.append(min(2 * width + is_item, 2 * MAX_INDENT))
        starts.append(content)
    return indents, starts


def _find_shared_prefix(text: str, spans: Sequence[Span]) -> str:
    """Return the first words of nearly all lines, such as `npm error `, or an empty string."""
    sample = spans[:MAX_PREFIX_LINES]
    middle = sample[len(sample) // 2] if sample else (0, 0)
    for pattern in _PREFIXES:
        match = pattern.match(text, *middle)
        count = sum(text.startswith(match[0], start, end) for start, end in sample) if match is not None else 0
        if match is not None and count >= MIN_PREFIX_SHARE * len(sample) and len(sample) >= MIN_REGULAR_RECORDS:
            return match[0]
    return ""


def _are_numbers_aligned(text: str, starts: Sequence[int], indents: Sequence[int]) -> bool:
    """Return True if the indentation is that of right-aligned numbers, as in `wc` and `du`."""
    numbers = sum(text[start : start + 1].isdigit() for start, indent in zip(starts, indents, strict=True) if indent)
    return numbers > 0 and 2 * numbers > sum(map(bool, indents))


def _find_block_starts(text: str, spans: Sequence[Span]) -> set[int]:
    """Return the indices of the lines behind a blank line, and the first."""
    starts = {0} if spans else set[int]()
    for index, ((_, end), (start, _)) in enumerate(pairwise(spans), start=1):
        if start - end > 1 and text.count("\n", end, start) > 1:
            starts.add(index)
    return starts


def _extract_key(text: str, start: int, end: int) -> str:
    """Return what a line has in common with the same line of another record: its key, tag or first word."""
    end = min(end, start + MAX_KEY_CHARACTERS)
    match = _KEY.match(text, start, end) or _OPENING_TAG.match(text, start, end)
    if match is not None:
        return _DIGITS.sub("0", match[1])
    word = _OPENING_WORD.match(text, start, end)
    return _DIGITS.sub("0", word[0]) if word is not None else ""


def _find_openers(
    text: str, spans: Sequence[Span], indents: Sequence[int], keys: Sequence[str], blocks: set[int]
) -> tuple[set[int], bool]:
    """Return the lines that open a record, and whether the indentation means nothing (right-aligned keys)."""
    banners = {index for index, (start, end) in enumerate(spans) if _BANNER.match(text, start, end)}
    openers = banners if len(banners) > 1 else set[int]()
    if not spans:
        return openers, False
    least = min(indents)
    flush = [index for index, indent in enumerate(indents) if indent == least]
    firsts = Counter(keys[index] for index in blocks if indents[index] == least)
    frequencies = Counter(keys[index] for index in flush)
    recurring = {
        key
        for key, count in firsts.items()
        if key and count > 1 and 2 * count > frequencies[key] and 4 * count >= len(firsts)
    }
    if recurring and not openers:
        openers = {index for index in blocks if indents[index] == least and keys[index] in recurring}
        if _have_bodies(openers, len(spans)):
            return openers, False
        openers = set()
    for candidate in dict.fromkeys((0, flush[0])):
        is_aligned = indents[candidate] > least and _are_colons_aligned(text, spans)
        members = range(len(spans)) if is_aligned else flush
        if (is_aligned or indents[candidate] == least) and _is_regular(keys, members, keys[candidate]):
            return {*openers, *(index for index in members if keys[index] == keys[candidate])}, is_aligned
    return openers, False


def _have_bodies(openers: set[int], total: int) -> bool:
    return 2 * len(openers) <= total


def _are_colons_aligned(text: str, spans: Sequence[Span]) -> bool:
    """Return True if most lines have their first colon in the column of the first line's."""
    columns = [text.find(":", start, end) - start for start, end in spans]
    return columns[0] >= 0 and 2 * columns.count(columns[0]) >= len(columns)


def _is_regular(keys: Sequence[str], members: Sequence[int], key: str) -> bool:
    """Return True if the key begins records: most other keys occur about as often, a few lines apart."""
    counts = Counter(keys[index] for index in members)
    count = counts[key]
    if not key or count < MIN_REGULAR_RECORDS or len(members) < 2 * count or len(counts) < 2:
        return False
    similar = sum(other for other in counts.values() if count <= 2 * other and other <= 2 * count)
    return 2 * similar >= len(members) and similar > count


def _find_titles(text: str, spans: Sequence[Span], indents: Sequence[int], blocks: set[int]) -> set[int]:
    """Return the lines that end with a colon above lines of the same indentation: `./src:` in `ls -R`."""
    return {
        index
        for index in blocks
        if index + 1 < len(spans)
        and index + 1 not in blocks
        and indents[index + 1] == indents[index]
        and text[spans[index][1] - 1] == ":"
    }


def _assign_parents(
    indents: Sequence[int],
    openers: set[int],
    titles: set[int],
    closers: Sequence[bool],
    blocks: set[int],
    comments: set[int],
) -> list[int]:
    parents: list[int] = []
    stack: list[tuple[int, int, int]] = []  # indentation, rank (0 above 1), index
    for index, indent in enumerate(indents):
        rank = 0 if index in openers or index in titles else 1
        if closers[index]:
            while stack and (stack[-1][0], stack[-1][1]) > (indent, 1):
                stack.pop()
            parents.append(stack[-1][2] if stack else -1)
            continue
        while stack and (stack[-1][0], stack[-1][1]) >= (indent, rank):
            stack.pop()
        if index in blocks and stack and stack[-1][2] in titles and stack[-1][0] == indent:
            stack.pop()  # a blank line ends what stands below a title
        parents.append(stack[-1][2] if stack else -1)
        if index not in comments:
            stack.append((indent, rank, index))
    return parents


def _find_ends(parents: Sequence[int]) -> list[int]:
    ends = list(range(1, len(parents) + 1))
    for index in range(len(parents) - 1, -1, -1):
        if parents[index] >= 0:
            ends[parents[index]] = max(ends[parents[index]], ends[index])
    return ends


def group_lines(structure: Structure, spans: Sequence[Span], max_characters: int) -> list[int]:
    """Return the first line of each unit: a short record is one unit, every other line is its own."""
    firsts: list[int] = []
    line = 0
    while line < len(spans):
        firsts.append(line)
        end = structure.ends[line]
        line = end if spans[end - 1][1] - spans[line][0] <= max_characters else line + 1
    return firsts


def is_title(text: str, span: Span) -> bool:
    """Return True if a line has no value of its own: `Containers:`, `resource "a" "b" {`, `commit 1f0c`."""
    start, end = span
    return (
        text[end - 1] in ":{[("
        or _KEY.match(text, start + len(text[start:end]) - len(text[start:end].lstrip()), end) is None
    )


def is_identity(text: str, span: Span) -> bool:
    """Return True if a line has a key such as `Name:`."""
    return _IDENTITY_KEY.match(text, *span) is not None


def measure_depths(structure: Structure) -> list[int]:
    """Return the number of lines above each line that it belongs to."""
    depths: list[int] = []
    for parent in structure.parents:
        depths.append(depths[parent] + 1 if parent >= 0 else 0)
    return depths


def find_records(structure: Structure) -> list[int]:
    """Return the opener of each line's record.

    A record is what stands at the top; of a single record around most of the text, what stands in it.
    """
    parents, ends = structure.parents, structure.ends
    records = list(range(len(parents)))
    dominant = -1
    for _ in range(MAX_DOMINANT_LEVELS):
        first, after = (dominant + 1, ends[dominant]) if dominant >= 0 else (0, len(parents))
        line, largest = first, first
        while line < after:
            largest = line if ends[line] - line > ends[largest] - largest else largest
            line = ends[line]
        if first >= after or ends[largest] - largest < DOMINANT_SHARE * (after - first):
            break
        dominant = largest
    first, after = (dominant + 1, ends[dominant]) if dominant >= 0 else (0, len(parents))
    line = first
    while line < after:
        records[line : ends[line]] = [line] * (ends[line] - line)
        line = ends[line]
    return records


def _find_identities(
    text: str,
    spans: Sequence[Span],
    starts: Sequence[int],
    keys: Sequence[str],
    parents: Sequence[int],
    ends: Sequence[int],
) -> dict[int, int]:
    """Chain the lines that name each record; a record has siblings that begin with the same key."""
    siblings = Counter((parents[index], keys[index]) for index in range(len(parents)) if ends[index] > index + 1)
    identities: dict[int, int] = {}
    for index in range(len(parents)):
        if ends[index] == index + 1 or siblings[parents[index], keys[index]] < 2:
            continue
        last = index
        for line in _iter_identity_lines(text, spans, starts, index, ends[index], parents):
            identities[last] = last = line
    return {first: line for first, line in identities.items() if first != line}


def _iter_identity_lines(
    text: str, spans: Sequence[Span], starts: Sequence[int], head: int, end: int, parents: Sequence[int]
) -> Iterator[int]:
    count = 0
    for line in range(head + 1, min(end, head + 1 + IDENTITY_SEARCH_LINES)):
        parent = parents[line]
        is_near = parent == head or (parent > head and parents[parent] == head)
        if not is_near or spans[line][1] - spans[line][0] > MAX_IDENTITY_CHARACTERS:
            continue
        if _IDENTITY_KEY.match(text, starts[line], spans[line][1]):
            yield line
            count += 1
            if count == MAX_IDENTITY_LINES:
                return
