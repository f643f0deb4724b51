"""The catch-all compressor: any text as lines, selected by the question, rarity, severity and structure.

It accepts every text, including binary data and single lines of megabytes, and folds repeated lines. A kept line brings
the lines that it belongs to (see `core.records`), and a short record is kept whole.
"""

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import log

from ..compressor import CompressedPassage, Task
from .core import bm25, lines, records, severity
from .core.base_weights import weight
from .core.bm25 import Span
from .core.lines import LineWeights
from .core.records import Structure
from .core.scoring import boost_ends, normalize_scores, smooth_scores
from .core.selection import Units, compress_units

CHARACTERS_PER_TOKEN = 4

_FIRST_WORD = re.compile(r"\W*([^\W\d]*)")
_COUNTER = re.compile(
    r"\b(?:exit[ _-]?(?:code|status)|restart(?:s|[ _]?count)|errors?|fail(?:ed|ures?)|unreachable|rejected|killed)"
    r"[\"']?\s{0,20}[:=]\s{0,20}[\"']?(\d+)\b",
    re.IGNORECASE,
)


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
    section_severity: float = weight(0.5, "part of the worst severity below its parent that a line gains", "factor")
    whole_record_share: float = weight(0.12, "length of a record kept whole, at most", "share of target")
    max_whole_characters: int = weight(600, "length of a record kept whole, at most", "characters")
    min_whole_characters: int = weight(100, "length of a record that is always kept whole", "characters")


DEFAULT_PLAIN_TEXT_WEIGHTS = PlainTextWeights()


class PlainTextCompressor:
    """Compresses any text; the last compressor of the registry."""

    name = "lines"

    def __init__(self, weights: PlainTextWeights = DEFAULT_PLAIN_TEXT_WEIGHTS) -> None:
        self.weights = weights

    def recognises(self, text: str) -> bool:  # noqa: ARG002  accepts any text
        """Return True for every text."""
        return True

    def compress(self, task: Task) -> CompressedPassage | None:
        """Keep verdicts and errors, matches of the question, rare lines, and both ends."""
        weights, text = self.weights, task.text
        spans = lines.find_line_spans(text)
        if not spans:
            return None
        structure = records.find_structure(text, spans)
        templates = extract_line_templates(text, spans)
        grades = grade_counters(text, spans, severity.grade_lines(text, spans))
        scores = self._score_lines(task, spans, structure, templates, grades)
        verdicts = lines.select_verdicts(text, spans, grades, weights)
        share = int(weights.whole_record_share * task.target * CHARACTERS_PER_TOKEN)
        limit = max(weights.min_whole_characters, min(weights.max_whole_characters, share))
        firsts = records.group_lines(structure, spans, limit)
        bounds = list(pairwise([*firsts, len(spans)]))
        owners = [unit for unit, (first, after) in enumerate(bounds) for _ in range(first, after)]
        units = Units(
            text,
            [(spans[first][0], spans[after - 1][1]) for first, after in bounds],
            [max(scores[first:after]) for first, after in bounds],
            "lines",
            weights,
            sizes=[after - first for first, after in bounds],
            parents=[owners[structure.parents[first]] if structure.parents[first] >= 0 else -1 for first in firsts],
            partners={
                owners[first]: owners[line]
                for first, line in structure.identities.items()
                if owners[first] != owners[line]
            },
            required=sorted({owners[index] for index in verdicts}),
            templates=["\n".join(templates[first:after]) for first, after in bounds],
        )
        return compress_units(task, units)

    def _score_lines(
        self,
        task: Task,
        spans: Sequence[Span],
        structure: Structure,
        templates: Sequence[str],
        grades: Sequence[int],
    ) -> list[float]:
        weights = self.weights
        matches = self._match_question(task, spans, structure)
        frequencies = Counter(templates)
        occurrences: Counter[str] = Counter()
        scores: list[float] = []
        severities: list[float] = []
        for index, template in enumerate(templates):
            occurrences[template] += 1
            novelty = 1.0 / occurrences[template]
            rarity = weights.rarity_weight / (1.0 + log(frequencies[template]))
            severities.append(weights.severity_scores[grades[index]] * novelty)
            scores.append(matches[index] * (0.5 + 0.5 * novelty) + rarity * novelty + severities[index])
        for index, bonus in enumerate(spread_severity(structure, severities, weights.section_severity)):
            scores[index] += bonus
        for index in find_odd_openings(task.text, spans, weights):
            scores[index] += weights.odd_opening_bonus
        boost_ends(scores, weights.edge_bonus)
        for index, is_closer in enumerate(structure.closers):
            if is_closer:
                scores[index] = 0.0
        return scores

    def _match_question(self, task: Task, spans: Sequence[Span], structure: Structure) -> list[float]:
        """Score lines by their own words, the words of their record, and the line that they belong to."""
        weights = self.weights
        query = bm25.parse_query(task.question, weights)
        counts = bm25.count_terms(task.text, spans, query)
        own = normalize_scores(bm25.score_counts(spans, counts, query))
        scores = smooth_scores(own, weights.neighbour_weight)
        if not any(parent >= 0 for parent in structure.parents):
            return scores
        openers = records.find_records(structure)
        order = {opener: record for record, opener in enumerate(dict.fromkeys(openers))}
        owners = [order[opener] for opener in openers]
        record_spans = [(spans[opener][0], spans[structure.ends[opener] - 1][1]) for opener in order]
        merged = bm25.merge_counts(counts, owners)
        record_scores = normalize_scores(bm25.score_counts(record_spans, merged, query))
        inherited = [0.0] * len(spans)
        for index, parent in enumerate(structure.parents):
            if parent >= 0:
                inherited[index] = weights.parent_weight * max(own[parent], inherited[parent])
        return [
            score * (0.5 + 0.5 * record_scores[owner]) + weights.record_weight * record_scores[owner] + gain
            for score, owner, gain in zip(scores, owners, inherited, strict=True)
        ]


