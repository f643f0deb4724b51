"""The catch-all compressor: any text as lines, selected by the question, rarity, severity and structure.

It accepts every text, including binary data and single lines of megabytes, and folds repeated lines. A kept line brings
the lines that it belongs to (see `core.records`), and a short record is kept whole.
"""

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

from ..compressor import CompressedPassage, Task
from . import table_parser
from .core import (
    answer_types,
    bm25,
    diagnosis,
    line_keys,
    line_values,
    lines,
    query_plans,
    record_starts,
    records,
    scoring,
    severity,
    thinning,
    wording,
)
from .core.base_weights import weight
from .core.bm25 import Span
from .core.lines import LineWeights
from .core.records import Structure
from .core.selection import Units, compress_units
from .table_parser import ColumnBlock
from .tables import iter_row_bonuses

CHARACTERS_PER_TOKEN = 4
MAX_SECTION_LINES = 60  # of a section whose severity all of its lines gain; less if it is longer
MAX_NAMED_LINES = 20  # that are read whatever their pieces are worth
ALIKE_CHARACTERS = 4  # titles that begin with the same characters are records rather than sections

_FIRST_WORD = re.compile(r"\W*([^\W\d]*)")


@dataclass(frozen=True, slots=True)
class PlainTextWeights(LineWeights):
    """Weights of plain text."""

    neighbour_weight: float = weight(0.35, "part of its neighbour's score that a line gains", "factor")
    odd_opening_bonus: float = weight(0.4, "a line with a rare first word")
    min_compared_lines: int = weight(40, "length of a text with odd openings", "lines")
    common_opening_share: float = weight(0.02, "lines that make a first word common", "share of lines")
    odd_opening_share: float = weight(0.005, "lines that make a first word rare", "share of lines")
    min_common_share: float = weight(0.9, "lines with common first words in a text with odd openings", "share of lines")
    record_weight: float = weight(0.6, "part of its record's score that a line gains", "factor")
    parent_weight: float = weight(0.5, "part of the score of the line it belongs to that a line gains", "factor")
    outline_bonus: float = weight(0.3, "a line that others belong to; divided by its depth", "score")
    diagnosis_factors: tuple[float, float] = weight(
        (0.7, 2.0), "matches, and severity, if the question asks what is wrong", "factors"
    )
    answer_type_bonus: float = weight(0.4, "match of the expected answer type")
    tail_bonuses: tuple[float, ...] = weight((0.5, 0.4, 0.3, 0.2), "the last lines, from the last one")
    outline_share: float = weight(0.5, "top lines that others belong to, kept if shorter", "share of target")
    max_outline_lines: int = weight(12, "the same", "lines")
    far_number_bonus: float = weight(0.4, "a number far from those of the look-alikes")
    odd_wording_bonus: float = weight(0.8, "a line worded unlike most of a formulaic text")
    odd_value_bonus: float = weight(0.4, "a value unlike those of the same key, or a missing one")
    max_statuses: int = weight(8, "statuses of HTTP responses that are always kept", "lines")
    slow_step_bonus: float = weight(1.0, "a slow step of a query plan, and more by its share of the time")
    asked_bonus: float = weight(1.0, "a field with the greatest or the least value, if asked for")
    named_bonus: float = weight(1.0, "one of a few lines that begin with a word of the question")
    named_record_bonus: float = weight(1.0, "a line below such a line")
    remedy_bonus: float = weight(1.0, "a remedy, or a setting related to the failure, if something is wrong")
    boilerplate_factor: float = weight(0.3, "a digest, or where a log is, if the question asks what is wrong", "factor")
    hint_factor: float = weight(0.3, "a line in brackets, or a hint", "factor")
    section_severity: float = weight(0.7, "part of a severity in a section that lines outside of it gain", "factor")
    whole_record_share: float = weight(0.12, "length of a record kept whole, at most", "share of target")
    max_whole_characters: int = weight(600, "length of a record kept whole, at most", "characters")
    min_whole_characters: int = weight(100, "length of a record that is always kept whole", "characters")


DEFAULT_PLAIN_TEXT_WEIGHTS = PlainTextWeights()


class _Lines(NamedTuple):
    """The lines of a task's text, their structure, their templates and grades, and the columns among them."""

    task: Task
    spans: Sequence[Span]
    structure: Structure
    templates: Sequence[str]
    grades: Sequence[int]
    blocks: Sequence[ColumnBlock]


