"""Compresses the output of search tools, linters and type checkers: lines that begin with a path, grouped by file.

The best lines of each file by the question; the first lines of many files come before the tenth line of one. All lines
of a file that the question names are kept. A line brings the heading with its file, and the lines that continue it.
Gaps count the lines, and the files without a kept line.
"""

import re
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import pairwise
from math import log

from ..compressor import CompressedPassage, Task
from .core import lines, severity, thinning
from .core.base_weights import ExtractWeights, weight
from .core.bm25 import Span
from .core.scoring import measure_frequencies, number_occurrences, score_question, smooth_scores
from .core.selection import Units, compress_units

MAX_LINE_CHARACTERS = 400  # matched against the patterns
MAX_RESULT_LINES = 12
MAX_CODE_CHARACTERS = 80  # at the end of a message
MAX_CONTEXT_NUMBERS = 8  # of a line, tried as the end of its path
MAX_QUESTION_CHARACTERS = 4_000
MAX_CLOSING_LINES = 5  # behind the last result and a blank line
MAX_CLOSING_CHARACTERS = 600


@dataclass(frozen=True, slots=True)
class SearchWeights(ExtractWeights):
    """Weights of search results."""

    neighbour_weight: float = weight(0.15, "part of its neighbour's score that a line gains", "factor")
    min_path_share: float = weight(0.6, "sampled lines that begin with a path", "share of lines")
    file_weight: float = weight(0.5, "part of its file's best score that a line gains", "factor")
    file_rank_bonus: float = weight(0.25, "best line of a file; divided by the rank of others")
    severity_scores: tuple[float, ...] = weight((0.0, 0.05, 0.3, 0.3), "no grade, warning, error, verdict")
    match_bonus: float = weight(0.4, "a match among lines of context")
    max_named_share: float = weight(0.5, "lines of named files that are all kept, at most", "share of text")
    max_named_files: int = weight(5, "named files that are all kept, at most", "files")
    min_flush_share: float = weight(0.9, "the same share of the lines that are not indented", "share of lines")
    min_located_share: float = weight(0.2, "lines with a line number among them", "share of lines")
    rare_rule_weight: float = weight(0.5, "a message of a rule, or of a wording; divided by 1 + log(count)")
    max_rule_share: float = weight(0.5, "different rules and wordings in a report of them", "share of messages")
    warning_comment_bonus: float = weight(0.8, "an author's warning (FIXME, ...); divided by 1 + log(count)")


DEFAULT_SEARCH_WEIGHTS = SearchWeights()

_PATH = r"(?:[A-Za-z]:)?[\w.@+~%$/\\-]*[/\\.][\w.@+~%$/\\-]*"
_SUMMARY_PATTERN = (
    r"(?:[✖×✗x] )?(?:Found )?\d+ (?:errors?|problems?|warnings?|issues?|matches)\b|Success: |All checks passed|total:\s"
)
_MATCH_LINE = re.compile(rf"({_PATH})(?:([:-])(?!:)(?:\d{{1,7}}[:-])?|(\()\d{{1,7}}(?:,\d{{1,5}})?\): )")
_LOCATED_LINE = re.compile(rf"{_PATH}(?:[:-]\d{{1,7}}[:-](?!in )|\(\d{{1,7}}(?:,\d{{1,5}})?\): )|{_SUMMARY_PATTERN}")
_CONTEXT_NUMBER = re.compile(r"-\d{1,7}-")
_HEADING = re.compile(rf"(?=.{{0,300}}\w)({_PATH}):?\s*$")
_HEADED_LINE = re.compile(r"\s*(?:Line |L)?\d{1,7}[:|-]")  # below a line with the path
_LISTED_PATH = re.compile(rf"(?:[-dlbcps][rwxsStT-]{{9}}[.+@]?\s.*\s)?({_PATH}|[\w.@+-]+)/?\s*$")
_ALIGNED_VALUE = re.compile(r"[^\s:]{1,80}:[ \t]{2,80}(?=\S)")
_DOTTED_KEY = re.compile(r"[\w.@%-]{1,80}: ")
_LONG_LISTING = re.compile(r"[-dlbcps][rwxsStT-]{9}[.+@]?\s|total \d+\s*$")
_BARE_PATH = re.compile(rf"(?=.{{0,300}}\w){_PATH}\s*$")
_SUMMARY = re.compile(_SUMMARY_PATTERN)
_QUESTION_PATH = re.compile(r"[\w./\\@+-]*\.\w{1,8}\b")
_WRAPPED_MESSAGE = re.compile(r"(?:^|\s)\[[\w-]{2,60}\]\s*$")  # ends with the code of a rule
# A rule of a linter: `E1101`, `TS2322`, `Lint/UselessAssignment`, or `no-undef` at the end of the line.
_RULE = re.compile(
    r"\b[A-Z]{1,5}\d{2,5}\b|\b[A-Z]\w{1,40}/[A-Z]\w{2,60}\b|\b[@a-z][\w/]{1,40}(?:-\w{1,40})+(?=[\])]?\s*$)"
)
_NOTE = re.compile(rf"{_PATH}:\d{{1,7}}:(?:\d{{1,5}}:)? note: ")  # explains the message above
_BANNERS = ("***", "===", "---")
_SEPARATOR = re.compile(r"[\W_]+$")
_RESULT_START = re.compile(rf"{_PATH}")

