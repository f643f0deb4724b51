"""Logs: entries with a time or a level in front, each with the lines that continue it (stack traces and the like).

Entries of one template are shown once or a few times and folded; rare templates, errors with what stands around them,
entries that the question is about and both ends stay. Entries are never cut, so a stack trace is there whole or not.
"""

import re
from collections import Counter
from math import log

from ..compressor import Condensed, Task
from . import bm25, lines, signals
from .bm25 import Span
from .select import Units, shorten

SAMPLE = 20_000  # characters looked at at the beginning and in the middle
SHARE = 0.5  # of these lines must begin like entries
LONGEST_ENTRY = 80  # lines; a longer one is cut there
NEAR = 0.2
RARE = 0.5
WORTH = (0.0, 0.1, 0.4, 0.4)  # by grade

_ENTRY = re.compile(
    r"(?:\S{1,80}\s+){0,3}?[\[(<\"]?(?:"
    r"\d{4}[-/.]\d\d[-/.]\d\d[T _:-]?\s?\d\d?[:.]\d\d|"  # 2015-10-18 18:01
    r"\d\d[-/.]\d\d[-/.]\d{2,4}\s\d\d:\d\d|"  # 17/06/09 20:10
    r"\d{8}[-T ]\d\d:?\d\d|"  # 20171223-22:15
    r"\d{6}\s\d{6}\s|"  # 081109 203615
    r"\d\d[./-]\d\d\s\d\d:\d\d:\d\d|"  # 10.30 16:49:06
    r"\d\d?/[A-Z][a-z]{2}/\d{4}:\d\d:\d\d|"  # 10/Oct/2000:13:55
    r"(?:(?:Mon|Tue|Wed|Thu|Fri|Sat|Sun),?\s)?(?:\d\d?\s)?(?:Jan|Feb|Mar|Apr|May|Jun|Jul|Aug|Sep|Oct|Nov|Dec)\s{1,2}\d{1,4}\s\d\d:\d\d|"
    r"\d\d:\d\d:\d\d[.,:\s\]]"  # 18:01:47
    r")"
    r"|[\[(<*]{0,2}(?:TRACE|DEBUG|INFO|NOTICE|WARN|WARNING|ERROR|FATAL|CRITICAL|SEVERE|I|W|E)[\])>*]{0,2}[:\s\d|/\[-]"
    r"|(?:level|lvl|severity)=\w|(?:ts|time|timestamp)=[\"\d]"
)


class Logs:
    """Compresses logs."""

    name = "log"

    def recognises(self, text: str) -> bool:
        """Recognise text in which most lines begin with a time or a level, at the beginning and in the middle."""
        middle = max(0, len(text) // 2 - SAMPLE // 2)
        return (
            _share(text[:SAMPLE]) >= SHARE
            and (len(text) <= SAMPLE or _share(text[middle : middle + SAMPLE]) >= SHARE)
            and not signals.is_test_run(text)  # begins lines with ERROR as well
        )

    def compress(self, task: Task) -> Condensed | None:
        """Choose entries and fold what looks alike."""
        text = task.text
        found, sizes = entries(text)
        kinds = lines.templates(text, found)
        often = Counter(kinds)
        grades = signals.grades(text, found)
        asked = lines.smoothed(lines.normalised(bm25.score(text, found, bm25.query(task.question))), NEAR)
        reported = lines.smoothed(
            [WORTH[grade] / (1.0 + log(often[kind])) for grade, kind in zip(grades, kinds, strict=True)], NEAR
        )
        seen: Counter[str] = Counter()
        scores: list[float] = []
        for index, kind in enumerate(kinds):
            seen[kind] += 1
            unseen = (RARE / (1.0 + log(often[kind])) + reported[index]) / seen[kind]
            scores.append(asked[index] + unseen)
        lines.favour_ends(scores)
        return shorten(task, Units(text, found, scores, "lines", sizes=sizes, kinds=kinds))


def _share(sample: str) -> float:
    """Return the share of entries among the lines that are not indented."""
    begun = [line for line in sample.split("\n")[:-1] or [sample] if line and not line[0].isspace()]
    return sum(_ENTRY.match(line) is not None for line in begun) / len(begun) if len(begun) >= 3 else 0.0


def entries(text: str) -> tuple[list[Span], list[int]]:
    """Gather lines into entries: their spans, and how many lines each has."""
    found: list[Span] = []
    sizes: list[int] = []
    for start, end in lines.spans(text):
        if found and sizes[-1] < LONGEST_ENTRY and not _ENTRY.match(text, start, min(end, start + 400)):
            found[-1] = (found[-1][0], end)
            sizes[-1] += 1
        else:
            found.append((start, end))
            sizes.append(1)
    return found, sizes