def extract_line_templates(text: str, spans: Sequence[Span]) -> list[str]:
    """Return the template of each line; a lone zero is not like other numbers."""
    return [
        template + "\0" if text[end - 1] == "0" and text[end - 2 : end - 1] in " =:\t" else template
        for template, (_, end) in zip(lines.extract_templates(text, spans), spans, strict=True)
    ]


def grade_counters(text: str, spans: Sequence[Span], grades: Sequence[int]) -> list[int]:
    """Correct the grades of lines with counters of failures: `Exit Code: 137` is an error, `failed=0` is none."""
    corrected = list(grades)
    for index, line_counts in _find_counters(text, spans).items():
        if any(line_counts):
            corrected[index] = max(corrected[index], severity.ERROR)
        elif corrected[index] == severity.ERROR:
            corrected[index] = 0
    return corrected


def _find_counters(text: str, spans: Sequence[Span]) -> dict[int, list[int]]:
    """Return the numbers of the counters in each line that has any."""
    counters: dict[int, list[int]] = {}
    index = 0
    for match in _COUNTER.finditer(text):
        while index < len(spans) and spans[index][1] <= match.start():
            index += 1
        if index < len(spans) and spans[index][0] <= match.start():
            counters.setdefault(index, []).append(any(digit != "0" for digit in match[1]))
    return counters


def spread_severity(structure: Structure, severities: Sequence[float], share: float) -> list[float]:
    """Return for each line a share of the worst severity below its parent, and less from farther up."""
    parents = structure.parents
    worst = list(severities)
    for index in range(len(parents) - 1, -1, -1):
        if parents[index] >= 0:
            worst[parents[index]] = max(worst[parents[index]], worst[index])
    bonuses = [0.0] * len(parents)
    for index, parent in enumerate(parents):
        if parent >= 0:
            bonuses[index] = share * max(worst[parent], bonuses[parent])
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