MIN_KEY_SHARE = 0.8  # of the lines of a list of settings


def _are_keys(sample: Sequence[str]) -> bool:
    """Return True if most lines are different keys without a folder, each with a value (`kern.hostname: web1`)."""
    keys = {match[0] for line in sample if (match := _DOTTED_KEY.match(line))}
    return len(keys) >= MIN_KEY_SHARE * len(sample)


def _are_values_aligned(sample: Sequence[str]) -> bool:
    """Return True if most lines are keys with values in one column (`IP4.GATEWAY:    192.0.2.1`)."""
    columns = Counter(match.end() for line in sample if (match := _ALIGNED_VALUE.match(line)))
    return any(2 * count >= len(sample) for count in columns.values())


@dataclass(frozen=True)
class SearchResultCompressor:
    """Compresses the output of grep, ripgrep, find, ls, linters and type checkers."""

    name = "search"
    weights: SearchWeights = DEFAULT_SEARCH_WEIGHTS

    def recognises(self, text: str) -> bool:
        """Return True if most lines are paths or begin with one, or are below one."""
        sample = lines.sample_lines(text, self.weights.sample_characters)
        if len(sample) < 5 or _are_values_aligned(sample) or _are_keys(sample):
            return False
        if sum(map(_is_result_line, sample)) >= self.weights.min_path_share * len(sample):
            return True
        return is_result_list(text, self.weights)

    def compress(self, task: Task) -> CompressedPassage | None:
        """Select lines by the question, spread over the files."""
        weights, task = self.weights, thinning.thin(task, partial(_find_result, task.text))
        text = task.text
        results = _read_results(text)
        spans, files = results.spans, results.files
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
        self._add_severity(text, results, scores)
        units = Units(
            text,
            spans,
            scores,
            "lines",
            weights,
            sizes=results.sizes,
            parents=results.parents,
            required=[*results.summaries, *self._find_named_lines(task, results)],
            groups=files,
            group_noun="files",
        )
        return compress_units(task, units)

    def _add_severity(self, text: str, results: "_Results", scores: list[float]) -> None:
        """Raise, in place, the scores of errors (the first of a wording most) and of matches among lines of context."""
        weights = self.weights
        grades = severity.grade_lines(text, results.spans)
        graded = [index for index, grade in enumerate(grades) if grade]
        templates = lines.extract_templates(text, [results.spans[index] for index in graded], with_places=False)
        for index, occurrence in zip(graded, number_occurrences(templates), strict=True):
            scores[index] += weights.severity_scores[grades[index]] / occurrence
        for index in results.context:
            scores[index] -= weights.match_bonus
        self._add_rarity(text, results, scores)

    def _add_rarity(self, text: str, results: "_Results", scores: list[float]) -> None:
        """Raise, in place, the scores of messages of rare rules, if the text is a report of few rules or wordings."""
        weights = self.weights
        indices = [index for index, file in enumerate(results.files) if file and index not in results.headings]
        templates = lines.extract_templates(text, [results.spans[index] for index in indices], with_places=False)
        rules = [
            match[0] if (match := _RULE.search(text, *results.find_message(text, index))) else template
            for index, template in zip(indices, templates, strict=True)
        ]
        if len(set(rules)) > weights.max_rule_share * len(rules):
            return
        for index, frequency in zip(indices, measure_frequencies(rules), strict=True):
            scores[index] += weights.rare_rule_weight / frequency

    def _find_named_lines(self, task: Task, results: "_Results") -> list[int]:
        """Return all lines of the files that the question names, unless they are most of the text."""
        named = _find_named_files(task.question, set(results.files))
        if not named or len(named) > self.weights.max_named_files:
            return []
        indices = [index for index, file in enumerate(results.files) if file in named]
        size = sum([results.spans[index][1] - results.spans[index][0] for index in indices])
        return indices if size <= self.weights.max_named_share * len(task.text) else []