@dataclass(frozen=True)
class PlainTextCompressor:
    """Compresses any text; the last compressor of the registry."""

    name = "lines"
    weights: PlainTextWeights = DEFAULT_PLAIN_TEXT_WEIGHTS

    def recognises(self, text: str) -> bool:  # noqa: ARG002  accepts any text
        """Return True for every text."""
        return True

    def compress(self, task: Task) -> CompressedPassage | None:
        """Keep verdicts and errors, matches of the question, rare lines, and both ends."""
        weights, task = self.weights, _thin(task)
        text = task.text
        spans = lines.find_line_spans(text)
        if not spans:
            return None
        structure = records.find_structure(text, spans)
        templates = extract_line_templates(text, spans)
        grades = severity.grade_counters(text, spans, severity.grade_lines(text, spans))
        blocks = list(table_parser.find_blocks(text, spans))
        scores = self._score_lines(_Lines(task, spans, structure, templates, grades, blocks))
        verdicts = lines.select_verdicts(text, spans, grades, weights)
        steps = query_plans.find_steps(text, spans)  # their times make sense without the steps above
        statuses = line_values.find_status_lines(text, spans)
        share = int(weights.whole_record_share * task.target * CHARACTERS_PER_TOKEN)
        limit = max(weights.min_whole_characters, min(weights.max_whole_characters, share))
        firsts = lines.join_wrapped(text, spans, records.group_lines(structure, spans, limit), limit)
        bounds = list(pairwise([*firsts, len(spans)]))
        owners = [unit for unit, (first, after) in enumerate(bounds) for _ in range(first, after)]
        outline = self._list_outline(task, spans, structure, owners)
        unit_templates = ["\n".join(templates[first:after]).replace("\0", "") for first, after in bounds]
        shapes = line_values.find_shapes(templates)
        units = Units(
            text,
            [(spans[first][0], spans[after - 1][1]) for first, after in bounds],
            [max(scores[first:after]) for first, after in bounds],
            "pieces" if lines.has_pieces(text, spans) else "lines",
            weights,
            sizes=[after - first for first, after in bounds],
            parents=[
                owners[structure.parents[first]] if structure.parents[first] >= 0 and first not in steps else -1
                for first in firsts
            ],
            partners={
                owners[first]: owners[line]
                for first, line in (
                    *((row, block.header) for block in blocks for row in block.rows),
                    *line_values.find_key_elements(text, spans),
                    *structure.identities.items(),
                )
                if owners[first] != owners[line]
            },
            required=sorted({owners[index] for index in (*verdicts, *outline, *statuses[: weights.max_statuses])}),
            templates=unit_templates,
            matches=[
                (shapes[first] if after == first + 1 else None) or template
                for (first, after), template in zip(bounds, unit_templates, strict=True)
            ],
        )
        return compress_units(task, units)

    def _list_outline(
        self, task: Task, spans: Sequence[Span], structure: Structure, owners: Sequence[int]
    ) -> list[int]:
        """Return the top lines that others belong to, if they are few, short and different, and nothing is wrong."""
        if diagnosis.asks_what_is_wrong(task.question):
            return []
        outline = [
            line
            for line, parent in enumerate(structure.parents)
            if parent < 0 and structure.ends[line] > line + 1 and line_keys.is_title(task.text, spans[line])
        ]
        ends = [structure.ends[line] if owners[line] == owners[line + 1] else line + 1 for line in outline]
        size = sum(spans[end - 1][1] - spans[line][0] for line, end in zip(outline, ends, strict=True))
        limit = self.weights.outline_share * task.target * CHARACTERS_PER_TOKEN
        openings = {task.text[spans[line][0] : spans[line][0] + ALIKE_CHARACTERS] for line in outline}
        are_alike = 2 * len(openings) <= len(outline)
        return outline if len(outline) <= self.weights.max_outline_lines and size <= limit and not are_alike else []

    def _score_lines(self, known: _Lines) -> list[float]:
        weights, (task, spans, structure, templates, grades, blocks) = self.weights, known
        is_diagnosis = diagnosis.asks_what_is_wrong(task.question)
        match_factor, severity_factor = weights.diagnosis_factors if is_diagnosis else (1.0, 1.0)
        matches = self._match_question(known)
        common = {grade for grade, count in Counter(grades).items() if 2 * count > len(spans)}
        reported = [
            0.0 if grade in common else severity_factor * score for grade, score in enumerate(weights.severity_scores)
        ]
        occurrences = scoring.number_occurrences(templates)
        severities = [reported[grade] / occurrence for grade, occurrence in zip(grades, occurrences, strict=True)]
        scores = [
            match_factor * match + weights.rarity_weight / frequency / occurrence + severity_score
            for match, frequency, occurrence, severity_score in zip(
                matches, scoring.measure_frequencies(templates), occurrences, severities, strict=True
            )
        ]
        for index, bonus in enumerate(spread_severity(structure, severities, weights.section_severity)):
            scores[index] += bonus
        self._add_bonuses(known, scores)
        for index, bonus in iter_row_bonuses(task.question, blocks):
            scores[index] += bonus
        return scores

    def _add_bonuses(self, known: _Lines, scores: list[float]) -> None:
        """Raise titles, both ends, odd openings and expected answers in place; lower lines of little worth."""
        weights, task, spans, structure, templates = self.weights, *known[:4]
        frequencies = Counter(templates)
        depths = records.measure_depths(structure)
        titles = [
            index
            for index, end in enumerate(structure.ends)
            if end > index + 1 and line_keys.is_title(task.text, spans[index])
        ]
        siblings = Counter(structure.parents[index] for index in titles)
        for index in titles:
            share = min(1.0, weights.max_outline_lines / siblings[structure.parents[index]])
            scores[index] += weights.outline_bonus * share / (1 + depths[index]) / frequencies[templates[index]]
        query = bm25.parse_query(task.question, weights)
        asked = bm25.parse_query(answer_types.extract_last_question(task.question), weights)
        named = set(line_values.find_named_lines(task.text, spans, asked))  # a call may name many more
        named.update(line_values.find_named_titles(task.text, spans, titles, asked))
        below = records.list_named_members(structure, task.text, spans, named)
        remedies: list[int] = []
        if diagnosis.asks_what_is_wrong(task.question):
            remedies += diagnosis.find_remedies(task.text, spans)
            remedies += diagnosis.find_related_settings(task.text, spans)
        negated = answer_types.list_negated_words(task.question)
        odd_values, empty_values, other_values = line_values.find_odd_values(task.text, spans, negated)
        asks_for_empty = answer_types.EMPTY.search(task.question) is not None
        for indices, bonus in (
            (odd_values, weights.odd_value_bonus),
            (other_values, weights.asked_bonus),
            (empty_values, weights.asked_bonus if asks_for_empty else weights.odd_value_bonus),
            (remedies, weights.remedy_bonus),
            (named or line_values.find_named_lines(task.text, spans, query), weights.named_bonus),
            (below, weights.named_record_bonus),
            (line_values.find_far_numbers(task.text, spans, templates), weights.far_number_bonus),
            (find_odd_openings(task.text, spans, weights), weights.odd_opening_bonus),
            (wording.find_odd_wordings(templates), weights.odd_wording_bonus),
        ):
            for index in indices:
                scores[index] += bonus
        for index, share in line_values.find_asked_values(task.text, spans, task.question, query).items():
            scores[index] += weights.asked_bonus * share
        steps = query_plans.find_steps(task.text, spans)
        for index, share in query_plans.score_steps(task.text, spans, structure.parents, steps):
            scores[index] += weights.slow_step_bonus * (1.0 + share)
        scoring.boost_ends(scores, weights.edge_bonus)
        scores[0] += weights.edge_bonus * line_keys.is_identity(task.text, spans[0])
        for position, bonus in enumerate(weights.tail_bonuses[: len(scores)], start=1):
            scores[-position] += bonus / (1 + depths[-position])
        for index, is_answer in enumerate(answer_types.match_answer_type(task.text, spans, task.question, scores)):
            scores[index] += weights.answer_type_bonus * is_answer
        self._lower_scores(task, spans, structure, scores)

    def _lower_scores(self, task: Task, spans: Sequence[Span], structure: Structure, scores: list[float]) -> None:
        """Lower, in place, the scores of rules, of hints in brackets and, if something is wrong, of digests."""
        for index in lines.find_hints(task.text, spans):
            scores[index] *= self.weights.hint_factor
        for index, is_closer in enumerate(structure.closers):
            if is_closer:
                scores[index] = 0.0
        if diagnosis.asks_what_is_wrong(task.question):
            for index in diagnosis.find_boilerplate(task.text, spans):
                scores[index] *= self.weights.boilerplate_factor

    def _match_question(self, known: _Lines) -> list[float]:
        """Score lines by their own words, the words of their record, and the line that they belong to.

        A line like an earlier one scores less, unless it is in another record that matches the question. The names of
        columns do not raise their rows.
        """
        weights, task, spans, structure = self.weights, *known[:3]
        query = scoring.parse_question(task.question, weights)
        counts = bm25.count_terms(task.text, spans, query)
        if not counts:
            return [0.0] * len(spans)
        own = scoring.normalize_scores(bm25.score_counts(spans, counts, query))
        scores = scoring.smooth_scores(own, weights.neighbour_weight)
        owners, record_scores = score_records(spans, structure, counts, query)
        for row in (row for block in known.blocks for row in block.rows):
            owners[row] = -1
        occurrences: Counter[str] = Counter()
        record_occurrences: Counter[tuple[str, int]] = Counter()
        inherited = [0.0] * len(spans)
        parent_weight, record_weight = weights.parent_weight, weights.record_weight
        for index, (parent, owner, template) in enumerate(zip(structure.parents, owners, known.templates, strict=True)):
            record_score = record_scores[owner] if owner >= 0 else 0.0
            if scores[index]:
                occurrences[template] += 1
                record_occurrences[template, owner] += 1
                novelty = (1.0 - record_score) / occurrences[template]
                novelty += record_score / record_occurrences[template, owner]
                scores[index] *= 0.5 + 0.5 * novelty
            if parent >= 0:
                above = own[parent] if own[parent] > inherited[parent] else inherited[parent]
                inherited[index] = parent_weight * above
            if owner >= 0:
                scores[index] = (
                    scores[index] * (0.5 + 0.5 * record_score) + record_weight * record_score + inherited[index]
                )
        return scores


