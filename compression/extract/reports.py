"""Compresses the output of test runs, builds and crashes: verdicts, reasons, summaries, and the ends of stack traces.

A frame is one unit. Of each trace the innermost frames come first, then the outermost one; frames of the project come
before frames of a library. Failures with the same wording are shown once, and passed tests are counted.
"""

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from math import log

from ..compressor import CompressedPassage, Task
from .core import lines, severity, stack_traces
from .core.base_weights import weight
from .core.scoring import boost_ends, score_question, smooth_scores
from .core.selection import Units, compress_units
from .core.stack_traces import TraceLines, TraceWeights

_SEPARATOR_LINE = re.compile(r"[\W_]+$")
_CHAINED_EXCEPTION = re.compile(r"(?:During handling of|The above exception was)\b")


@dataclass(frozen=True, slots=True)
class ReportWeights(TraceWeights):
    """Weights of the output of test runs, builds and crashes."""

    rarity_weight: float = weight(0.15, "a unique template; divided by 1 + log(frequency)")
    severity_scores: tuple[float, ...] = weight((0.0, 0.15, 0.5, 1.0), "no grade, warning, error, verdict")
    reason_bonus: float = weight(0.6, "first line indented below a verdict, or message above a trace")


DEFAULT_REPORT_WEIGHTS = ReportWeights()


class ReportCompressor:
    """Compresses the output of test runs, builds and crashes."""

    name = "report"

    def __init__(self, weights: ReportWeights = DEFAULT_REPORT_WEIGHTS) -> None:
        self.weights = weights

    def recognises(self, text: str) -> bool:
        """Return True for the output of a test run or a crash."""
        return severity.is_report(text)

    def compress(self, task: Task) -> CompressedPassage | None:
        """Keep every verdict once, the ends of the traces, and matches of the question."""
        text, weights = task.text, self.weights
        trace = stack_traces.group_frames(text, lines.find_line_spans(text))
        templates = lines.extract_placeless_templates(text, trace.spans)
        grades = severity.grade_lines(text, trace.spans)
        scores = self._score_lines(task, trace, templates, grades)
        verdicts = lines.select_verdicts(text, trace.spans, _grade_trace_ends(text, trace, grades), weights)
        units = Units(
            text,
            trace.spans,
            scores,
            "lines",
            weights,
            sizes=trace.sizes,
            required=verdicts,
            templates=templates,
        )
        return compress_units(task, units)

    def _score_lines(
        self, task: Task, trace: TraceLines, templates: Sequence[str], grades: Sequence[int]
    ) -> list[float]:
        text, weights = task.text, self.weights
        frequencies = Counter(templates)
        matches = smooth_scores(score_question(text, trace.spans, task.question, weights), weights.neighbour_weight)
        frame_scores = stack_traces.score_frames(text, trace, templates, weights)
        reasons = _score_reasons(text, trace, grades, weights.reason_bonus)
        rarity_weight, severity_scores = weights.rarity_weight, weights.severity_scores
        template_occurrences: Counter[str] = Counter()
        line_occurrences: Counter[str] = Counter()
        scores: list[float] = []
        for index, template in enumerate(templates):
            line = text[trace.spans[index][0] : trace.spans[index][1]]
            template_occurrences[template] += 1
            line_occurrences[line] += 1
            if _SEPARATOR_LINE.match(line):
                scores.append(0.0)
            elif trace.frames[index]:
                scores.append((0.5 * matches[index] + frame_scores[index]) / line_occurrences[line])
            else:
                occurrence = template_occurrences[template]
                rarity = rarity_weight / (1.0 + log(frequencies[template]))
                reported = rarity + severity_scores[grades[index]] + reasons[index]
                scores.append(matches[index] * (0.5 + 0.5 / occurrence) + reported / occurrence)
        boost_ends(scores, weights.edge_bonus)
        return scores


def _score_reasons(text: str, trace: TraceLines, grades: Sequence[int], bonus: float) -> list[float]:
    """Score lines that give a reason: indented below a verdict (1, 1/2, 1/3, ... of the bonus), or above a trace."""
    scores = [0.0] * len(trace.spans)
    depth = 0  # lines since the verdict, itself included
    for index, (start, _) in enumerate(trace.spans):
        is_indented = start > 0 and text[start].isspace()
        depth = 1 if grades[index] == severity.VERDICT else depth + 1 if depth and is_indented else 0
        if depth > 1:
            scores[index] = bonus / (depth - 1)
    for index in stack_traces.find_message_lines(trace):
        scores[index] = max(scores[index], bonus)
    return scores


def _grade_trace_ends(text: str, trace: TraceLines, grades: Sequence[int]) -> list[int]:
    """Return the grades with the line below an innermost-last trace as a verdict, whatever the exception's name."""
    adjusted = [0 if frame else grade for frame, grade in zip(trace.frames, grades, strict=True)]
    for _, after in stack_traces.find_traces(trace.frames):
        is_innermost_last = trace.frames[after - 1] == stack_traces.INNERMOST_LAST
        if is_innermost_last and after < len(adjusted) and not text[trace.spans[after][0]].isspace():
            is_chained = _CHAINED_EXCEPTION.match(text, *trace.spans[after])
            adjusted[after] = 0 if is_chained else severity.VERDICT
    return adjusted
