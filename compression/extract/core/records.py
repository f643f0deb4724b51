"""Finds the structure of a text by its layout: the parent of every line, and the lines that name a record.

A line belongs to the last line with less indentation. Tree characters count as indentation, list markers as half a
step. At the same indentation, a line that opens a record (`commit <hash>`, `-[ RECORD 3 ]-`, `File: <path>`, the first
line of a block) is above the lines after it. Openers are recognised by repetition, never by their words.
"""

import re
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

from . import indentation, line_keys, lines
from .bm25 import Span
from .line_keys import LineKeys

FIELD_CHARACTERS = 20_000  # of the start, to recognise fields
MIN_FIELDS = 6  # of a record
MIN_FIELD_SHARE = 0.6  # of all keys among as many fields from the first one
MIN_REGULAR_RECORDS = 3
MIN_BLOCK_SHARE = 0.9  # of the blocks of right-aligned keys that begin with the same one
MAX_IDENTITY_LINES = 3  # of a record, besides its opener
MAX_IDENTITY_CHARACTERS = 160
MAX_REGULAR_LINES = 5_000  # examined to find records without blank lines between them
MAX_DOMINANT_LEVELS = 8
DOMINANT_SHARE = 0.6  # lines of a record that is around most of the text
IDENTITY_SEARCH_LINES = 8  # after the opener

_CLOSER_OPENINGS = frozenset("}])<-=_*~.+|━╸╺─█▉▊▋▌▍▎▏▓▒░#>")
_BANNER_OPENINGS = frozenset("-=*#+~@")
_CLOSER = re.compile(r"[━╸╺─█▉▊▋▌▍▎▏▓▒░#=>-]{10,}[ \t]|[-=_*~.+| ]{3,}$|[}\])]+[,;]?\s*$|</[\w:.-]{1,80}>\s*$")
_COMMENT = re.compile(r"\(|[#;] |//")
_BANNER = re.compile(r"(?:[-=*#+~]{2,}|==>|@{2,})[\[( ]{1,3}(?=[^\n]{0,200}\w).{1,200}$")
_FIELD = re.compile(r"^[ \t]{0,4}([A-Z][\w-]{0,30}(?: [\w-]{1,20}){0,3})[ \t]{0,30}:(?:[ \t](.*))?$", re.MULTILINE)


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
    comments: Collection[int] = ()


def find_structure(text: str, spans: Sequence[Span]) -> Structure:
    """Return the structure of the lines; linear in the text."""
    if not spans:
        return Structure([], [], {}, [])
    indents, starts = indentation.measure_indents(text, spans)
    blocks = set(lines.find_block_starts(text, spans))
    keys = LineKeys(text, spans, starts)
    closers = [
        text[start : start + 1] in _CLOSER_OPENINGS and _CLOSER.match(text, start, end) is not None
        for start, (_, end) in zip(starts, spans, strict=True)
    ]
    openers, is_flat = _find_openers(text, spans, indents, keys, blocks, closers)
    is_prefixed = any(indents) and (
        indentation.are_numbers_aligned(text, starts, indents) or indentation.are_marks_aligned(text, spans)
    )
    if is_flat or is_prefixed:
        indents = [0] * len(indents)
    if text.startswith(("<", "\ufeff<")):
        indentation.indent_elements(text, spans, starts, indents)
    elif not is_flat:
        indentation.indent_columns(text, spans, indents, openers)
    titles = _find_titles(text, spans, indents, blocks) if not is_flat else set[int]()
    comments = {
        index
        for index, start in enumerate(starts)
        if text[start : start + 1] in "(#;/" and _COMMENT.match(text, start) and index not in openers
    }
    titles |= _find_column_headers(indents, closers, titles | openers)
    parents = _assign_parents(indents, openers, titles, closers, blocks, comments)
    ends = _find_ends(parents)
    identities = _find_identities(keys, parents, ends, blocks)
    _add_comments(identities, comments, parents, ends)
    return Structure(parents, ends, identities, closers, comments)