@dataclass(slots=True)
class _Results:
    """Per result with the lines that continue it: its span, its number of lines, its file, its heading (or -1).

    `summaries`: the lines that count the results. `context`: lines around a match, in an output that has both.
    """

    spans: list[Span] = field(default_factory=list[Span])
    sizes: list[int] = field(default_factory=list[int])
    files: list[str] = field(default_factory=list[str])
    parents: list[int] = field(default_factory=list[int])
    summaries: list[int] = field(default_factory=list[int])
    context: list[int] = field(default_factory=list[int])
    headings: set[int] = field(default_factory=set[int])

    def find_message(self, text: str, index: int) -> Span:
        """Return the span of a result's message: behind its path, without the lines that continue it."""
        start, end = self.spans[index]
        line_end = text.find("\n", start, end)
        path = _MATCH_LINE.match(text, start, end)
        return start if path is None else path.end(), end if line_end < 0 else line_end

    def add(self, span: Span, file: str, parent: int) -> None:
        """Add a result."""
        self.spans.append(span)
        self.sizes.append(1)
        self.files.append(file)
        self.parents.append(parent)

    def extend(self, end: int) -> None:
        """Add a line to the last result."""
        self.spans[-1] = (self.spans[-1][0], end)
        self.sizes[-1] += 1


def _find_result(text: str, offset: int) -> int:
    """Return the offset of the first line, behind an offset, that is neither indented nor below a heading."""
    return thinning.find_line(
        text, offset, lambda text, start: _RESULT_START.match(text, start) and not _HEADED_LINE.match(text, start)
    )


def _read_results(text: str) -> _Results:
    """Group the lines of a text by result."""
    results = _Results()
    spans = lines.find_line_spans(text)
    starts = [text[start : min(end, start + MAX_LINE_CHARACTERS)] for start, end in spans]
    paths = [_extract_result_path(line) for line in starts]
    matched = {path for path, separator in paths if separator == ":"}
    headings = {
        index
        for index, (line, below) in enumerate(pairwise(starts))
        if _HEADED_LINE.match(below) and _HEADING.match(line)
    }
    closing = _find_closing_lines(text, spans, paths)
    heading = -1
    has_matches = False
    for index, (span, line, (path, separator)) in enumerate(zip(spans, starts, paths, strict=True)):
        is_headed = heading >= 0 and _HEADED_LINE.match(line) is not None
        if index >= closing or _SUMMARY.match(line):
            results.summaries.append(len(results.spans))
            results.add(span, "", -1)
        elif is_headed:
            results.add(span, results.files[heading], heading)
        elif _SEPARATOR.match(line) and not line[0].isspace():
            results.add(span, results.files[-1] if results.files else "", -1)
        elif separator == "-":
            results.context.append(len(results.spans))
            results.add(span, _resolve_context_path(line, path, matched), -1)
        elif index in headings:
            heading = len(results.spans)
            results.headings.add(heading)
            results.add(span, line.strip().rstrip(":"), -1)
        elif has_matches and results.sizes[-1] < MAX_RESULT_LINES and _continues(line, separator):
            results.extend(span[1])
        elif separator:
            has_matches = True
            results.add(span, path, -1)
        else:
            results.add(span, _extract_folder(line), -1)
    if not has_matches:
        results.context.clear()
    return results


