"""What `ls -l` prints: every name, without the mode, owner, size and time in front of it; folders keep their line.

Of a long listing the names nearest the question stay; the rest is counted.
"""

import re
from collections.abc import Sequence

from ..compressor import CompressedPassage, Gap, Task
from ..markers import render
from . import lines
from .core import bm25
from .core.bm25 import Span
from .core.selection import Units, compress_units, estimate_token_count

SAMPLE_CHARACTERS = 20_000  # characters looked at to recognise a listing
MIN_ENTRY_SHARE = 0.6  # of these lines must be entries
NEIGHBOUR_WEIGHT = 0.1
COLUMNS_UNIT = "files' modes, owners, sizes and times"

_SUMMARY_LINE = re.compile(r"total \d|.{20,120}\s\.{1,2}$")  # how much there is, this folder, and the one above it
_DAY = r"(?:[^\W\d]{3,5}\.?\s+\d{1,2}\.?|\d{1,2}\.?\s+[^\W\d]{3,5}\.?|(?:\d{4}-)?\d\d-\d\d)"
_TIME = r"(?:\d{1,2}:\d\d(?::\d\d\S{0,12}(?: [+-]\d{4})?)?|\d{4})"
_LISTING_ENTRY = re.compile(rf"[-dlbcpsD][-rwxsStTl]{{9}}[.+@]?\s+\d+\s.{{4,80}}?\s{_DAY}\s+{_TIME}\s+(?=\S)")


class ListingCompressor:
    """Compresses long listings of folders."""

    name = "listing"

    def recognises(self, text: str) -> bool:
        """Recognise text in which most lines are entries of `ls -l`."""
        sample = [line for line in text[:SAMPLE_CHARACTERS].split("\n") if line and not line.isspace()][:300]
        return sum(_LISTING_ENTRY.match(line[:400]) is not None for line in sample) >= max(
            4, MIN_ENTRY_SHARE * len(sample)
        )

    def compress(self, task: Task) -> CompressedPassage | None:
        """Keep the names, and when those are too many the best of them."""
        text = task.text
        found, bare = _cut_to_names(text, lines.find_line_spans(text))
        own = lines.normalize_scores(bm25.score_spans(text, found, bm25.parse_query(task.question)))
        near = lines.smooth_scores(own, NEIGHBOUR_WEIGHT)
        scores = [score - bool(_SUMMARY_LINE.match(text, *span)) for score, span in zip(near, found, strict=True)]
        made = compress_units(task, Units(text, found, scores, "lines", marker_cost=20))
        if made is None or not bare:
            return made
        said = CompressedPassage((Gap(bare, COLUMNS_UNIT), *made.parts), made.total + bare, made.unit)
        return (
            said
            if estimate_token_count(render(said, None), task.count) < estimate_token_count(text, task.count)
            else None
        )


def _cut_to_names(text: str, found: Sequence[Span]) -> tuple[list[Span], int]:
    """Cut the entries of files down to their names; returns the spans, and how many were cut."""
    spans: list[Span] = []
    bare = 0
    for start, end in found:
        entry = _LISTING_ENTRY.match(text, start, end)
        cut = entry is not None and text[start] != "d"
        spans.append((entry.end() if entry and cut else start, end))
        bare += cut
    return spans, bare
