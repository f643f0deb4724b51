"""Compresses the output of test runs, builds and crashes: verdicts, reasons, summaries, and the ends of stack traces.

A frame is one unit. Of each trace the innermost frames come first, then the outermost one; frames of the project come
before frames of a library. Failures with the same wording are shown once, and passed tests are counted.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import sqrt

from ..compressor import CompressedPassage, Task
from . import search
from .core import lines, severity, stack_traces, thinning
from .core.base_weights import weight
from .core.bm25 import Span
from .core.scoring import boost_ends, measure_frequencies, number_occurrences, score_question, smooth_scores
from .core.selection import Units, compress_units
from .core.stack_traces import TraceLines, TraceWeights

MAX_LINE_CHARACTERS = 400  # matched against the patterns
MAX_REASONS = 8  # that share a place

_SEPARATOR_LINE = re.compile(r"[\W_]+$")
_TITLE_ROLE, _DIFF_HEADER, _REASON, _PLACE, _POINTER = "title", "diff", "reason", "place", "pointer"
_ROLE = re.compile(  # the part of a line in a failure
    r"(?P<title>\s{0,8}● \S|_{2,} \S.{0,200} _{2,}\s*$|\s{0,6}\d{1,4}\) \S|---- \S.{0,200} ----\s*$"
    r"|={2,} (?:FAIL|ERROR): )"
    r"|(?P<diff>\s*(?:-{1,3} (?:Expected|Snapshot)|\+{1,3} (?:Received|Actual))\b)"
    r"|(?P<reason>\s*(?:"  # the pair of values that differ, or the data of an error
    r"(?:[Ee]xpected|[Rr]eceived|[Aa]ctual|[Gg]ot|[Ww]ant(?:ed)?|left|right|Error (?:name|message)|Caused by"
    r"|Cause|ORA-\d+|DETAIL|HINT|[Ee]xit code|[Rr]eason)\b[^\n:=]{0,30}[:=]"
    r"|(?:code|errno|syscall|detail|constraint)\s?: ?['\"\w]"
    r"|-+> (?!\S{1,300}:\d+)\S|\S{1,40}(?:Error|Exception)\b))"
    r"|(?P<place>\s*(?:-->|:::|╭─\[|┌─|at) \S{1,300}:\d+|\S{1,300}:\d+: [\w.]{1,100}\s*$"
    r"|\s{1,12}[\w./-]{1,200}\.\w{1,5}:\d+: \S)"
    r"|(?P<pointer>\s*>\s{1,4}(?:\d+ \||\S))"
)
_TITLE = r"_{2,} \S[^\n]{0,200} _{2,}|\s{0,8}● \S|\s{0,6}\d{1,4}\) \S|-{4} \S|={2,} (?:FAIL|ERROR): "
_RESULT = (  # of one test
    r"[^\s:]{1,300}+::\S{1,300}+ (?:PASSED|FAILED|SKIPPED|ERROR|XFAIL)\b|(?:PASSED|FAILED|ERROR) \S|(?:not )?ok \d"
    r"|test \S{1,300}+ \.\.\. |(?:PASS|FAIL)  ?\S|--- (?:PASS|FAIL|SKIP): |\[(?:INFO|ERROR|WARNING)\] "
)
_TITLE_LINE = re.compile(rf"\n(?:{_TITLE})")
_SECTION_START = re.compile(rf"\n(?={_TITLE}|==+ |{_RESULT})")  # in a report with titles
_FAILURE_START = re.compile(  # in other reports
    rf"\n[ \t\r]{{0,8}}\n(?=[^\s)}}\]])(?!Caused by|Suppressed|During handling|The above)|\n(?={_RESULT})"
    r"|(?<=\d\))\n(?=[\w.$]{0,200}(?:Exception|Error)\b)"  # below the last frame of a trace
)
_DIFF_LINE = re.compile(r"\s*[-+](?!\s*$)")
_EXPLANATION = re.compile(r"E\s{2,}")  # of pytest
_CHAINED_EXCEPTION = re.compile(r"(?:During handling of|The above exception was)\b")


@dataclass(frozen=True, slots=True)
class ReportWeights(TraceWeights):
    """Weights of the output of test runs, builds and crashes."""

    rarity_weight: float = weight(0.15, "a unique template; divided by 1 + log(frequency)")
    severity_scores: tuple[float, ...] = weight((0.0, 0.15, 0.5, 1.0), "no grade, warning, error, verdict")
    max_alike_verdicts: int = weight(10, "verdicts that differ only in numbers and locations", "lines")
    reason_bonus: float = weight(0.6, "first line indented below a verdict, or message above a trace")
    hint_factor: float = weight(0.3, "a line in brackets, or a hint", "factor")
    essential_bonus: float = weight(1.5, "title, reason and place of a failure")
    pointer_bonus: float = weight(0.6, "the line of code that failed")
    max_explanation_lines: int = weight(2, "explaining lines of a failure kept at any target", "lines")
    failure_factor: float = weight(1.25, "the innermost frame outside libraries", "factor")
    max_diff_lines: int = weight(60, "lines below its header that may be of a difference", "lines")
    location_distance: int = weight(3, "lines between a verdict and its place, at most", "lines")


DEFAULT_REPORT_WEIGHTS = ReportWeights()


@dataclass(frozen=True)
class ReportCompressor:
    """Compresses the output of test runs, builds and crashes."""

    name = "report"
    weights: ReportWeights = DEFAULT_REPORT_WEIGHTS

    def recognises(self, text: str) -> bool:
        """Return True for the output of a test run or a crash, but not for a list of results by file."""
        return severity.is_report(text) and not search.is_result_list(text)

    def compress(self, task: Task) -> CompressedPassage | None:
        """Keep every verdict once, the ends of the traces, and matches of the question."""
        weights, task = self.weights, _thin(task)
        text = task.text
        trace = stack_traces.group_frames(text, lines.find_line_spans(text))
        templates = lines.extract_templates(text, trace.spans, with_places=False)
        grades = _grade_explanations(text, trace, severity.grade_lines(text, trace.spans), weights)
        failures = _find_failures(text, trace, grades, weights)
        scores = self._score_lines(task, trace, templates, grades, failures.bonuses)
        verdicts = lines.select_verdicts(text, trace.spans, _grade_trace_ends(text, trace, grades), weights)
        units = Units(
            text,
            trace.spans,
            scores,
            "lines",
            weights,
            sizes=trace.sizes,
            parents=failures.parents,
            partners=stack_traces.pair_messages_with_frames(trace) | failures.partners,
            required=verdicts,
            templates=templates,
        )
        return compress_units(task, units)

    def _score_lines(
        self,
        task: Task,
        trace: TraceLines,
        templates: Sequence[str],
        grades: Sequence[int],
        bonuses: Mapping[int, float],
    ) -> list[float]:
        text, weights = task.text, self.weights
        frequencies, occurrences = measure_frequencies(templates), number_occurrences(templates)
        texts = [text[start:end] for start, end in trace.spans]
        matches = smooth_scores(score_question(text, trace.spans, task.question, weights), weights.neighbour_weight)
        frame_scores = stack_traces.score_frames(trace, templates, weights)
        reasons = _score_reasons(text, trace, grades, weights.reason_bonus)
        for index, bonus in bonuses.items():
            reasons[index] = max(reasons[index], bonus)
        for index in stack_traces.find_failure_frames(trace):
            frame_scores[index] *= weights.failure_factor
        scores: list[float] = []
        for index, (line, line_occurrence) in enumerate(zip(texts, number_occurrences(texts), strict=True)):
            if _SEPARATOR_LINE.match(line):
                scores.append(0.0)
            elif trace.frames[index]:
                scores.append((0.5 * matches[index] + frame_scores[index]) / line_occurrence)
            else:
                occurrence = occurrences[index]
                rarity = weights.rarity_weight / frequencies[index]
                reported = rarity + weights.severity_scores[grades[index]] + reasons[index]
                decay = sqrt(occurrence) if reasons[index] >= weights.essential_bonus else occurrence
                scores.append(matches[index] * (0.5 + 0.5 / occurrence) + reported / decay)
        for index in lines.find_hints(text, trace.spans):
            scores[index] *= weights.hint_factor
        boost_ends(scores, weights.edge_bonus)
        return scores


def _thin(task: Task) -> Task:
    """Leave out most results and failures of a long report."""
    text = task.text
    if not thinning.is_long(task):
        return task
    has_titles = _TITLE_LINE.search(text) is not None
    start = _SECTION_START if has_titles else _FAILURE_START

    def find_cut(offset: int) -> int:
        match = start.search(text, max(0, offset - 1))
        return match.end() if match is not None else len(text)

    return thinning.thin(task, find_cut)


def _score_reasons(text: str, trace: TraceLines, grades: Sequence[int], bonus: float) -> list[float]:
    """Score lines that give a reason: indented below a verdict (1, 1/2, 1/3, ... of the bonus), or above a trace."""
    scores = [0.0] * len(trace.spans)
    depth = 0  # lines since the verdict, itself included
    for index, (start, end) in enumerate(trace.spans):
        is_indented = start > 0 and text[start].isspace()
        continues = is_indented or (depth == 1 and text[end - 1] == ":")
        depth = 1 if grades[index] == severity.VERDICT else depth + 1 if depth and continues else 0
        if depth > 1:
            scores[index] = bonus / (depth - 1)
    for index in stack_traces.find_message_lines(trace):
        scores[index] = max(scores[index], bonus)
    return scores


def _grade_explanations(text: str, trace: TraceLines, grades: list[int], weights: ReportWeights) -> list[int]:
    """Return the grades with only the first lines of each of pytest's explanations as verdicts."""
    adjusted = list(grades)
    run = 0
    for index, (start, end) in enumerate(trace.spans):
        run = run + 1 if _EXPLANATION.match(text, start, end) else 0
        if run > weights.max_explanation_lines:
            adjusted[index] = severity.ERROR
    return adjusted


