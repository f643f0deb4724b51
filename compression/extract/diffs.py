"""Diffs and patches: what changed stays, the lines around it shrink, and files nobody writes are counted.

Every changed line stays where that fits the size asked for; where it does not, those that the question names, the first
of every hunk and every wording once. What is kept comes with the header of its hunk, of its file and of its commit, so
what is left still says what changed where. Commits say their hash and their subject first.
"""

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from ..compressor import CompressedPassage, Task
from . import lines
from .core import bm25
from .core.bm25 import Span
from .core.selection import MARKER_COST, Units, compress_units, estimate_token_count

SAMPLE_CHARACTERS = 20_000  # characters looked at to recognise a diff
NEIGHBOUR_WEIGHT = 0.3
SHORT_DIFF_TOKENS = (
    40  # tokens; what stays of more at least grows by a power less than one, which makes 0.38 of a thousand
)
ADJACENT_WEIGHT = 0.4  # what a line is worth for standing beside one that changed
MESSAGE_BONUS = 0.3  # what a commit's message or a line of statistics is worth
CHANGED_BONUS = 1.0  # what a changed line is worth where not all of them fit
FIRST_CHANGE_BONUS = 0.3  # the first changed line of a hunk; the second is worth half of that, and so on
REMOVED_BONUS = 1.0  # more than an added one: that one stands in the file, this one nowhere any more
LENGTH_PENALTY = 0.3  # what one of a hundred characters loses to shorter ones
WORDLESS_PENALTY = 0.7  # what a changed line loses that has no word in it
FILE_LIST_SCORE = 4.5  # a file in a list of those that changed
TITLE_SCORE = 5.0  # a commit's subject, and how many files changed

_HUNK = re.compile(r"^(?:diff --git |@@ -\d+(?:,\d+)? \+\d+(?:,\d+)? @@)", re.MULTILINE)
_FILE_HEADER = re.compile(r"diff --git |Index: |diff -")
_COMMIT_HEADER = re.compile(r"(?:commit|From) [0-9a-f]{7,64}\b|[0-9a-f]{7,40} \S")
_FILE_CHANGE = re.compile(r"(?:---|\+\+\+) \S|(?:rename|copy) (?:from|to) |(?:new|deleted) file mode|Binary files ")
_REDUNDANT_HEADER = re.compile(r"(?:---|\+\+\+) \S|index [0-9a-f]+\.\.|(?:similarity|dissimilarity) index ")
_STATISTICS = re.compile(r" (?:\d+ files? changed\b|(\S.{0,300} \|\s+(?:\d+|Bin)\b))")
_WORD = re.compile(r"[^\W_]{2}")
_GENERATED_FILE = re.compile(
    r"(?:^|[/ ])(?:[\w.-]*(?:lock|lock\.json|shrinkwrap\.json|\.lockb|\.sum)"
    r"|[\w.-]+\.(?:min\.(?:js|css)|map|snap|svg|pb\.go|po))(?=\s|$)"
    r"|(?:^|[/ ])(?:dist|vendor|node_modules|__snapshots__|third_party)/"
)


class DiffCompressor:
    """Compresses the output of `git diff`, `git show`, `git log -p`, `diff -u`."""

    name = "diff"

    def recognises(self, text: str) -> bool:
        """Recognise text with the header of a file or of a hunk in its beginning."""
        return is_diff(text)

    def compress(self, task: Task) -> CompressedPassage | None:
        """Keep what changed; of the rest what stands nearest to it and to the question."""
        text = task.text
        found = lines.find_line_spans(text)
        read = _DiffLines(text, found)
        asked = lines.smooth_scores(
            lines.normalize_scores(bm25.score_spans(text, found, bm25.parse_query(task.question))), NEIGHBOUR_WEIGHT
        )
        beside = lines.smooth_scores([float(one) for one in read.is_changed], ADJACENT_WEIGHT)
        below = [beside[at] if parent >= 0 else MESSAGE_BONUS for at, parent in enumerate(read.parents)]
        less = [
            2.0 * generated + MESSAGE_BONUS * again
            for generated, again in zip(read.is_generated, read.is_redundant, strict=True)
        ]
        scores = [asked[at] + below[at] - less[at] for at in range(len(found))]
        must = [at for at, one in enumerate(read.is_changed) if one and not read.is_generated[at]]
        if not _fits_target(task, found, must, read.parents):
            task = replace(task, target=max(task.target, _compute_min_target(estimate_token_count(text, task.count))))
            must = []
            for at, worth in enumerate(_score_changes(text, found, read)):
                scores[at] += worth
        return compress_units(task, Units(text, found, scores, "lines", parents=read.parents, required=must))


