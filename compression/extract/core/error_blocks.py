"""Finds the short blocks of lines that report an error, and the failures unlike the others of a report.

Blank lines and rules end a block. A block is short enough to be read whole: its lines explain each other.
"""

import re
from bisect import bisect_right
from collections import Counter
from collections.abc import Sequence
from itertools import pairwise

from . import severity, wording
from .bm25 import Span
from .stack_traces import TraceLines

MAX_BLOCK_LINES = 16  # of a block that is read whole
MIN_FAILURES = 6  # compared with each other
MAX_ODD_SHARE = 0.25  # of the failures, or one
MAX_ODD_FAILURES = 5
MAX_BODY_LINES = 12  # of a failure, compared and kept if it is odd

_TALLY = re.compile(
    r"\b\d+ (?:\w+ )?(?:passed|failed|failing|failures?|errors?)\b|\b(?:failed|failures?|errors?):? +\d", re.I
)


def score_blocks(text: str, trace: TraceLines, grades: Sequence[int], templates: Sequence[str]) -> dict[int, float]:
    """Return a score for each line of a short block with an error: 1, or less for blocks like an earlier one."""
    errors = [index for index, grade in enumerate(grades) if grade >= severity.ERROR and not trace.frames[index]]
    errors = [index for index in errors if not _TALLY.search(text, *trace.spans[index])]  # needs no explanation
    bounds = _find_bounds(text, trace) if errors else []
    scores: dict[int, float] = {}
    occurrences: Counter[tuple[str, ...]] = Counter()
    for block in dict.fromkeys([bisect_right(bounds, index) for index in errors]):
        members = [index for index in range(bounds[block - 1], bounds[block]) if not trace.frames[index]]
        if len(members) <= MAX_BLOCK_LINES:
            shape = tuple([templates[index] for index in members[1:] or members])
            occurrences[shape] += 1
            scores.update(dict.fromkeys(members, 1.0 / occurrences[shape]))
    return scores


def _find_bounds(text: str, trace: TraceLines) -> list[int]:
    """Return the first line of each block, and the number of lines."""
    starts = [
        index
        for index, ((_, end), (start, _)) in enumerate(pairwise(trace.spans), start=1)
        if start - end > 1 and text.count("\n", end, start) > 1
    ]
    separators = trace.separators
    return sorted({0, len(trace.spans), *starts, *separators, *(index + 1 for index in separators)})


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
