"""Finds the short blocks of lines that report an error, and the failures unlike the others of a report.

Blank lines and rules end a block. A block is short enough to be read whole: its lines explain each other.
"""

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import pairwise

from . import lines, severity, wording
from .bm25 import Span

MAX_BLOCK_LINES = 16  # of a block that is read whole
MIN_FAILURES = 6  # compared with each other
MAX_ODD_SHARE = 0.25  # of the failures, or one
MAX_ODD_FAILURES = 5
MAX_BODY_LINES = 12  # of a failure, compared and kept if it is odd

_TALLY = re.compile(
    r"\b\d+ (?:\w+ )?(?:passed|failed|failing|failures?|errors?)\b|\b(?:failed|failures?|errors?):? +\d", re.I
)


def score_blocks(
    text: str, spans: Sequence[Span], grades: Sequence[int], templates: Sequence[str], frames: Sequence[int] = ()
) -> dict[int, float]:
    """Return a score for each line of a short block with an error: 1, or less for blocks like an earlier one."""
    scores: dict[int, float] = {}
    occurrences: Counter[tuple[str, ...]] = Counter()
    for first, after in _iter_blocks(text, spans):
        members = [index for index in range(first, after) if not (frames and frames[index])]
        errors = [index for index in members if grades[index] >= severity.ERROR]
        if len(members) > MAX_BLOCK_LINES or all(_TALLY.search(text, *spans[index]) for index in errors):
            continue  # a summary needs no explanation
        shape = tuple([templates[index] for index in members[1:] or members])
        occurrences[shape] += 1
        for index in members:
            scores[index] = 1.0 / occurrences[shape]
    return scores


def _iter_blocks(text: str, spans: Sequence[Span]) -> Iterator[Span]:
    """Yield the first line of each block, and the line after its last one."""
    starts = [
        index
        for index, ((_, end), (start, _)) in enumerate(pairwise(spans), start=1)
        if start - end > 1 and text.count("\n", end, start) > 1
    ]
    separators = [index for index, span in enumerate(spans) if lines.is_separator(text, span)]
    return pairwise(sorted({0, len(spans), *starts, *separators, *(index + 1 for index in separators)}))


def find_odd_failures(text: str, spans: Sequence[Span], titles: Sequence[int], owners: Sequence[int]) -> list[int]:
    """Return the lines of the failures worded unlike most others, without their titles.

    `titles` are the lines that name the failures in order; `owners` has the title of each line, or -1.
    """
    bodies: dict[int, list[int]] = {title: [] for title in titles}
    for index, owner in enumerate(owners):
        if owner in bodies and index != owner and len(bodies[owner]) < MAX_BODY_LINES:
            bodies[owner].append(index)
    bodies = {title: body for title, body in bodies.items() if body}
    if len(bodies) < MIN_FAILURES:
        return []
    members = list(bodies.values())
    texts = [[text[slice(*spans[index])] for index in body] for body in members]
    odd = set(wording.find_odd_wordings(list(map(" ".join, texts)), MIN_FAILURES))
    rows = [(unit, line) for unit, body in enumerate(texts) for line in body]
    odd |= {rows[row][0] for row in wording.find_odd_wordings([line for _, line in rows])}
    is_rare = len(odd) <= min(MAX_ODD_FAILURES, max(1.0, MAX_ODD_SHARE * len(members)))
    return [index for unit in sorted(odd) for index in members[unit]] if is_rare else []
