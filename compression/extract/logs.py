"""Compresses logs: entries that begin with a time or a level, each with its continuation lines.

Entries of one template are shown once or a few times and folded. Rare templates, errors with their neighbours, entries
that match the question and both ends are kept. An entry with a long stack trace has its messages as its template, and
shrinks to the messages and the innermost frame; other entries are never cut.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

from ..compressor import CompressedPassage, Task
from . import log_entries
from .core import bm25, line_values, lines, severity, thinning
from .core.bm25 import Query
from .core.scoring import boost_ends, measure_frequencies, number_occurrences, score_matches, smooth_scores
from .core.selection import Units, compress_units
from .log_entries import LogEntries, LogWeights

_FILE_MODE = re.compile(r"^[-dlbcps][-rwxsStT]{9}[.+@]?\s", re.MULTILINE)
Number = TypeVar("Number", int, float)
_XML_DECLARATION = re.compile(r"\ufeff?\s{0,100}<\?xml ")
SAMPLE_CHARACTERS = 8_000  # that show the fields of a long log
DEFAULT_LOG_WEIGHTS = LogWeights()


@dataclass(frozen=True)
class LogCompressor:
    """Compresses logs."""

    name = "log"
    weights: LogWeights = DEFAULT_LOG_WEIGHTS

    def recognises(self, text: str) -> bool:
        """Return True if most lines at the start and in the middle begin with a time or a level."""
        size = self.weights.sample_characters
        middle = max(0, len(text) // 2 - size // 2)
        return (
            self._is_log(text[:size])
            and (len(text) <= size or self._is_log(text[middle : middle + size]))
            and not _XML_DECLARATION.match(text)
            and not _are_files(text[:size])
            and not severity.is_test_run(text)  # its lines may begin with ERROR, too
        )

    def _is_log(self, sample: str) -> bool:
        return log_entries.compute_entry_share(sample, self.weights) >= self.weights.min_entry_share

    def compress(self, task: Task) -> CompressedPassage | None:
        """Select entries and fold look-alikes."""
        weights = self.weights
        query = bm25.parse_query(task.question, weights)
        task = _thin(task, query)
        entries = log_entries.parse_entries(task.text, weights)
        templates = log_entries.extract_entry_templates(task.text, entries, weights)
        counts = bm25.count_terms(task.text, entries.spans, query)
        matches = score_matches(entries.spans, counts, query)
        scores = _score_entries(task, entries, templates, matches, query, weights)
        owners = [entry for entry, (first, after) in enumerate(entries.bounds()) for _ in range(first, after)]
        firsts = [entries.first_pieces[owner] for owner in owners]
        units = Units(
            task.text,
            entries.spans,
            [scores[owner] * share for owner, share in zip(owners, entries.shares, strict=True)],
            "lines",
            weights,
            sizes=entries.sizes,
            parents=[-1 if index == first else first for index, first in enumerate(firsts)],
            templates=[
                (templates[owner], is_message) for owner, is_message in zip(owners, entries.is_message, strict=True)
            ],
            matches=None
            if entries.has_cut_entries
            else [frozenset(counts.get(i, ())) or t for i, t in enumerate(templates)],
        )
        return compress_units(task, units)


def _thin(task: Task, query: Query) -> Task:
    """Leave out most entries of a long log, but none with a value that the question asks for."""
    needed: list[int] = []
    sample = task.text[:SAMPLE_CHARACTERS]
    if thinning.is_long(task) and line_values.has_asked_fields(
        sample, lines.find_line_spans(sample), task.question, query
    ):
        spans = lines.find_line_spans(task.text)
        needed = [spans[i][0] for i in line_values.find_asked_values(task.text, spans, task.question, query)]
    return thinning.thin(task, partial(log_entries.find_entry, task.text), needed)


def _are_files(sample: str) -> bool:
    """Return True if most lines begin with the mode of a file, as those of `tar -tv`."""
    return 2 * len(_FILE_MODE.findall(sample)) > sample.count("\n")


def _score_entries(
    task: Task,
    entries: LogEntries,
    templates: Sequence[str],
    matches: Sequence[float],
    query: Query,
    weights: LogWeights,
) -> list[float]:
    """Score each entry by the matches of its pieces, its severity, and the frequency of its template."""
    matches = smooth_scores(_take_best_pieces(matches, entries), weights.neighbour_weight)
    grades = _take_best_pieces(severity.grade_lines(task.text, entries.spans), entries)
    frequencies = measure_frequencies(templates)
    severities = smooth_scores(
        [weights.severity_scores[grade] / frequency for grade, frequency in zip(grades, frequencies, strict=True)],
        weights.neighbour_weight,
    )
    scores = [
        match + (weights.rarity_weight / frequency + severity_score) / occurrence
        for match, frequency, severity_score, occurrence in zip(
            matches, frequencies, severities, number_occurrences(templates), strict=True
        )
    ]
    boost_ends(scores, weights.edge_bonus)
    firsts = [entries.spans[first] for first in entries.first_pieces]
    for index in line_values.find_far_numbers(task.text, firsts, templates):
        scores[index] += weights.far_number_bonus
    for index, share in line_values.find_asked_values(task.text, firsts, task.question, query).items():
        scores[index] += weights.asked_bonus * share
    return scores


def _take_best_pieces(values: Sequence[Number], entries: LogEntries) -> Sequence[Number]:
    """Return the best value of each entry's pieces."""
    return [max(values[first:after]) for first, after in entries.bounds()] if entries.has_cut_entries else values
