"""Finds the slow steps of a query plan, as PostgreSQL and MySQL print it for EXPLAIN ANALYZE."""

import re
from collections.abc import Iterator, Mapping, Sequence

from .bm25 import Span

MAX_STEPS = 4  # that are reported
MIN_TIME_SHARE = 0.05  # of a step's own time in that of the plan

_TOTAL = re.compile(r"[ \t]*(?:Execution|Total)(?: [Rr]un)?(?: ?[Tt]ime): ")
_STEP = re.compile(r"\(actual time=[\d.]+\.\.([\d.]+) rows=[\d.]+ loops=(\d+)\)")


def find_steps(text: str, spans: Sequence[Span]) -> dict[int, float]:
    """Return the lines of the steps of a query plan with the time of all their loops, in milliseconds."""
    steps: dict[int, float] = {}
    for index, (start, end) in enumerate(spans) if "(actual time=" in text else ():
        match = _STEP.search(text, start, end)
        if match is not None:
            steps[index] = float(match[1]) * int(match[2])
    return steps


def score_steps(
    text: str, spans: Sequence[Span], parents: Sequence[int], steps: Mapping[int, float]
) -> Iterator[tuple[int, float]]:
    """Yield the slowest steps with their share of the time, half of it for the lines below them, and 1.0 for the total.

    A step's own time is without the steps below it. `parents` is the line that each line belongs to, or -1.
    """
    if not steps:
        return
    own = dict(steps)
    above: list[int] = []  # the step that each line belongs to, directly or not
    for index, parent in enumerate(parents):
        above.append(parent if parent in steps or parent < 0 else above[parent])
        if index in steps and above[index] >= 0:
            own[above[index]] -= steps[index]
    longest = max(steps.values())
    slow = sorted(own, key=lambda index: -own[index])[:MAX_STEPS]
    shares = {index: own[index] / longest for index in slow if own[index] > MIN_TIME_SHARE * longest}
    yield from shares.items()
    yield from (
        (index, shares[parent] / 2) for index, parent in enumerate(parents) if parent in shares and index not in own
    )
    yield from ((index, 1.0) for index, span in enumerate(spans) if _TOTAL.match(text, *span))
