"""What test runs, builds and crashes print: verdicts, reasons and summaries stay, stack traces shrink to their ends.

A frame of a trace is one thing (where, and the line of code below it, without the `^^^^` under that). Of each trace the
last frames say where it broke, the first one where it began, and those of the project more than a library's; between
them frames go first. What fails many times in the same words is said once; what passed is counted.
"""

import re
from collections import Counter
from collections.abc import Sequence
from math import log

from ..compressor import CompressedPassage, Task
from . import lines, stack_traces
from .core import bm25, severity
from .core.selection import Units, compress_units
from .stack_traces import TraceLines

NEIGHBOUR_WEIGHT = 0.3
RARITY_WEIGHT = 0.15
REASON_BONUS = 0.6  # the first line that says why, below a verdict or above a trace; the second is worth half of that
SEVERITY_SCORES = (0.0, 0.15, 0.5, 1.0)  # by grade

_SEPARATOR_LINE = re.compile(r"[\W_]+$")  # a line that only parts others
_CHAINED_EXCEPTION = re.compile(r"(?:During handling of|The above exception was)\b")


class ReportCompressor:
    """Compresses the output of test runs, builds and programs that failed."""

    name = "report"

    def recognises(self, text: str) -> bool:
        """Recognise what a test run or a crash prints."""
        return severity.is_report(text)

    def compress(self, task: Task) -> CompressedPassage | None:
        """Keep every verdict once, the ends of the traces, and what the question names."""
        text = task.text
        cut = stack_traces.group_frames(text, lines.find_line_spans(text))
        found = cut.spans
        kinds = lines.extract_placeless_templates(text, found)
        often = Counter(kinds)
        grades = severity.grade_lines(text, found)
        asked = lines.smooth_scores(
            lines.normalize_scores(bm25.score_spans(text, found, bm25.parse_query(task.question))), NEIGHBOUR_WEIGHT
        )
        placed = stack_traces.score_frames(text, cut, kinds)
        reasons = _score_reasons(text, cut, grades)
        seen: Counter[str] = Counter()
        said: Counter[str] = Counter()
        scores: list[float] = []
        for index, kind in enumerate(kinds):
            whole = text[found[index][0] : found[index][1]]
            seen[kind] += 1
            said[whole] += 1
            if _SEPARATOR_LINE.match(whole):
                scores.append(0.0)
            elif cut.frames[index]:
                scores.append((0.5 * asked[index] + placed[index]) / said[whole])
            else:
                unseen = RARITY_WEIGHT / (1.0 + log(often[kind])) + SEVERITY_SCORES[grades[index]] + reasons[index]
                scores.append(asked[index] * (0.5 + 0.5 / seen[kind]) + unseen / seen[kind])
        lines.boost_ends(scores)
        must = lines.select_verdicts(text, found, _grade_trace_ends(text, cut, grades))
        return compress_units(
            task, Units(text, found, scores, "lines", sizes=cut.sizes, required=must, templates=kinds)
        )


def _score_reasons(text: str, cut: TraceLines, grades: Sequence[int]) -> list[float]:
    """Say what each line is worth for saying why: indented below a verdict, or above the frames of a trace."""
    worth = [0.0] * len(cut.spans)
    below = 0
    for index, (start, _) in enumerate(cut.spans):
        indented = start > 0 and text[start].isspace()
        below = 1 if grades[index] == severity.VERDICT else below + 1 if below and indented else 0
        if below > 1:
            worth[index] = REASON_BONUS / (below - 1)
    for index in stack_traces.find_message_lines(cut):
        worth[index] = max(worth[index], REASON_BONUS)
    return worth


def _grade_trace_ends(text: str, cut: TraceLines, grades: Sequence[int]) -> list[int]:
    """Grade the line below a trace that ends where it broke as a verdict, whatever the exception is called."""
    judged = [0 if frame else grade for frame, grade in zip(cut.frames, grades, strict=True)]
    for _, after in stack_traces.find_traces(cut.frames):
        upwards = cut.frames[after - 1] == stack_traces.INNERMOST_LAST
        if upwards and after < len(judged) and not text[cut.spans[after][0]].isspace():
            judged[after] = 0 if _CHAINED_EXCEPTION.match(text, *cut.spans[after]) else severity.VERDICT
    return judged
