"""Compresses the output of search and listing tools: lines that begin with a path, grouped by file.

The best lines of each file by the question; the first lines of many files come before the tenth line of one. Gaps count
the lines, and the files without a kept line.
"""

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from math import log

from ..compressor import CompressedPassage, Task
from .core import lines, severity
from .core.base_weights import ExtractWeights, weight
from .core.scoring import score_question, smooth_scores
from .core.selection import Units, compress_units

MAX_LINE_CHARACTERS = 400  # matched against the patterns


@dataclass(frozen=True, slots=True)
class SearchWeights(ExtractWeights):
    """Weights of search results."""

    neighbour_weight: float = weight(0.15, "part of its neighbour's score that a line gains", "factor")
    min_path_share: float = weight(0.6, "sampled lines that begin with a path", "share of lines")
    file_weight: float = weight(0.5, "part of its file's best score that a line gains", "factor")
    file_rank_bonus: float = weight(0.25, "best line of a file; divided by the rank of others")
    warning_comment_bonus: float = weight(0.8, "an author's warning (FIXME, ...); divided by 1 + log(count)")


DEFAULT_SEARCH_WEIGHTS = SearchWeights()

_PATH = r"(?:[A-Za-z]:)?[\w.@+~%$/\\-]*[/\\.][\w.@+~%$/\\-]*"
_MATCH_LINE = re.compile(rf"({_PATH})([:-])(?!:)(?:\d{{1,7}}[:-])?")
_LISTED_PATH = re.compile(rf"(?:[-dlbcps][rwxsStT-]{{9}}[.+@]?\s.*\s)?({_PATH}|[\w.@+-]+)/?\s*$")
_ALIGNED_VALUE = re.compile(r"[^\s:]{1,80}:[ \t]{2,80}(?=\S)")
_LONG_LISTING = re.compile(r"[-dlbcps][rwxsStT-]{9}[.+@]?\s|total \d+\s*$")
_BARE_PATH = re.compile(rf"(?=.{{0,300}}\w){_PATH}\s*$")


def _are_values_aligned(sample: Sequence[str]) -> bool:
    """Return True if most lines are keys with values in one column (`IP4.GATEWAY:    192.0.2.1`)."""
    columns = Counter(match.end() for line in sample if (match := _ALIGNED_VALUE.match(line)))
    return any(2 * count >= len(sample) for count in columns.values())


class SearchResultCompressor:
    """Compresses the output of grep, ripgrep, find and ls."""

    name = "search"

    def __init__(self, weights: SearchWeights = DEFAULT_SEARCH_WEIGHTS) -> None:
        self.weights = weights

    def recognises(self, text: str) -> bool:
        """Return True if most lines are paths or begin with one."""
        sample = lines.sample_lines(text, self.weights.sample_characters)
        if _are_values_aligned(sample):
            return False
        return len(sample) >= 5 and sum(map(_is_result_line, sample)) >= self.weights.min_path_share * len(sample)

    def compress(self, task: Task) -> CompressedPassage | None:
        """Select lines by the question, spread over the files."""
        text, weights = task.text, self.weights
        spans = lines.find_line_spans(text)
        files = [_extract_path(text[start : min(end, start + MAX_LINE_CHARACTERS)]) for start, end in spans]
        matches = score_question(text, spans, task.question, weights)
        best: dict[str, float] = {}
        for file, match in zip(files, matches, strict=True):
            best[file] = max(best.get(file, 0.0), match)
        ranks = _rank_within_files(matches, files)
        scores = [
            score + weights.file_weight * best[file] + weights.file_rank_bonus / rank
            for score, file, rank in zip(smooth_scores(matches, weights.neighbour_weight), files, ranks, strict=True)
        ]
        warnings = severity.find_warning_comments(text, spans)
        for index in warnings:
            scores[index] += weights.warning_comment_bonus / (1.0 + log(len(warnings)))
        return compress_units(task, Units(text, spans, scores, "lines", weights, groups=files, group_noun="files"))


def _is_result_line(line: str) -> bool:
    line = line[:MAX_LINE_CHARACTERS]
    match = _MATCH_LINE.match(line)
    if match is not None and (match[2] == ":" or "/" in match[1]) and not line.startswith(("http:", "https:")):
        return True
    return _BARE_PATH.match(line) is not None or _LONG_LISTING.match(line) is not None


def _extract_path(line: str) -> str:
    """Return the path at the start of a search result; for a line of a listing, its folder."""
    match = _MATCH_LINE.match(line)
    if match is not None:
        return match[1]
    entry = _LISTED_PATH.match(line)
    return entry[1].rpartition("/")[0] if entry is not None else ""


def _rank_within_files(scores: Sequence[float], files: Sequence[str]) -> list[int]:
    """Return the rank of each line among the lines of its file, from 1."""
    lines_ranked: Counter[str] = Counter()
    ranks = [0] * len(scores)
    for index in sorted(range(len(scores)), key=lambda index: -scores[index]):
        lines_ranked[files[index]] += 1
        ranks[index] = lines_ranked[files[index]]
    return ranks
