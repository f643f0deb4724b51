"""Logs: entries with a time or a level in front, each with the lines that continue it (stack traces and the like).

Entries of one template are shown once or a few times and folded; rare templates, errors with what stands around them,
entries that the question is about and both ends stay. An entry with a long stack trace is known by what that says
happened, and shrinks to this and to where it broke; no other entry is cut.
"""

from collections import Counter
from collections.abc import Sequence
from math import log
from typing import TypeVar

from ..compressor import CompressedPassage, Task
from . import lines, log_entries, stack_traces
from .core import bm25, severity
from .core.selection import Units, compress_units
from .log_entries import LogEntries

SAMPLE_CHARACTERS = 20_000  # characters looked at at the beginning and in the middle
MIN_LINES = 3  # lines by which a text can be judged
MIN_ENTRY_SHARE = 0.5  # of these lines must begin like entries
MIN_DOUBTFUL_SHARE = 0.05  # of them begin like entries where it is worth seeing whether the others are stack traces
NEIGHBOUR_WEIGHT = 0.2
RARITY_WEIGHT = 0.5
SEVERITY_SCORES = (0.0, 0.1, 0.4, 0.4)  # by grade

Number = TypeVar("Number", int, float)


class LogCompressor:
    """Compresses logs."""

    name = "log"

    def recognises(self, text: str) -> bool:
        """Recognise text in which most lines begin with a time or a level, at the beginning and in the middle."""
        middle = max(0, len(text) // 2 - SAMPLE_CHARACTERS // 2)
        return (
            _compute_entry_share(text[:SAMPLE_CHARACTERS]) >= MIN_ENTRY_SHARE
            and (
                len(text) <= SAMPLE_CHARACTERS
                or _compute_entry_share(text[middle : middle + SAMPLE_CHARACTERS]) >= MIN_ENTRY_SHARE
            )
            and not severity.is_test_run(text)  # begins lines with ERROR as well
        )

    def compress(self, task: Task) -> CompressedPassage | None:
        """Choose entries and fold what looks alike."""
        read = log_entries.parse_entries(task.text)
        kinds = log_entries.extract_entry_templates(task.text, read)
        scores = _score_entries(task, read, kinds)
        if not read.has_cut_entries:
            return compress_units(
                task, Units(task.text, read.spans, scores, "lines", sizes=read.sizes, templates=kinds)
            )
        owners = [at for at, (first, after) in enumerate(read.bounds()) for _ in range(first, after)]
        units = Units(
            task.text,
            read.spans,
            [scores[owner] * share for owner, share in zip(owners, read.shares, strict=True)],
            "lines",
            sizes=read.sizes,
            parents=[
                -1 if at == read.first_pieces[owner] else read.first_pieces[owner] for at, owner in enumerate(owners)
            ],
            templates=[
                (kinds[owner], share == log_entries.MESSAGE_SHARE)
                for owner, share in zip(owners, read.shares, strict=True)
            ],
        )
        return compress_units(task, units)


def _score_entries(task: Task, read: LogEntries, kinds: Sequence[str]) -> list[float]:
    """Score each entry by the question, by what it reports, and by how many look like it."""
    own = lines.normalize_scores(bm25.score_spans(task.text, read.spans, bm25.parse_query(task.question)))
    asked = lines.smooth_scores(_take_best_pieces(own, read), NEIGHBOUR_WEIGHT)
    grades = _take_best_pieces(severity.grade_lines(task.text, read.spans), read)
    often = Counter(kinds)
    reported = lines.smooth_scores(
        [SEVERITY_SCORES[grade] / (1.0 + log(often[kind])) for grade, kind in zip(grades, kinds, strict=True)],
        NEIGHBOUR_WEIGHT,
    )
    seen: Counter[str] = Counter()
    scores: list[float] = []
    for index, kind in enumerate(kinds):
        seen[kind] += 1
        unseen = (RARITY_WEIGHT / (1.0 + log(often[kind])) + reported[index]) / seen[kind]
        scores.append(asked[index] + unseen)
    lines.boost_ends(scores)
    return scores


def _take_best_pieces(values: Sequence[Number], read: LogEntries) -> Sequence[Number]:
    """Return the best value of each entry's pieces."""
    return [max(values[first:after]) for first, after in read.bounds()] if read.has_cut_entries else values


def _compute_entry_share(sample: str) -> float:
    """Return the share of entries among the lines that are not indented and belong to no stack trace."""
    begun = [line for line in sample.split("\n")[:-1] or [sample] if line and not line[0].isspace()]
    if len(begun) < MIN_LINES:
        return 0.0
    hits = sum(map(log_entries.is_entry_start, begun))
    doubtful = MIN_DOUBTFUL_SHARE * len(begun) <= hits < MIN_ENTRY_SHARE * len(begun)
    if doubtful and sum(map(log_entries.has_timestamp, begun)) >= MIN_LINES:
        return hits / (len(begun) - _count_trace_lines(sample))
    return hits / len(begun)


def _count_trace_lines(sample: str) -> int:
    """Count the lines that belong to stack traces, are not indented, and do not begin like entries."""
    cut = stack_traces.group_frames(sample, lines.find_line_spans(sample))
    own = [sample[slice(*cut.spans[at])] for at in stack_traces.find_trace_lines(cut)]
    return sum(not line[0].isspace() and not log_entries.is_entry_start(line) for line in own)