def _thin(task: Task) -> Task:
    """Leave out most records of a long text, but none with a value that the question asks for, and no line above."""
    if not thinning.is_long(task):
        return task
    starts = record_starts.RecordStarts(task.text)
    if not starts.is_known:
        return task
    spans = lines.find_line_spans(task.text)
    lowered = severity.lower(task.text)
    asked = bm25.parse_query(answer_types.extract_last_question(task.question))
    rare = {term: 1.0 for term in asked.term_weights if 0 < lowered.count(term) <= MAX_NAMED_LINES}
    named = line_values.find_named_lines(task.text, spans, asked._replace(term_weights=rare)) if rare else []
    needed = [*starts.roots, *(spans[index][0] for index in named)]
    if answer_types.list_directions(task.question):
        query = bm25.parse_query(task.question)
        needed += [spans[i][0] for i in line_values.find_asked_values(task.text, spans, task.question, query)]
    return thinning.thin(task, starts.find_cut, needed)


def score_records(
    spans: Sequence[Span], structure: Structure, counts: bm25.TermCounts, query: bm25.Query
) -> tuple[list[int], list[float]]:
    """Return the record of each line, -1 for a record of one line, and the score of each record.

    The score is low if the words of the question are in most records.
    """
    openers = records.find_records(structure)
    ends = structure.ends
    order = {opener: record for record, opener in enumerate(dict.fromkeys(openers))}
    owners = [order[opener] for opener in openers]
    record_spans = [(spans[opener][0], spans[ends[opener] - 1][1]) for opener in order]
    merged = bm25.merge_counts(counts, owners)
    scores = scoring.score_matches(record_spans, merged, query)
    return [order[opener] if ends[opener] > opener + 1 else -1 for opener in openers], scores


