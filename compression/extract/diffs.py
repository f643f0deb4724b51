"""Diffs and patches: every line that changed stays, the lines around it shrink, and files nobody writes are counted.

A changed line comes with the header of its hunk and of its file, so what is left still says what changed where.
"""

import re
from collections.abc import Sequence

from ..compressor import Condensed, Task
from . import bm25, lines
from .bm25 import Span
from .select import Units, shorten

SAMPLE = 20_000  # characters looked at to recognise a diff
NEAR = 0.3
BESIDE = 0.4  # what a line is worth for standing beside one that changed
SAID = 0.3  # what a commit's message or a line of statistics is worth

_HUNK = re.compile(r"^(?:diff --git |@@ -\d+(?:,\d+)? \+\d+(?:,\d+)? @@)", re.MULTILINE)
_FILE = re.compile(r"diff --git |Index: |diff -")
_NAMES = re.compile(r"(?:---|\+\+\+) \S|(?:rename|copy) (?:from|to) |(?:new|deleted) file mode|Binary files ")
_GENERATED = re.compile(
    r"(?:^|[/ ])(?:[\w.-]*(?:lock|lock\.json|shrinkwrap\.json|\.lockb|\.sum)"
    r"|[\w.-]+\.(?:min\.(?:js|css)|map|snap|svg|pb\.go|po))(?=\s|$)"
    r"|(?:^|[/ ])(?:dist|vendor|node_modules|__snapshots__|third_party)/"
)


class Diffs:
    """Compresses the output of `git diff`, `git show`, `diff -u`."""

    name = "diff"

    def recognises(self, text: str) -> bool:
        """Recognise text with the header of a file or of a hunk in its beginning."""
        return is_diff(text)

    def compress(self, task: Task) -> Condensed | None:
        """Keep what changed; of the rest what stands nearest to it and to the question."""
        text = task.text
        found = lines.spans(text)
        parents, changed, generated = _read(text, found)
        asked = lines.smoothed(lines.normalised(bm25.score(text, found, bm25.query(task.question))), NEAR)
        beside = lines.smoothed([float(one) for one in changed], BESIDE)
        scores = [
            asked[at] + (beside[at] if parents[at] >= 0 else SAID) - 2.0 * generated[at] for at in range(len(found))
        ]
        must = [at for at, one in enumerate(changed) if one and not generated[at]]
        return shorten(task, Units(text, found, scores, "lines", parents=parents, must=must))


def is_diff(text: str) -> bool:
    """Say whether this is what `diff` prints."""
    return _HUNK.search(text, 0, SAMPLE) is not None


def _read(text: str, found: Sequence[Span]) -> tuple[list[int], list[bool], list[bool]]:
    """Say of each line which header it stands under (or -1), whether it changed, and whether a tool wrote its file."""
    parents: list[int] = []
    changed: list[bool] = []
    generated: list[bool] = []
    file = hunk = -1
    skip = False
    for index, (start, end) in enumerate(found):
        line = text[start : min(end, start + 400)]
        if _FILE.match(line):
            file, hunk, skip = index, -1, _GENERATED.search(line) is not None
            parents.append(-1)
        elif line.startswith("@@ "):
            hunk = index
            parents.append(file)
        else:
            parents.append(hunk if hunk >= 0 else file)
        header = index in {file, hunk}
        changed.append(not header and (line[0] in "+-" if hunk >= 0 else _NAMES.match(line) is not None))
        generated.append(skip and not header)
    return parents, changed, generated
