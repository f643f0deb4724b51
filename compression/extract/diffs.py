"""Compresses diffs and patches: keeps changed lines, trims context, counts generated files.

Every changed line is kept if all of them fit the target. Otherwise matches of the question, the first changes of each
hunk and new wordings come first. A kept line brings the line it replaces or that replaces it, and the headers of its
hunk, its file and its commit. A commit shows its hash and its subject first, and every changed file is named. Of a long
changed line, only the pieces that differ are changes.
"""

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from math import sqrt

from ..compressor import CompressedPassage, Task
from .core import lines
from .core.base_weights import ExtractWeights, weight
from .core.bm25 import Span
from .core.scoring import score_question, smooth_scores
from .core.selection import Units, compress_units, estimate_token_count

MAX_LINE_CHARACTERS = 400  # matched against the patterns
HEAD_CHARACTERS = 60  # of a long changed line
MARGIN_CHARACTERS = 60  # around what differs in it


@dataclass(frozen=True, slots=True)
class DiffWeights(ExtractWeights):
    """Weights of diffs."""

    short_diff_tokens: int = weight(40, "size kept whole; of n times this size, n ** min_size_power times", "tokens")
    short_changes_tokens: int = weight(300, "size of changed lines that are all kept at any target", "tokens")
    min_size_power: float = weight(0.7, "growth of the size kept at any target", "exponent")
    adjacent_weight: float = weight(0.4, "a line beside a changed one")
    message_bonus: float = weight(0.3, "a line of a commit message or of statistics")
    changed_bonus: float = weight(1.0, "a changed line, if not all of them fit; divided by its occurrences")
    file_rank_bonus: float = weight(
        0.4, "first changed line of a file; divided by the square root of the rank of others"
    )
    first_change_bonus: float = weight(0.3, "first changed line of a hunk; divided by the rank of others")
    file_score: float = weight(2.5, "the header of a file")
    length_penalty: float = weight(0.3, "a changed line of 100 characters or more")
    wordless_penalty: float = weight(0.7, "a changed line without a word")
    generated_penalty: float = weight(2.0, "a line of a generated file")
    file_list_score: float = weight(4.5, "a file in the statistics")
    asked_bonus: float = weight(2.0, "a changed line of a commit that the question asks for")
    min_asked_share: float = weight(0.75, "part of the best commit's match that another asked one has", "factor")
    max_asked_share: float = weight(0.34, "asked commits, at most", "share of commits")
    max_asked_characters: int = weight(300, "a changed line with this bonus, at most", "characters")
    title_score: float = weight(5.0, "a commit's header and subject, and the number of changed files")


_HUNK = re.compile(r"^(?:diff --git |@@ -\d+(?:,\d+)? \+\d+(?:,\d+)? @@)", re.MULTILINE)
_FILE_HEADER = re.compile(r"diff --git |Index: |diff -")
_COMMIT_HEADER = re.compile(r"(?:commit|From) [0-9a-f]{7,64}\b|[0-9a-f]{7,40} \S|changeset:\s{1,9}\d+:[0-9a-f]{12}")
_SUBJECT_OPENINGS = {"commit": " ", "From ": "Subject: ", "change": "summary: "}  # by the header of a commit
_FILE_CHANGE = re.compile(r"(?:---|\+\+\+) \S|(?:rename|copy) (?:from|to) |(?:new|deleted) file mode|Binary files ")
_REDUNDANT_HEADER = re.compile(r"(?:---|\+\+\+) \S|index [0-9a-f]+\.\.|(?:similarity|dissimilarity) index ")
_STATISTICS = re.compile(r" (?:\d+ files? changed\b|(\S.{0,300} \|\s+(?:\d+|Bin)\b))")
_WORD = re.compile(r"[^\W_]{2}")
_WORD_CHANGE = re.compile(r"\[-[^\n]+-\]|\{\+[^\n]+\+\}")  # of `--word-diff`
_GENERATED_FILE = re.compile(
    r"(?:^|[/ ])(?:[\w.-]*(?:lock|lock\.json|shrinkwrap\.json|\.lockb|\.sum)"
    r"|[\w.-]+\.(?:min\.(?:js|css)|map|snap|svg|pb\.go|po))(?=\s|$)"
    r"|(?:^|[/ ])(?:dist|vendor|node_modules|__snapshots__|third_party)/"
)


