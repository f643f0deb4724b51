"""Compresses the output of `ls -l`: every name, without mode, owner, size and time; folders keep their whole line.

Of a long listing, only the names nearest the question are kept; gaps count the others.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from ..compressor import CompressedPassage, Gap, Task
from ..markers import render
from .core import lines
from .core.base_weights import ExtractWeights, weight
from .core.bm25 import Span
from .core.scoring import score_question, smooth_scores
from .core.selection import Units, compress_units, estimate_token_count

COLUMNS_UNIT = "files' modes, owners, sizes and times"
MAX_LINE_CHARACTERS = 400  # matched against the pattern of an entry


@dataclass(frozen=True, slots=True)
class ListingWeights(ExtractWeights):
    """Weights of long listings of folders."""

    neighbour_weight: float = weight(0.1, "part of its neighbour's score that a line gains", "factor")
    marker_cost: int = weight(20, "budget that the marker of a gap uses", "characters")
    min_entry_share: float = weight(0.6, "sampled lines that are entries", "share of lines")


DEFAULT_LISTING_WEIGHTS = ListingWeights()

_SUMMARY_LINE = re.compile(r"total \d|.{20,120}\s\.{1,2}$")  # the total, `.` and `..`
_DAY = r"(?:[^\W\d]{3,5}\.?\s+\d{1,2}\.?|\d{1,2}\.?\s+[^\W\d]{3,5}\.?|(?:\d{4}-)?\d\d-\d\d)"
_TIME = r"(?:\d{1,2}:\d\d(?::\d\d\S{0,12}(?: [+-]\d{4})?)?|\d{4})"
_LISTING_ENTRY = re.compile(rf"[-dlbcpsD][-rwxsStTl]{{9}}[.+@]?\s+\d+\s.{{4,80}}?\s{_DAY}\s+{_TIME}\s+(?=\S)")


class ListingCompressor:
    """Compresses long listings of folders."""

    name = "listing"

    def __init__(self, weights: ListingWeights = DEFAULT_LISTING_WEIGHTS) -> None:
        self.weights = weights

    def recognises(self, text: str) -> bool:
        """Return True if most lines are entries of `ls -l`."""
        sample = lines.sample_lines(text, self.weights.sample_characters)
        entries = sum(_LISTING_ENTRY.match(line[:MAX_LINE_CHARACTERS]) is not None for line in sample)
        return entries >= max(4, self.weights.min_entry_share * len(sample))

    def compress(self, task: Task) -> CompressedPassage | None:
        """Keep the names, or the best of them if they are too many."""
        text, weights = task.text, self.weights
        spans, cut_count = _cut_to_names(text, lines.find_line_spans(text))
        matches = score_question(text, spans, task.question, weights)
        scores = [
            score - bool(_SUMMARY_LINE.match(text, *span))
            for score, span in zip(smooth_scores(matches, weights.neighbour_weight), spans, strict=True)
        ]
        names = compress_units(task, Units(text, spans, scores, "lines", weights))
        if names is None or not cut_count:
            return names
        parts = (Gap(cut_count, COLUMNS_UNIT), *names.parts)
        passage = CompressedPassage(parts, names.total + cut_count, names.unit)
        size = estimate_token_count(render(passage, None), task.count)
        return passage if size < estimate_token_count(text, task.count) else None


def _cut_to_names(text: str, spans: Sequence[Span]) -> tuple[list[Span], int]:
    """Cut the entries of files down to their names; return the spans, and the number of entries cut."""
    cut_spans: list[Span] = []
    cut_count = 0
    for start, end in spans:
        entry = _LISTING_ENTRY.match(text, start, end)
        is_file = entry is not None and text[start] != "d"
        cut_spans.append((entry.end() if entry and is_file else start, end))
        cut_count += is_file
    return cut_spans, cut_count