def _continues(line: str, separator: str) -> bool:
    """Return True for a note on the result above, and for a line that is neither a path nor a banner."""
    if separator:
        return _NOTE.match(line) is not None
    return _BARE_PATH.match(line) is None and not line.startswith(_BANNERS)


def _find_closing_lines(text: str, spans: Sequence[Span], paths: Sequence[tuple[str, str]]) -> int:
    """Return the index of the first line of a report's summary, behind its last result and a blank line."""
    last = next((index for index in range(len(paths) - 1, -1, -1) if paths[index][1]), len(paths))
    index = next((index for index in lines.find_block_starts(text, spans) if index > last), len(spans))
    is_short = index < len(spans) and spans[-1][1] - spans[index][0] <= MAX_CLOSING_CHARACTERS
    return index if is_short and len(spans) - index <= MAX_CLOSING_LINES else len(spans)


def is_result_list(text: str, weights: SearchWeights = DEFAULT_SEARCH_WEIGHTS) -> bool:
    """Return True if nearly all lines that are not indented are paths or begin with one, and some name a line."""
    sample = lines.sample_lines(text, weights.sample_characters)
    flush = [line for line in sample if not line[0].isspace()]
    flush = [
        line for line in flush if _is_result_line(line) or not _WRAPPED_MESSAGE.search(line[-MAX_CODE_CHARACTERS:])
    ]
    headed = sum(_HEADED_LINE.match(line) is not None for line in sample)
    located = sum(_LOCATED_LINE.match(line[:MAX_LINE_CHARACTERS]) is not None for line in flush)
    paths = sum(_HEADING.match(line[:MAX_LINE_CHARACTERS]) is not None for line in flush)
    is_listed = bool(flush) and located + paths >= weights.min_flush_share * len(flush)
    return len(sample) >= 5 and headed + located >= weights.min_located_share * len(sample) and is_listed


def _is_result_line(line: str) -> bool:
    line = line[:MAX_LINE_CHARACTERS]
    match = _MATCH_LINE.match(line)
    if match is not None and (match[2] != "-" or "/" in match[1]) and not line.startswith(("http:", "https:")):
        return True
    return _BARE_PATH.match(line) is not None or _LONG_LISTING.match(line) is not None


def _extract_result_path(line: str) -> tuple[str, str]:
    """Return the path at the start of a result and the character behind it; empty strings for other lines."""
    match = _MATCH_LINE.match(line)
    return (match[1], match[2] or match[3]) if match is not None else ("", "")


def _resolve_context_path(line: str, path: str, matched: Collection[str]) -> str:
    """Return the path of a line such as `src/a-b.py-17-code`; prefer one that other lines have before a colon."""
    candidates = [line[: number.start()] for number in _CONTEXT_NUMBER.finditer(line)][:MAX_CONTEXT_NUMBERS]
    return next((candidate for candidate in candidates if candidate in matched), candidates[0] if candidates else path)


def _extract_folder(line: str) -> str:
    """Return the folder of a line of a listing."""
    entry = _LISTED_PATH.match(line)
    return entry[1].rpartition("/")[0] if entry is not None else ""


def _find_named_files(question: str, files: Collection[str]) -> set[str]:
    """Return the files that the question names by their path, the end of their path, or their name."""
    names = {name.strip("./\\") for name in _QUESTION_PATH.findall(question[-MAX_QUESTION_CHARACTERS:])} - {""}
    return {
        file for file in files if file and any(f"/{file}".replace("\\", "/").endswith(f"/{name}") for name in names)
    }


def _rank_within_files(scores: Sequence[float], files: Sequence[str]) -> list[int]:
    """Return the rank of each line among the lines of its file, from 1."""
    order = sorted(range(len(scores)), key=lambda index: -scores[index])
    ranks = dict(zip(order, number_occurrences(files[index] for index in order), strict=True))
    return [ranks[index] for index in range(len(scores))]