@dataclass(frozen=True)
class DiffCompressor:
    """Compresses the output of `git diff`, `git show`, `git log -p`, `diff -u`."""

    name = "diff"
    weights: DiffWeights = DiffWeights()

    def recognises(self, text: str) -> bool:
        """Return True if the start of the text contains the header of a file or of a hunk."""
        return _HUNK.search(text, 0, self.weights.sample_characters) is not None

    def compress(self, task: Task) -> CompressedPassage | None:
        """Keep changed lines, then the context nearest to them and to the question."""
        text, weights = task.text, self.weights
        spans = _find_spans(text)
        diff = _DiffLines(text, spans)
        matches = smooth_scores(score_question(text, spans, task.question, weights), weights.neighbour_weight)
        adjacency = smooth_scores([float(is_changed) for is_changed in diff.is_changed], weights.adjacent_weight)
        scores = [
            matches[index]
            + (adjacency[index] if parent >= 0 else weights.message_bonus)
            - (weights.generated_penalty * diff.is_generated[index] + weights.message_bonus * diff.is_redundant[index])
            for index, parent in enumerate(diff.parents)
        ]
        required = [
            index for index, is_changed in enumerate(diff.is_changed) if is_changed and not diff.is_generated[index]
        ]
        total = estimate_token_count(text, task.count)
        size = self._measure_lines(spans, required, diff.parents) * total / max(1, len(text))
        if size > max(task.target, weights.short_changes_tokens):
            task = replace(task, target=max(task.target, self._compute_min_target(total)))
            required = []
            for index, score in enumerate(self._score_changes(diff)):
                scores[index] += score
            for index in self._iter_asked_changes(task, diff):
                scores[index] += weights.asked_bonus
        return compress_units(
            task,
            Units(
                text, spans, scores, "lines", weights, parents=diff.parents, partners=diff.partners, required=required
            ),
        )

    def _measure_lines(self, spans: Sequence[Span], required: Sequence[int], parents: Sequence[int]) -> int:
        """Return the number of characters of these lines, their headers, and the markers between them."""
        kept: set[int] = set()
        for line in required:
            index = line
            while index >= 0 and index not in kept:
                kept.add(index)
                index = parents[index]
        gaps = sum([index - 1 not in kept for index in kept])
        return sum([spans[index][1] - spans[index][0] + 1 for index in kept]) + gaps * self.weights.marker_cost

    def _compute_min_target(self, total: int) -> int:
        """Return the number of tokens kept of `total` at any target: most of a short diff, little of a long one."""
        size = self.weights.short_diff_tokens
        return int(size * (total / size) ** self.weights.min_size_power) if total > size else total

    def _iter_asked_changes(self, task: Task, diff: "_DiffLines") -> Iterator[int]:
        """Yield the changed lines, except very long ones, of the few commits whose message matches the question."""
        weights, spans = self.weights, diff.spans
        headers = list(diff.message_ends)
        messages = [(spans[header][0], spans[after - 1][1]) for header, after in diff.message_ends.items()]
        matches = score_question(task.text, messages, task.question, weights)
        limit = weights.min_asked_share * max(matches, default=0.0)
        asked = [commit for commit, match in enumerate(matches) if match and match >= limit]
        if not 0 < len(asked) <= weights.max_asked_share * len(headers):
            return
        bounds = [*headers, len(spans)]
        for index in (index for commit in asked for index in range(bounds[commit], bounds[commit + 1])):
            start, end = spans[index]
            if diff.is_changed[index] and end - start <= weights.max_asked_characters:
                yield index

    def _score_changes(self, diff: "_DiffLines") -> list[float]:
        """Score the lines of a diff with more changes than fit."""
        weights, text = self.weights, diff.text
        scores = [0.0] * len(diff.spans)
        line_occurrences: Counter[str] = Counter()
        hunk_changes: Counter[int] = Counter()
        file_changes = 0
        for index, (start, end) in enumerate(diff.spans):
            line, hunk = text[start:end], diff.parents[index]
            if diff.is_changed[index]:
                line_occurrences[line] += 1
                hunk_changes[hunk] += 1
                file_changes += 1
                score = weights.changed_bonus / line_occurrences[line] + weights.first_change_bonus / hunk_changes[hunk]
                score += weights.file_rank_bonus / sqrt(file_changes)
                is_wordless = _WORD.search(line) is None
                if diff.is_piece(index):  # has no changed line beside it
                    score += weights.adjacent_weight
                else:
                    score -= weights.length_penalty * min(1.0, (end - start) / 100)
                scores[index] = score - weights.wordless_penalty * is_wordless
            elif _FILE_HEADER.match(line):
                file_changes = 0
            elif match := _STATISTICS.match(line):
                scores[index] = weights.file_list_score if match[1] else weights.title_score
        for index in diff.file_indices:
            scores[index] = weights.file_score
        for index in diff.title_indices:
            scores[index] = weights.title_score
        return scores


