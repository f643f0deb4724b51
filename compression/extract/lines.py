"""The catch-all: any text as lines, the best of them by the question, by rarity, by what looks like a result.

Knows the shape of test and build output (failures, assertions, tracebacks, summaries) and folds repeated lines. Takes
every text, including binary rubbish and single lines of megabytes, which it cuts into pieces first.
"""

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from math import log

from ..compressor import Condensed, Task
from . import bm25, signals
from .bm25 import Span
from .select import Units, shorten

LONGEST_LINE = 1_000  # characters; a longer line is cut into pieces
LONGEST_OF_FEW = 350  # the same where there are hardly any lines to choose from
FEW = 4
PIECE = 300
RARE = 0.35  # what it is worth to look like no other line, in units of the best line's score
NEAR = 0.35  # what a line takes over from its neighbours
EDGE = 0.5
MOST_VERDICTS = 0.6  # share of the text that may be kept for being results, whatever the target
WORTH = (0.0, 0.05, 0.5, 1.0)  # by grade

_CUT = re.compile(rf"(?s).{{1,{PIECE}}}(?:[\s,;}}\])>]|\Z)|.{{{PIECE}}}")
_CODE = re.compile(r"[a-fA-F]{0,7}\d[\w.:/\-]*")  # numbers, times, addresses, hexadecimal ids


def spans(text: str) -> list[Span]:
    """Find the lines that are not blank (without their line ends), over-long ones cut into pieces."""
    found: list[Span] = []
    at = 0
    written = text.split("\n")
    longest = LONGEST_LINE if sum(map(bool, written)) > FEW else LONGEST_OF_FEW
    for line in written:
        end = at + len(line)
        if line and not line.isspace():
            if end - at > longest:
                found.extend(_cut(text, (at, end)))
            else:
                found.append((at, end))
        at = end + 1
    return found


def _cut(text: str, span: Span) -> Iterator[Span]:
    start, end = span
    for match in _CUT.finditer(text, start, end):
        if not match[0].isspace():
            yield match.span()


def templates(text: str, found: Sequence[Span]) -> list[str]:
    """Say what each line looks like once numbers, times and ids are taken out of it."""
    return [_CODE.sub("0", text[start : min(end, start + 300)]).strip() for start, end in found]


def smoothed(scores: Sequence[float], share: float) -> list[float]:
    """Let each unit take over a share of what stands beside it, and half of that from one further away."""
    total = len(scores)
    near = [0.0, 0.0, *scores, 0.0, 0.0]
    return [
        score + share * (max(near[at + 1], near[at + 3]) + 0.5 * max(near[at], near[at + 4]))
        for at, score in zip(range(total), scores, strict=True)
    ]


def normalised(scores: Sequence[float]) -> list[float]:
    """Scale scores so that the best is 1.0; all zeros stay so."""
    best = max(scores, default=0.0)
    return [score / best for score in scores] if best > 0 else list(scores)


def verdicts(text: str, found: Sequence[Span], grades: Sequence[int]) -> list[int]:
    """Find the lines that report a result, each wording once, as far as they are not most of the text."""
    said: dict[str, int] = {}
    room = MOST_VERDICTS * len(text)
    for index, grade in enumerate(grades):
        if grade == signals.VERDICT and (line := text[found[index][0] : found[index][1]]) not in said:
            room -= len(line)
            if room < 0:
                break
            said[line] = index
    return list(said.values())


def favour_ends(scores: list[float]) -> None:
    """Make the first and the last unit worth more, in place."""
    for index in (0, len(scores) - 1) if scores else ():
        scores[index] += EDGE


class Lines:
    """Compresses any text; the last in the registry."""

    name = "lines"

    def recognises(self, text: str) -> bool:  # noqa: ARG002  there is nothing to look at
        """Recognise everything."""
        return True

    def compress(self, task: Task) -> Condensed | None:
        """Keep verdicts and errors, the lines nearest the question, what is rare, and both ends."""
        found = spans(task.text)
        kinds = templates(task.text, found)
        often = Counter(kinds)
        grade = signals.grades(task.text, found)
        asked = smoothed(normalised(bm25.score(task.text, found, bm25.query(task.question))), NEAR)
        seen: Counter[str] = Counter()
        scores: list[float] = []
        for index, kind in enumerate(kinds):
            seen[kind] += 1
            repeat = 1.0 / seen[kind]
            rare = RARE / (1.0 + log(often[kind]))
            scores.append(asked[index] * (0.5 + 0.5 * repeat) + rare * repeat + WORTH[grade[index]] * repeat)
        favour_ends(scores)
        must = verdicts(task.text, found, grade)
        return shorten(task, Units(task.text, found, scores, "lines", must=must, kinds=kinds))
