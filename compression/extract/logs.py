"""Logs: entries with a time or a level in front, each with the lines that continue it (stack traces and the like).

Entries of one template are shown once or a few times and folded; rare templates, errors with what stands around them,
entries that the question is about and both ends stay. An entry with a long stack trace is known by what that says
happened, and shrinks to this and to where it broke; no other entry is cut.
"""

from collections import Counter
from collections.abc import Sequence
from math import log
from typing import TypeVar

from ..compressor import Condensed, Task
from . import lines, log_entries, stack_traces
from .core import bm25, severity
from .core.selection import Units, shorten
from .log_entries import Entries

SAMPLE = 20_000  # characters looked at at the beginning and in the middle
FEWEST = 3  # lines by which a text can be judged
SHARE = 0.5  # of these lines must begin like entries
SOME = 0.05  # of them begin like entries where it is worth seeing whether the others are stack traces
NEAR = 0.2
RARE = 0.5
WORTH = (0.0, 0.1, 0.4, 0.4)  # by grade

N = TypeVar("N", int, float)


class Logs:
    """Compresses logs."""

    name = "log"

    def recognises(self, text: str) -> bool:
        """Recognise text in which most lines begin with a time or a level, at the beginning and in the middle."""
        middle = max(0, len(text) // 2 - SAMPLE // 2)
        return (
            _share(text[:SAMPLE]) >= SHARE
            and (len(text) <= SAMPLE or _share(text[middle : middle + SAMPLE]) >= SHARE)
            and not severity.is_test_run(text)  # begins lines with ERROR as well
        )

    def compress(self, task: Task) -> Condensed | None:
        """Choose entries and fold what looks alike."""
        read = log_entries.read(task.text)
        kinds = log_entries.kinds(task.text, read)
        scores = _scores(task, read, kinds)
        if not read.in_pieces:
            return shorten(task, Units(task.text, read.spans, scores, "lines", sizes=read.sizes, kinds=kinds))
        owners = [at for at, (first, after) in enumerate(read.bounds()) for _ in range(first, after)]
        units = Units(
            task.text,
            read.spans,
            [scores[owner] * share for owner, share in zip(owners, read.shares, strict=True)],
            "lines",
            sizes=read.sizes,
            parents=[-1 if at == read.firsts[owner] else read.firsts[owner] for at, owner in enumerate(owners)],
            kinds=[
                (kinds[owner], share == log_entries.WHOLE) for owner, share in zip(owners, read.shares, strict=True)
            ],
        )
        return shorten(task, units)


def _scores(task: Task, read: Entries, kinds: Sequence[str]) -> list[float]:
    """Score each entry by the question, by what it reports, and by how many look like it."""
    own = lines.normalised(bm25.score(task.text, read.spans, bm25.query(task.question)))
    asked = lines.smoothed(_best(own, read), NEAR)
    grades = _best(severity.grades(task.text, read.spans), read)
    often = Counter(kinds)
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
    return scores


def _best(values: Sequence[N], read: Entries) -> Sequence[N]:
    """Return the best value of each entry's pieces."""
    return [max(values[first:after]) for first, after in read.bounds()] if read.in_pieces else values


def _share(sample: str) -> float:
    """Return the share of entries among the lines that are not indented and belong to no stack trace."""
    begun = [line for line in sample.split("\n")[:-1] or [sample] if line and not line[0].isspace()]
    if len(begun) < FEWEST:
        return 0.0
    hits = sum(map(log_entries.begins, begun))
    doubtful = SOME * len(begun) <= hits < SHARE * len(begun)
    if doubtful and sum(map(log_entries.begins_with_time, begun)) >= FEWEST:
        return hits / (len(begun) - _traced(sample))
    return hits / len(begun)


def _traced(sample: str) -> int:
    """Count the lines that belong to stack traces, are not indented, and do not begin like entries."""
    cut = stack_traces.cut(sample, lines.spans(sample))
    own = [sample[slice(*cut.spans[at])] for at in stack_traces.around(cut)]
    return sum(not line[0].isspace() and not log_entries.begins(line) for line in own)