@dataclass(slots=True)
class _DiffLines:
    """Per line: its header (or -1), whether it changed, whether its file is generated, whether its header repeats it.

    `title_indices`: the headers and subjects of commits. `file_indices`: the headers of files. `partners`: the added
    line of each removed one at the same place of its change, and the other way round. The parent of a piece of a long
    line is its first piece. `message_ends`: the line after the message of each commit, by the commit's header.
    """

    text: str
    spans: Sequence[Span]
    parents: list[int] = field(default_factory=list[int])
    is_changed: list[bool] = field(default_factory=list[bool])
    is_generated: list[bool] = field(default_factory=list[bool])
    is_redundant: list[bool] = field(default_factory=list[bool])
    title_indices: list[int] = field(default_factory=list[int])
    file_indices: list[int] = field(default_factory=list[int])
    partners: dict[int, int] = field(default_factory=dict[int, int])
    message_ends: dict[int, int] = field(default_factory=dict[int, int])
    _pieces: list[bool] = field(default_factory=list[bool])

    def __post_init__(self) -> None:
        """Classify all lines in one pass."""
        self._pieces = lines.find_pieces(self.text, self.spans)
        file = hunk = commit = -1
        in_generated_file = awaits_subject = False
        subject = " "
        for index, (start, end) in enumerate(self.spans):
            if self.is_piece(index):
                self._add_piece(index)
                continue
            line = self.text[start : min(end, start + MAX_LINE_CHARACTERS)]
            is_header = True
            if _FILE_HEADER.match(line):
                self.file_indices.append(index)
                file, hunk, in_generated_file = index, -1, _GENERATED_FILE.search(line) is not None
                parent = commit
            elif line.startswith("@@ "):
                hunk, parent = index, file
            elif line[0] not in " +-\\" and _COMMIT_HEADER.match(line):
                file = hunk = parent = -1
                commit, in_generated_file, awaits_subject = index, False, True
                subject = next((after for before, after in _SUBJECT_OPENINGS.items() if line.startswith(before)), " ")
                self.title_indices.append(index)
            else:
                is_header = False
                parent = hunk if hunk >= 0 else file if file >= 0 else commit
                if awaits_subject and line.startswith(subject):
                    self.title_indices.append(index)
                    awaits_subject = False
            is_redundant = not is_header and hunk < 0 <= file and _REDUNDANT_HEADER.match(line) is not None
            is_file_change = not is_redundant and _FILE_CHANGE.match(line) is not None
            self.parents.append(parent)
            if commit >= 0 > file:
                self.message_ends[commit] = index + 1
            self.is_redundant.append(is_redundant)
            is_changed = line[0] in "+-" or _WORD_CHANGE.search(line) is not None if hunk >= 0 else is_file_change
            self.is_changed.append(not is_header and is_changed)
            self.is_generated.append(in_generated_file and not is_header)
        self._pair_changes()

    def _add_piece(self, index: int) -> None:
        """Add a piece of a long line, which is of the same kind as the piece before."""
        before = index - 1
        self.parents.append(self.parents[before] if self.is_piece(before) else before)
        self.is_changed.append(self.is_changed[before])
        self.is_generated.append(self.is_generated[before])
        self.is_redundant.append(self.is_redundant[before])

    def _pair_changes(self) -> None:
        """Pair the removed lines of each change with the added ones, in order."""
        whole = [index for index in range(len(self.spans)) if not self.is_piece(index)]
        changes = [index if self.is_changed[index] else -1 for index in whole]
        for removed, added in _pair_lines(self.text, [self.spans[index] for index in whole]):
            first, second = changes[removed], changes[added]
            if first >= 0 and second >= 0:
                self.partners[first], self.partners[second] = second, first
                self._compare_pieces(first, second)

    def is_piece(self, index: int) -> bool:
        """Return True if the span continues the line of the one before."""
        return self._pieces[index]

    def _compare_pieces(self, removed: int, added: int) -> None:
        """Mark the pieces of two long lines that do not differ as unchanged."""
        both = [self._list_pieces(first) for first in (removed, added)]
        if len(both[0]) == len(both[1]) == 1:
            return
        ends = [(self.spans[pieces[0]][0], self.spans[pieces[-1]][1]) for pieces in both]
        for pieces, (first, last) in zip(both, _find_difference(self.text, *ends), strict=True):
            for index in pieces:
                start, end = self.spans[index]
                self.is_changed[index] = start <= last and end >= first
        changes = [[index for index in pieces if self.is_changed[index]] for pieces in both]
        for old, new in zip(*changes, strict=False):
            self.partners[old], self.partners[new] = new, old

    def _list_pieces(self, first: int) -> range:
        after = first + 1
        while after < len(self.spans) and self.is_piece(after):
            after += 1
        return range(first, after)


