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
from . import bm25, lines, signals
from .bm25 import Span
from .select import Units, shorten

NEAR = 0.3
RARE = 0.15
RAISED = 1.2  # where it broke: the last frame of a trace; the one above it is worth half of that, and so on
BEGAN = 0.3  # the first frame
FOREIGN = 0.4  # of its worth is left to a frame in a library
REASON = 0.6  # the first indented line below a verdict; the second is worth half of that, and so on
MOST_FRAME = 6  # lines of a frame
WORTH = (0.0, 0.15, 0.5, 1.0)  # by grade

_FRAME = re.compile(
    r"[ \t]+File \"[^\"\n]{1,300}\", line \d+"  # Python
    r"|\s+at (?:async )?[\w$.<>\[\]/@ ]{1,200}\([^()\n]{0,300}\)\s*$"  # Java, JavaScript
    r"|\s+at (?:file:|/|[A-Za-z]:\\|node:)\S{1,300}:\d+"
    r"|[\w./@<>~+-]{1,300}:\d+: in \S"  # pytest, short
    r"|\s+\d{1,4}: +(?:0x[0-9a-f]+ - )?[\w:<>{}$. ]{1,200}$"  # Rust
)
_FOREIGN = re.compile(
    r"(?:site|dist)-packages/|/lib(?:64)?/python\d|<frozen |node_modules/|node:internal|/rustc/|\(native"
    r"|\b(?:java|jdk|sun|org\.junit)\."
)
_RULE = re.compile(r"[\W_]+$")  # a line that only parts others
_CARETS = re.compile(r"\s*[~^]+\s*$")
_CHAINED = re.compile(r"(?:During handling of|The above exception was)\b")


class Reports:
    """Compresses the output of test runs, builds and programs that failed."""

    name = "report"

    def recognises(self, text: str) -> bool:
        """Recognise what a test run or a crash prints."""
        return signals.is_report(text)

    def compress(self, task: Task) -> Condensed | None:
        """Keep every verdict once, the ends of the traces, and what the question names."""
        text = task.text
        found, sizes, frames = _gathered(text)
        kinds = lines.templates(text, found)
        often = Counter(kinds)
        grades = signals.grades(text, found)
        asked = lines.smoothed(lines.normalised(bm25.score(text, found, bm25.query(task.question))), NEAR)
        placed = _places(text, found, frames)
        reasons = _reasons(text, found, grades)
        seen: Counter[str] = Counter()
        said: Counter[str] = Counter()
        scores: list[float] = []
        for index, kind in enumerate(kinds):
            whole = text[found[index][0] : found[index][1]]
            seen[kind] += 1
            said[whole] += 1
            if _RULE.match(whole):
                scores.append(0.0)
            elif frames[index]:
                scores.append((0.5 * asked[index] + placed[index]) / said[whole])
            else:
                unseen = RARE / (1.0 + log(often[kind])) + WORTH[grades[index]] + reasons[index]
                scores.append(asked[index] * (0.5 + 0.5 / seen[kind]) + unseen / seen[kind])
        lines.favour_ends(scores)
        must = lines.verdicts(text, found, _judged(text, found, frames, grades))
        return shorten(task, Units(text, found, scores, "lines", sizes=sizes, must=must, kinds=kinds))


def _gathered(text: str) -> tuple[list[Span], list[int], list[bool]]:
    """Gather the lines of each frame into one unit: the units, how many lines each has, and which are frames."""
    found: list[Span] = []
    sizes: list[int] = []
    frames: list[bool] = []
    depth = 0
    for start, end in lines.spans(text):
        bare = start + len(text[start:end]) - len(text[start:end].lstrip())
        if _FRAME.match(text, start, min(end, start + 600)):
            depth = bare - start
        elif frames and frames[-1] and bare - start > depth and sizes[-1] < MOST_FRAME and end - start < 300:
            if not _CARETS.match(text, start, end):
                found[-1] = (found[-1][0], end)
                sizes[-1] += 1
            continue
        else:
            depth = -1
        found.append((start, end))
        sizes.append(1)
        frames.append(depth >= 0)
    return found, sizes, frames


def _places(text: str, found: Sequence[Span], frames: Sequence[bool]) -> list[float]:
    """Say what each frame is worth for where it stands in its trace."""
    worth = [0.0] * len(found)
    place = 0
    for index in range(len(found) - 1, -1, -1):
        place = place + 1 if frames[index] else 0
        if place:
            first = index == 0 or not frames[index - 1]
            worth[index] = max(RAISED / 2 ** (place - 1), BEGAN if first else 0.0)
            if _FOREIGN.search(text, *found[index]):
                worth[index] *= FOREIGN
    return worth


def _reasons(text: str, found: Sequence[Span], grades: Sequence[int]) -> list[float]:
    """Say what each line is worth for being indented below a verdict: it says why."""
    worth = [0.0] * len(found)
    below = 0
    for index, (start, _) in enumerate(found):
        indented = start > 0 and text[start].isspace()
        below = 1 if grades[index] == signals.VERDICT else below + 1 if below and indented else 0
        if below > 1:
            worth[index] = REASON / (below - 1)
    return worth


def _judged(text: str, found: Sequence[Span], frames: Sequence[bool], grades: Sequence[int]) -> list[int]:
    """Grade the line below a trace as a verdict, whatever the exception is called."""
    judged = [0 if frame else grade for frame, grade in zip(frames, grades, strict=True)]
    for index in range(1, len(found)):
        if frames[index - 1] and not frames[index] and not text[found[index][0]].isspace():
            judged[index] = 0 if _CHAINED.match(text, *found[index]) else signals.VERDICT
    return judged
