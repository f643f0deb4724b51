"""What search and listing tools print: lines that begin with a path, grouped by it.

The best lines of each file by the question, with the first lines of many files before the tenth line of one; what was
left out is counted, and so are the files of which nothing was kept.
"""

import re
from collections import Counter
from collections.abc import Sequence
from math import log

from ..compressor import CompressedPassage, Task
from . import lines
from .core import bm25, severity
from .core.selection import Units, compress_units

SAMPLE_CHARACTERS = 20_000
MIN_PATH_SHARE = 0.6
NEIGHBOUR_WEIGHT = 0.15
FILE_WEIGHT = 0.5  # what a line takes over from the best line of its file
FILE_RANK_BONUS = 0.25  # what the best line of a file is worth for being that; the second half of it, the third a third
WARNING_COMMENT_BONUS = 0.8  # an author's warning, where it is the only one

_PATH = r"(?:[A-Za-z]:)?[\w.@+~%$/\\-]*[/\\.][\w.@+~%$/\\-]*"
_MATCH_LINE = re.compile(rf"({_PATH})([:-])(?!:)(?:\d{{1,7}}[:-])?")
_LISTED_PATH = re.compile(rf"(?:[-dlbcps][rwxsStT-]{{9}}[.+@]?\s.*\s)?({_PATH}|[\w.@+-]+)/?\s*$")
_LONG_LISTING = re.compile(r"[-dlbcps][rwxsStT-]{9}[.+@]?\s|total \d+\s*$")
_BARE_PATH = re.compile(rf"(?=.{{0,300}}\w){_PATH}\s*$")


class SearchResultCompressor:
    """Compresses the output of grep, ripgrep, find and ls."""

    name = "search"

    def recognises(self, text: str) -> bool:
        """Recognise text in which most lines are or begin with a path."""
        sample = [line for line in text[:SAMPLE_CHARACTERS].split("\n") if line and not line.isspace()][:300]
        return len(sample) >= 5 and sum(map(_is_result_line, sample)) >= MIN_PATH_SHARE * len(sample)

    def compress(self, task: Task) -> CompressedPassage | None:
        """Choose lines by the question, spread over the files."""
        text = task.text
        found = lines.find_line_spans(text)
        files = [_extract_path(text[start : min(end, start + 400)]) for start, end in found]
        own = lines.normalize_scores(bm25.score_spans(text, found, bm25.parse_query(task.question)))
        best: dict[str, float] = {}
        for file, score in zip(files, own, strict=True):
            best[file] = max(best.get(file, 0.0), score)
        ranks = _rank_within_files(own, files)
        near = lines.smooth_scores(own, NEIGHBOUR_WEIGHT)
        scores = [near[at] + FILE_WEIGHT * best[file] + FILE_RANK_BONUS / ranks[at] for at, file in enumerate(files)]
        noted = severity.find_warning_comments(text, found)
        for at in noted:
            scores[at] += WARNING_COMMENT_BONUS / (1.0 + log(len(noted)))
        return compress_units(task, Units(text, found, scores, "lines", groups=files, group_noun="files"))


def _is_result_line(line: str) -> bool:
    line = line[:400]
    match = _MATCH_LINE.match(line)
    if match is not None and (match[2] == ":" or "/" in match[1]) and not line.startswith(("http:", "https:")):
        return True
    return _BARE_PATH.match(line) is not None or _LONG_LISTING.match(line) is not None


def _extract_path(line: str) -> str:
    """Return the path that a line of a search begins with; for a line of a listing, the folder it lies in."""
    match = _MATCH_LINE.match(line)
    if match is not None:
        return match[1]
    listed = _LISTED_PATH.match(line)
    return listed[1].rpartition("/")[0] if listed is not None else ""


def _rank_within_files(scores: Sequence[float], files: Sequence[str]) -> list[int]:
    """Say which place each line takes among those of its file, from 1."""
    place: Counter[str] = Counter()
    ranks = [0] * len(scores)
    for at in sorted(range(len(scores)), key=lambda one: -scores[one]):
        place[files[at]] += 1
        ranks[at] = place[files[at]]
    return ranks