class _FailureReader:
    """Finds the essential lines of failures, and the lines to keep with others.

    `bonuses`: of titles, reasons, places and codes. `parents`: the title of each line, or the first line of its pair,
    or -1. `partners`: the place of a reason, or the second line of its pair.
    """

    def __init__(self, text: str, weights: ReportWeights) -> None:
        self.bonuses: dict[int, float] = {}
        self.parents: list[int] = []
        self.partners: dict[int, int] = {}
        self._text = text
        self._weights = weights
        self._title = self._pair = -1  # the current title; the first of two lines that belong together
        self._title_start = 0
        self._reasons: list[int] = []  # without a place so far
        self._diff_lines = 0  # still to come

    def read_line(self, index: int, span: Span, *, is_error: bool) -> None:
        """Read the next line."""
        weights = self._weights
        start, end = span[0], min(span[1], span[0] + MAX_LINE_CHARACTERS)
        role = _classify_line(self._text, start, end, in_diff=self._diff_lines > 0)
        self._diff_lines = weights.max_diff_lines if role == _DIFF_HEADER else self._diff_lines - 1
        is_place = role == _PLACE and bool(self._reasons)
        if role == _TITLE_ROLE or (self._title >= 0 and _ends_section(self._text, self._title_start, start)):
            self._title, self._title_start = -1, start
        self.parents.append(self._reasons[0] if is_place and self._title < 0 else self._title)
        if role == _TITLE_ROLE:
            self._title = index
        if is_place:
            self.partners.update({reason: index for reason in self._reasons if reason not in self.partners})
        if is_place or role not in {"", _PLACE}:
            self.bonuses[index] = weights.pointer_bonus if role == _POINTER else weights.essential_bonus
        self._update_reasons(index, role, is_reason=role == _REASON or (is_error and role not in {_TITLE_ROLE, _PLACE}))

    def _update_reasons(self, index: int, role: str, *, is_reason: bool) -> None:
        if role == _REASON and self._pair == index - 1 and self._pair not in self.partners:
            self.parents[index] = self._pair
            self.partners[self._pair] = index
            self._pair = -1
        elif role == _REASON:
            self._pair = index
        is_far = bool(self._reasons) and index - self._reasons[-1] >= self._weights.location_distance
        if role in {_TITLE_ROLE, _PLACE} or is_far:
            self._reasons = []
        if is_reason:
            self._reasons.append(index)
            if len(self._reasons) > MAX_REASONS:
                del self._reasons[0]