def _find_difference(text: str, removed: Span, added: Span) -> tuple[Span, Span]:
    """Return the part of a removed line, and of the added one, between their common beginning and end."""
    old, new = text[removed[0] + 1 : removed[1]], text[added[0] + 1 : added[1]]
    prefix = _count_common(old, new)
    suffix = _count_common(old[prefix:][::-1], new[prefix:][::-1])
    return (removed[0] + 1 + prefix, removed[1] - suffix), (added[0] + 1 + prefix, added[1] - suffix)


def _count_common(first: str, second: str) -> int:
    """Return the number of characters at the start of both texts."""
    low, high = 0, min(len(first), len(second))
    while low < high:
        middle = (low + high + 1) // 2
        if first[low:middle] == second[low:middle]:
            low = middle
        else:
            high = middle - 1
    return low


def _find_spans(text: str) -> list[Span]:
    """Return the non-blank lines; cut a long changed line into its head and around what differs."""
    pieces = lines.find_line_spans(text)
    starts = [index for index, is_piece in enumerate(lines.find_pieces(text, pieces)) if not is_piece]
    if len(starts) == len(pieces):
        return pieces
    bounds = list(pairwise([*starts, len(pieces)]))
    whole = [(pieces[first][0], pieces[after - 1][1]) for first, after in bounds]
    cuts: dict[int, list[Span]] = {}
    for removed, added in _pair_lines(text, whole):
        if bounds[removed][1] - bounds[removed][0] > 1 and bounds[added][1] - bounds[added][0] > 1:
            differences = _find_difference(text, whole[removed], whole[added])
            for line, difference in zip((removed, added), differences, strict=True):
                cuts[line] = list(_cut_line(whole[line], difference))
    return [span for line, (first, after) in enumerate(bounds) for span in cuts.get(line) or pieces[first:after]]


def _pair_lines(text: str, spans: Sequence[Span]) -> Iterator[tuple[int, int]]:
    """Yield the indices of the removed lines of each change with those of the added ones, in order."""
    removed: list[int] = []
    added: list[int] = []
    for index, sign in enumerate([*[text[start] for start, _ in spans], ""]):
        if sign == "-" and not added:
            removed.append(index)
        elif sign == "+":
            added.append(index)
        else:
            yield from zip(removed, added, strict=False)
            removed, added = [index] if sign == "-" else [], []


def _cut_line(line: Span, difference: Span) -> Iterator[Span]:
    """Cut a line into its head, the text around the difference in short pieces, and what lies between."""
    head = min(line[0] + HEAD_CHARACTERS, difference[0])
    first, last = max(head, difference[0] - MARGIN_CHARACTERS), min(line[1], difference[1] + MARGIN_CHARACTERS)
    cuts = [line[0], head, *range(first, last, lines.PIECE_CHARACTERS), last, line[1]]
    yield from ((start, end) for start, end in pairwise(cuts) if start < end)