def are_fields(text: str) -> bool:
    """Return True if the text consists of records of fields, each with the same keys, unlike turns of speakers."""
    fields = _FIELD.findall(text)
    keys = [key for key, _ in fields]
    counts = Counter(keys)
    if not keys or counts[keys[0]] < 2 or 2 * len(keys) < text.count("\n") - text.count("\n\n"):
        return False
    sentences = sum(value.rstrip().endswith((".", "!", "?")) for _, value in fields)
    return (
        len(counts) >= MIN_FIELDS
        and 4 * sentences <= len(keys)
        and len(set(keys[: len(counts)])) >= MIN_FIELD_SHARE * len(counts)
    )


def _find_openers(
    text: str,
    spans: Sequence[Span],
    indents: Sequence[int],
    keys: LineKeys,
    blocks: set[int],
    closers: Sequence[bool],
) -> tuple[set[int], bool]:
    """Return the lines that open a record, and whether the indentation means nothing (right-aligned keys)."""
    banners = {
        index
        for index, (start, end) in enumerate(spans)
        if text[start] in _BANNER_OPENINGS and _BANNER.match(text, start, end)
    }
    openers = banners if len(banners) > 1 else set[int]()
    least = min(indents)
    first_key = keys[0]
    if not openers and indents[0] > least and len(blocks) >= MIN_REGULAR_RECORDS and _are_keys_aligned(text, spans):
        same = {index for index in blocks if keys[index] == first_key}
        if first_key and len(same) >= MIN_BLOCK_SHARE * len(blocks):
            return same, True
    if not openers and indents[0] == least and _FIELD.match(text, *spans[0]) and are_fields(text[:FIELD_CHARACTERS]):
        return {index for index in range(len(spans)) if keys[index] == first_key}, False
    flush = [index for index, indent in enumerate(indents) if indent == least]
    flush_blocks = [index for index in sorted(blocks) if indents[index] == least]
    if not openers and len(flush_blocks) > 1 and len(blocks) > 1:
        firsts = Counter(keys.list_keys(flush_blocks))
        frequencies = Counter(keys.list_keys(flush))
        recurring = {
            key
            for key, count in firsts.items()
            if key
            and count > 1
            and 2 * count + (key == "0") > frequencies[key]
            and 4 * count >= len(firsts)  # also numbers of cues
        }
        block_openers = {index for index in flush_blocks if keys[index] in recurring}
        if block_openers and 2 * len(block_openers) <= len(spans):
            return block_openers, False
    for candidate in dict.fromkeys((0, next((index for index in flush if not closers[index]), flush[0]))):
        if closers[candidate]:
            continue
        is_aligned = indents[candidate] > least and _are_keys_aligned(text, spans)
        members = range(len(spans)) if is_aligned else flush
        if (is_aligned or indents[candidate] == least) and _is_regular(keys, members, keys[candidate]):
            return {*openers, *(index for index in members if keys[index] == keys[candidate])}, is_aligned
    return openers, False


def _are_keys_aligned(text: str, spans: Sequence[Span]) -> bool:
    """Return True if most lines have their first colon or equals sign in the column of the first line's."""
    for separator in (":", " = "):
        columns = [text.find(separator, start, end) - start for start, end in spans]
        if columns[0] >= 0 and 2 * columns.count(columns[0]) >= len(columns):
            return True
    return False


def _is_regular(keys: LineKeys, members: Sequence[int], key: str) -> bool:
    """Return True if the key begins records: most other keys occur about as often, and usually the same follows."""
    names = keys.list_keys(members[:MAX_REGULAR_LINES])
    counts = Counter(names)
    count = counts[key]
    if not key or count < MIN_REGULAR_RECORDS or len(names) < 2 * count or len(counts) < 2:
        return False
    similar = sum(other for other in counts.values() if count <= 2 * other and other <= 2 * count)
    followers = Counter(after for name, after in pairwise(names) if name == key)
    return 2 * similar >= len(names) and similar > count and 2 * max(followers.values()) >= count


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