def is_diff(text: str) -> bool:
    """Say whether this is what `diff` prints."""
    return _HUNK.search(text, 0, SAMPLE_CHARACTERS) is not None


def _fits_target(task: Task, found: Sequence[Span], must: Sequence[int], parents: Sequence[int]) -> bool:
    """Say whether these lines are within the target with their headers, at as many tokens a character as all have."""
    kept: set[int] = set()
    for line in must:
        at = line
        while at >= 0 and at not in kept:
            kept.add(at)
            at = parents[at]
    gaps = sum([at - 1 not in kept for at in kept])
    characters = sum([found[at][1] - found[at][0] + 1 for at in kept]) + gaps * MARKER_COST
    return characters * estimate_token_count(task.text, task.count) <= task.target * len(task.text)


def _compute_min_target(whole: int) -> int:
    """Return the tokens that stay of a diff of so many, whatever is asked: of a short one most, of a long one few."""
    return int(SHORT_DIFF_TOKENS * (whole / SHORT_DIFF_TOKENS) ** 0.7) if whole > SHORT_DIFF_TOKENS else whole


@dataclass(slots=True)
class _DiffLines:
    """Of each line: which header it stands under (or -1), whether it changed, whether a tool wrote its file.

    `again` are lines that say what the header of their file says, and `titles` those that say what a commit is called.
    """

    text: str
    spans: Sequence[Span]
    parents: list[int] = field(default_factory=list[int])
    is_changed: list[bool] = field(default_factory=list[bool])
    is_generated: list[bool] = field(default_factory=list[bool])
    is_redundant: list[bool] = field(default_factory=list[bool])
    title_indices: list[int] = field(default_factory=list[int])

    def __post_init__(self) -> None:
        """Read line by line, in one pass."""
        file = hunk = commit = -1
        skip = untitled = False
        for index, (start, end) in enumerate(self.spans):
            line = self.text[start : min(end, start + 400)]
            header = True
            if _FILE_HEADER.match(line):
                file, hunk, skip = index, -1, _GENERATED_FILE.search(line) is not None
                parent = commit
            elif line.startswith("@@ "):
                hunk, parent = index, file
            elif line[0] not in " +-\\" and _COMMIT_HEADER.match(line):
                file = hunk = parent = -1
                commit, skip, untitled = index, False, True
                self.title_indices.append(index)
            else:
                header = False
                parent = hunk if hunk >= 0 else file if file >= 0 else commit
                if untitled and line[0] == " ":
                    self.title_indices.append(index)
                    untitled = False
            again = not header and hunk < 0 <= file and _REDUNDANT_HEADER.match(line) is not None
            named = not again and _FILE_CHANGE.match(line) is not None
            self.parents.append(parent)
            self.is_redundant.append(again)
            self.is_changed.append(not header and (line[0] in "+-" if hunk >= 0 else named))
            self.is_generated.append(skip and not header)


def _score_changes(text: str, found: Sequence[Span], read: _DiffLines) -> list[float]:
    """Say what each line is worth where not all that changed fits."""
    worth = [0.0] * len(found)
    said: Counter[str] = Counter()
    places: Counter[int] = Counter()
    for at, (start, end) in enumerate(found):
        line = text[start:end]
        if read.is_changed[at]:
            said[line] += 1
            places[read.parents[at]] += 1
            worth[at] = CHANGED_BONUS / said[line] + FIRST_CHANGE_BONUS / places[read.parents[at]]
            worth[at] += REMOVED_BONUS * (line[0] == "-") - WORDLESS_PENALTY * (_WORD.search(line) is None)
            worth[at] -= LENGTH_PENALTY * min(1.0, (end - start) / 100)
        elif match := _STATISTICS.match(line):
            worth[at] = FILE_LIST_SCORE if match[1] else TITLE_SCORE
    for at in read.title_indices:
        worth[at] = TITLE_SCORE
    return worth
