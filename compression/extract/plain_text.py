"""The catch-all compressor: any text as lines, selected by the question, rarity and severity.

It accepts every text, including binary data and single lines of megabytes, and folds repeated lines.
"""

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from math import log

from ..compressor import CompressedPassage, Task
from .core import lines, severity
from .core.base_weights import weight
from .core.bm25 import Span
from .core.lines import LineWeights
from .core.scoring import boost_ends, score_question, smooth_scores
from .core.selection import Units, compress_units

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
        templates = lines.extract_templates(text, spans)
        frequencies = Counter(templates)
        grades = severity.grade_lines(text, spans)
        matches = smooth_scores(score_question(text, spans, task.question, weights), weights.neighbour_weight)
        rarity_weight, severity_scores = weights.rarity_weight, weights.severity_scores
        occurrences: Counter[str] = Counter()
        scores: list[float] = []
        for index, template in enumerate(templates):
            occurrences[template] += 1
            novelty = 1.0 / occurrences[template]
            rarity = rarity_weight / (1.0 + log(frequencies[template]))
            reported = severity_scores[grades[index]]
            scores.append(matches[index] * (0.5 + 0.5 * novelty) + rarity * novelty + reported * novelty)
        for index in find_odd_openings(text, spans, weights):
            scores[index] += weights.odd_opening_bonus
        boost_ends(scores, weights.edge_bonus)
        verdicts = lines.select_verdicts(text, spans, grades, weights)
        return compress_units(
            task, Units(text, spans, scores, "lines", weights, required=verdicts, templates=templates)
        )


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