def extract_line_templates(text: str, spans: Sequence[Span]) -> list[str]:
    """Return the template of each line; a lone zero is not like other numbers."""
    return [
        template + "\0" if text[end - 1] == "0" and text[end - 2 : end - 1] in " =:\t" else template
        for template, (_, end) in zip(lines.extract_templates(text, spans), spans, strict=True)
    ]


def spread_severity(structure: Structure, severities: Sequence[float], share: float) -> list[float]:
    """Return for each line a bonus for the worst severity in its section, and `share` of it per section further out."""
    parents = structure.parents
    worst = [0.0] * len(parents)  # below each line
    for index in range(len(parents) - 1, -1, -1):
        parent = parents[index]
        if parent >= 0:
            worst[parent] = max(worst[parent], severities[index], share * worst[index])
    bonuses = [0.0] * len(parents)
    for index, parent in enumerate(parents):
        if parent >= 0:
            nearness = min(1.0, MAX_SECTION_LINES / (structure.ends[parent] - parent))
            bonuses[index] = max(severities[parent], nearness * worst[parent], bonuses[parent])
    return bonuses


def find_odd_openings(text: str, spans: Sequence[Span], weights: PlainTextWeights) -> list[int]:
    """Return the indices of the lines with a rare first word, in a text with few first words overall."""
    total = len(spans)
    if total < weights.min_compared_lines:
        return []
    words = [
        match[1] if (match := _FIRST_WORD.match(text, start, min(end, start + 80))) else "" for start, end in spans
    ]
    counts = Counter(words)
    common = sum(count for count in counts.values() if count >= weights.common_opening_share * total)
    if common < weights.min_common_share * total:
        return []
    limit = max(1.0, weights.odd_opening_share * total)
    return [index for index, word in enumerate(words) if counts[word] <= limit]