def _find_column_headers(indents: Sequence[int], closers: Sequence[bool], others: set[int]) -> set[int]:
    """Return the indented lines above a rule and lines of the same indentation: the header of a table in a record."""
    return {
        index
        for index in range(len(indents) - 2)
        if indents[index]
        and closers[index + 1]
        and not closers[index]
        and not closers[index + 2]
        and indents[index] == indents[index + 1] == indents[index + 2]
        and index not in others
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


def measure_depths(structure: Structure) -> list[int]:
    """Return the number of lines above each line that it belongs to."""
    depths: list[int] = []
    for parent in structure.parents:
        depths.append(depths[parent] + 1 if parent >= 0 else 0)
    return depths


def find_records(structure: Structure) -> list[int]:
    """Return the opener of each line's record.

    A record is a top-level opener with its lines. If one record encloses most of the text, its members are the records.
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


def list_named_members(
    structure: Structure, text: str, spans: Sequence[Span], named: Collection[int]
) -> dict[int, None]:
    """Return the lines of the records that these lines open or identify: `Repository: core` above `Name: curl`."""
    parents, sizes = structure.parents, Counter(structure.parents)
    identified = {
        parents[line]
        for line in named
        if parents[line] >= 0
        and structure.ends[line] == line + 1
        and line - parents[line] <= MAX_IDENTITY_LINES
        and line_keys.is_identity(text, spans[line])
        and sizes[parents[parents[line]]] > 1
    }
    members: dict[int, None] = {}
    for index, parent in enumerate(parents) if named else ():
        if parent in named or parent in identified or parent in members:
            members[index] = None
    return members


def _find_identities(keys: LineKeys, parents: Sequence[int], ends: Sequence[int], blocks: set[int]) -> dict[int, int]:
    """Chain the lines that name each record; a record has siblings that begin with the same key.

    Behind such lines and a blank line, an indented line is the record's subject (`git log`).
    """
    heads = [index for index, end in enumerate(ends) if end > index + 1]
    siblings = Counter((parents[index], keys[index]) for index in heads)
    identities: dict[int, int] = {}
    for index in heads:
        if siblings[parents[index], keys[index]] < 2:
            continue
        last = index
        for line in _iter_identity_lines(keys, index, ends[index], parents):
            identities[last] = last = line
        subject = next((line for line in range(last + 1, min(ends[index], last + 3)) if line in blocks), -1)
        if last > index and subject >= 0:
            start, end = keys.spans[subject]
            if end - start <= MAX_IDENTITY_CHARACTERS and keys.starts[subject] > start:
                identities[last] = subject
    return {first: line for first, line in identities.items() if first != line}


def _add_comments(identities: dict[int, int], comments: set[int], parents: Sequence[int], ends: Sequence[int]) -> None:
    """Add, in place, the comment directly above a record to the lines that name it."""
    for comment in comments:
        head = line = comment + 1
        if head < len(parents) and ends[head] > head + 1 and parents[head] == parents[comment]:
            while line in identities:
                line = identities[line]
            identities[line] = comment


def _iter_identity_lines(keys: LineKeys, head: int, end: int, parents: Sequence[int]) -> Iterator[int]:
    count = 0
    for line in range(head + 1, min(end, head + 1 + IDENTITY_SEARCH_LINES)):
        parent = parents[line]
        is_near = parent == head or (parent > head and parents[parent] == head)
        if not is_near or keys.spans[line][1] - keys.spans[line][0] > MAX_IDENTITY_CHARACTERS:
            continue
        if keys.is_identity(line):
            yield line
            count += 1
            if count == MAX_IDENTITY_LINES:
                return
