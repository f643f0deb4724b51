"""What test runs, builds and crashes print: verdicts, reasons and summaries stay, stack traces shrink to their ends.

A frame of a trace is one thing (where, and the line of code below it, without the `^^^^` under that). Of each trace the
last frames say where it broke, the first one where it began, and those of the project more than a library's; between
them frames go first. What fails many times in the same words is said once; what passed is counted.
"""

import re
from collections import Counter
from collections.abc import Sequence
from math import log

from ..compressor import Condensed, Task
from . import lines, stack_traces
from .core import bm25, severity
from .core.selection import Units, shorten
from .stack_traces import Cut

NEAR = 0.3
RARE = 0.15
REASON = 0.6  # the first line that says why, below a verdict or above a trace; the second is worth half of that
WORTH = (0.0, 0.15, 0.5, 1.0)  # by grade

_RULE = re.compile(r"[\W_]+$")  # a line that only parts others
_CHAINED = re.compile(r"(?:During handling of|The above exception was)\b")


class Reports:
    """Compresses the output of test runs, builds and programs that failed."""

    name = "report"

    def recognises(self, text: str) -> bool:
        """Recognise what a test run or a crash prints."""
        return severity.is_report(text)

    def compress(self, task: Task) -> Condensed | None:
        """Keep every verdict once, the ends of the traces, and what the question names."""
        text = task.text
        cut = stack_traces.cut(text, lines.spans(text))
        found = cut.spans
        kinds = lines.placeless(text, found)
        often = Counter(kinds)
        grades = severity.grades(text, found)
        asked = lines.smoothed(lines.normalised(bm25.score(text, found, bm25.query(task.question))), NEAR)
        placed = stack_traces.places(text, cut, kinds)
        reasons = _reasons(text, cut, grades)
        seen: Counter[str] = Counter()
        said: Counter[str] = Counter()
        scores: list[float] = []
        for index, kind in enumerate(kinds):
            whole = text[found[index][0] : found[index][1]]
            seen[kind] += 1
            said[whole] += 1
            if _RULE.match(whole):
                scores.append(0.0)
            elif cut.frames[index]:
                scores.append((0.5 * asked[index] + placed[index]) / said[whole])
            else:
                unseen = RARE / (1.0 + log(often[kind])) + WORTH[grades[index]] + reasons[index]
                scores.append(asked[index] * (0.5 + 0.5 / seen[kind]) + unseen / seen[kind])
        lines.favour_ends(scores)
        must = lines.verdicts(text, found, _judged(text, cut, grades))
        return shorten(task, Units(text, found, scores, "lines", sizes=cut.sizes, must=must, kinds=kinds))


def _reasons(text: str, cut: Cut, grades: Sequence[int]) -> list[float]:
    """Say what each line is worth for saying why: indented below a verdict, or above the frames of a trace."""
    worth = [0.0] * len(cut.spans)
    below = 0
    for index, (start, _) in enumerate(cut.spans):
        indented = start > 0 and text[start].isspace()
        below = 1 if grades[index] == severity.VERDICT else below + 1 if below and indented else 0
        if below > 1:
            worth[index] = REASON / (below - 1)
    for index in stack_traces.said(cut):
        worth[index] = max(worth[index], REASON)
    return worth


def _judged(text: str, cut: Cut, grades: Sequence[int]) -> list[int]:
    """Grade the line below a trace that ends where it broke as a verdict, whatever the exception is called."""
    judged = [0 if frame else grade for frame, grade in zip(cut.frames, grades, strict=True)]
    for _, after in stack_traces.runs(cut.frames):
        upwards = cut.frames[after - 1] == stack_traces.UPWARDS
        if upwards and after < len(judged) and not text[cut.spans[after][0]].isspace():
            judged[after] = 0 if _CHAINED.match(text, *cut.spans[after]) else severity.VERDICT
    return judged
