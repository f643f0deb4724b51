"""Assigns text to the headings above it."""

from collections.abc import Iterable


def find_parent_headings(levels: Iterable[int]) -> list[int]:
    """Return the index of each unit's heading, or -1; a level is 1, 2, ... for a heading and 0 for other text.

    A heading belongs to the nearest heading of a higher rank, that is, of a smaller level.
    """
    open_headings: list[tuple[int, int]] = []  # (level, index), levels ascending
    parents: list[int] = []
    for index, level in enumerate(levels):
        if level:
            while open_headings and open_headings[-1][0] >= level:
                open_headings.pop()
        parents.append(open_headings[-1][1] if open_headings else -1)
        if level:
            open_headings.append((level, index))
    return parents
