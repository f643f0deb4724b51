"""Compresses the output of `ls -l`: every name, without mode, owner, size and time; folders keep their whole line.

If the question asks for one of these, all lines stay whole. Of a long listing, only the names nearest the question are
kept, each below the path of its folder; gaps count the others.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from ..compressor import CompressedPassage, Gap, Task
from ..markers import render
from .core import line_values, lines
from .core.base_weights import ExtractWeights, weight
from .core.bm25 import Span
from .core.outliers import rank_numbers
from .core.scoring import score_question, smooth_scores
from .core.selection import Units, compress_units, estimate_token_count

COLUMNS_UNIT = "files' modes, owners, sizes and times"
MAX_LINE_CHARACTERS = 400  # matched against the pattern of an entry


@dataclass(frozen=True, slots=True)
class ListingWeights(ExtractWeights):
    """Weights of long listings of folders."""

    neighbour_weight: float = weight(0.1, "part of its neighbour's score that a line gains", "factor")
    marker_cost: int = weight(20, "budget that the marker of a gap uses", "characters")
    folder_weight: float = weight(0.6, "part of its folder's score that a line gains", "factor")
    asked_bonus: float = weight(1.0, "one of the largest, smallest, newest or oldest files, if asked for")
    asked_entries: int = weight(5, "files with this bonus", "lines")
    min_names_share: float = weight(0.95, "lines without a blank in a listing of names in folders", "share of lines")
    min_entry_share: float = weight(0.6, "sampled lines that are entries", "share of lines")


_ATTRIBUTES = re.compile(
    r"\b(?:how (?:large|big|old|long|much)|sizes?|large(?:r|st)?|bigg(?:er|est)|small(?:er|est)?|bytes|when|dates?|"
    r"time|modified|changed|new(?:er|est)|old(?:er|est)|latest|earliest|last|recent(?:ly)?|own(?:s|ers?|ed)|groups?|permissions?|mode|rights|"
    r"writ(?:e|able)|readable|executable|links?|symlinks?|who|how many)\b|-writable",
    re.IGNORECASE,
)
_SUPERLATIVE = re.compile(r"\b(?:largest|biggest|smallest)\b", re.IGNORECASE)
_AGE = re.compile(r"\b(?:newest|latest|most recent(?:ly)?|last|oldest|earliest)\b", re.IGNORECASE)
_DATE = re.compile(
    r"\s(?:(?P<iso>\d{4}-\d\d-\d\d(?: \d\d:\d\d)?)|(?P<name>[A-Z][a-z]{2}) {1,2}(?P<day>\d{1,2}) "
    r"{1,2}(?:(?P<time>\d\d:\d\d)|(?P<year>\d{4})))\s"
)
_SIZE = re.compile(r"\S+\s+(?:[\d.]+\s+\S+\s+(?:\S+\s+)?|\S+/\S+\s+)(\d[\d.,]*[kKMGTP]?)\s")
_FOLDER_PATH = re.compile(r"(?<=\n)\n(?=[^\s:]{1,300}:\n\S)")
_FOLDER = re.compile(r"\S.{0,300}:\s*$")

_SUMMARY_LINE = re.compile(r"total \d|.{20,120}\s\.{1,2}$")  # the total, `.` and `..`
_DAY = r"(?:[^\W\d]{3,5}\.?\s+\d{1,2}\.?|\d{1,2}\.?\s+[^\W\d]{3,5}\.?|(?:\d{4}-)?\d\d-\d\d|\d\d-[A-Z][a-z]{2}-\d\d)"
_TIME = r"(?:\d{1,2}:\d\d(?::\d\d\S{0,12}(?: [+-]\d{4})?)?|\d{4})"
_LISTING_ENTRY = re.compile(
    rf"[-dlbcpsD][-rwxsStTl]{{9}}[.+@]?\s+(?:[\d.]+\s.{{4,80}}?|\S+/\S+\s+\d+)\s{_DAY}\s+{_TIME}\s+(?=\S)"
)


@dataclass(frozen=True)
class ListingCompressor:
    """Compresses long listings of folders."""

    name = "listing"
    weights: ListingWeights = ListingWeights()

    def recognises(self, text: str) -> bool:
        """Return True if most lines are entries of `ls -l`, or names below the paths of folders (`ls -R`)."""
        if _are_names_in_folders(text[: self.weights.sample_characters], self.weights.min_names_share):
            return True
        sample = lines.sample_lines(text, self.weights.sample_characters)
        entries = sum(_LISTING_ENTRY.match(line[:MAX_LINE_CHARACTERS]) is not None for line in sample)
        return entries >= max(4, self.weights.min_entry_share * len(sample))

    def compress(self, task: Task) -> CompressedPassage | None:
        """Keep the names, or the best of them if they are too many."""
        text, weights = task.text, self.weights
        spans, cut_count = lines.find_line_spans(text), 0
        matches = score_question(text, spans, task.question, weights)
        scores = [
            score - bool(_SUMMARY_LINE.match(text, *span))
            for score, span in zip(smooth_scores(matches, weights.neighbour_weight), spans, strict=True)
        ]
        parents = _find_folders(text, spans)
        for index, parent in enumerate(parents):
            scores[index] += weights.folder_weight * matches[parent] if parent >= 0 else 0.0
        if _ATTRIBUTES.search(task.question):
            for rank, index in enumerate(_rank_entries(text, spans, task.question, weights.asked_entries)):
                scores[index] += weights.asked_bonus * (1 + 1 / (1 + rank))
        else:
            spans, cut_count = _cut_to_names(text, spans)
        names = compress_units(task, Units(text, spans, scores, "lines", weights, parents=parents))
        if names is None or not cut_count:
            return names
        parts = (Gap(cut_count, COLUMNS_UNIT), *names.parts)
        passage = CompressedPassage(parts, names.total + cut_count, names.unit)
        size = estimate_token_count(render(passage, None), task.count)
        return passage if size < estimate_token_count(text, task.count) else None


def _are_names_in_folders(sample: str, min_share: float) -> bool:
    """Return True if the text begins with the path of a folder, has others behind blank lines, and few other words."""
    if not _FOLDER_PATH.match("\n\n" + sample[:400], 1):
        return False
    entries = [line for line in sample.split("\n")[:-1] if line and line[-1] != ":"]
    return len(_FOLDER_PATH.findall(sample)) > 0 and sum(" " not in line for line in entries) >= min_share * len(
        entries
    )


def _find_folders(text: str, spans: Sequence[Span]) -> list[int]:
    """Return for each line the index of the line with the path of its folder, or -1."""
    parents: list[int] = []
    folder = -1
    for index, (start, end) in enumerate(spans):
        is_folder = (
            text[end - 1] == ":" and _FOLDER.match(text, start, end) and not _LISTING_ENTRY.match(text, start, end)
        )
        folder = index if is_folder else folder
        parents.append(-1 if is_folder else folder)
    return parents


def _rank_entries(text: str, spans: Sequence[Span], question: str, count: int) -> list[int]:
    """Return the largest, smallest, newest or oldest entries, if the question asks for them."""
    files = [index for index, (start, _) in enumerate(spans) if text[start] == "-"]
    if _SUPERLATIVE.search(question):
        sizes = [match[1] if (match := _SIZE.match(text, *spans[index])) else "" for index in files]
        return [files[position] for position in rank_numbers(sizes, count, least="small" in question.lower())]
    age = _AGE.search(question)
    if age is None:
        return []
    entries = [index for index, (start, _) in enumerate(spans) if text[start] in "-l"]
    matches = {index: match for index in entries if (match := _DATE.search(text, *spans[index])) is not None}
    months = {line_values.find_month(match["name"]) for match in matches.values() if match["time"] and match["name"]}
    spans_new_year = bool(months & {0, 1, 2}) and bool(months & {9, 10, 11})
    dates = {index: _order_date(match, spans_new_year=spans_new_year) for index, match in matches.items()}
    return sorted(dates, key=dates.__getitem__, reverse=not age[0].lower().startswith(("old", "earl")))[:count]


def _order_date(match: re.Match[str], *, spans_new_year: bool) -> tuple[str, int, str, str]:
    """Return a key that sorts dates of `ls -l`; a date of the last six months has a time instead of its year."""
    if match["iso"]:
        return match["iso"], 0, "", ""
    month = line_values.find_month(match["name"])
    year = match["year"] or ("9998" if spans_new_year and month > 5 else "9999")
    return year, month, match["day"].rjust(2), match["time"] or ""


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