def _find_failures(text: str, trace: TraceLines, grades: Sequence[int], weights: ReportWeights) -> _FailureReader:
    """Find the titles, reasons, places and codes of failures."""
    failures = _FailureReader(text, weights)
    for index, (span, grade, frame) in enumerate(zip(trace.spans, grades, trace.frames, strict=True)):
        failures.read_line(index, span, is_error=grade >= severity.ERROR and not frame)
    return failures


def _classify_line(text: str, start: int, end: int, *, in_diff: bool) -> str:
    """Return the line's part in a failure; empty for other lines."""
    match = _ROLE.match(text, start, end)
    if match is not None:
        return match.lastgroup or ""
    return _REASON if in_diff and _DIFF_LINE.match(text, start, end) else ""


def _ends_section(text: str, title: int, line: int) -> bool:
    """Return True if a line is no part of the failure with this title: a rule, or less indented than the title."""
    return (text.startswith(("==", "--"), line) and line != title) or (
        text[title].isspace() and not text[line].isspace()
    )


def _grade_trace_ends(text: str, trace: TraceLines, grades: Sequence[int]) -> list[int]:
    """Return the grades with the line below an innermost-last trace as a verdict, whatever the exception's name."""
    adjusted = [0 if frame else grade for frame, grade in zip(trace.frames, grades, strict=True)]
    for _, after in stack_traces.find_traces(trace.frames):
        is_innermost_last = trace.frames[after - 1] == stack_traces.INNERMOST_LAST
        if is_innermost_last and after < len(adjusted) and not text[trace.spans[after][0]].isspace():
            is_chained = _CHAINED_EXCEPTION.match(text, *trace.spans[after])
            adjusted[after] = 0 if is_chained else severity.VERDICT
    return adjusted
