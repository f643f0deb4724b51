"""Compresses source code, whole or in part, with or without line numbers: lines under their enclosing headers.

Reads only the layout: a line belongs to the last line with less indentation. This works in every indented language, and
a selection always shows the class, function and branch of a line.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import log

from ..compressor import CompressedPassage, Task
from .core import bm25, lines, severity
from .core.base_weights import ExtractWeights, weight
from .core.bm25 import Query, Span, TermCounts
from .core.scoring import normalize_scores, smooth_scores
from .core.selection import Units, compress_units

MAX_LINE_CHARACTERS = 200  # of a line, to recognise code


@dataclass(frozen=True, slots=True)
class CodeWeights(ExtractWeights):
    """Weights of source code."""

    min_code_share: float = weight(0.45, "sampled lines that look like code", "share of lines")
    min_flush_share: float = weight(0.3, "statements in code without indentation", "share of lines")
    header_weight: float = weight(0.8, "part of its header's score that a line gains, at each level", "factor")
    paragraph_weight: float = weight(0.3, "part of its paragraph's score that a line gains", "factor")
    named_definition_factor: float = weight(1.5, "a definition, relative to a use of its name", "factor")
    definition_bonus: float = weight(0.12, "a definition")
    comment_penalty: float = weight(0.05, "a comment")
    warning_comment_bonus: float = weight(0.5, "an author's warning (FIXME, ...); divided by 1 + log(count)")
    raise_bonus: float = weight(0.4, "a line that raises an error; divided by the count")


DEFAULT_CODE_WEIGHTS = CodeWeights()

_LINE_NUMBER = re.compile(r"[ \t]{0,8}\d{1,7}(?:[\t:|→-]| {2})")
_DEFINITION = re.compile(
    r"(?:(?:export|default|public|private|protected|internal|static|final|abstract|async|override|unsafe|"
    r"pub(?:\([\w: ]{1,40}\))?|inline|virtual|extern|const|template<[^>]{0,80}>|@\w{1,40})\s+){0,6}"
    r"(?:def|class|func|fn|function|struct|enum|trait|impl|interface|module|namespace|type|record|object|mod|macro_rules!)\b"
    r"|(?:[\w:<>,*&\[\]]{1,80}\s+){1,5}\*?[\w:~]{1,80}\([^;]{0,300}\{?\s*$"
)
_LINE_START = re.compile(
    r"(?:def|class|import|from|return|if|elif|else|for|while|try|except|finally|with|raise|yield|assert|async|await|func|fn|"
    r"let|const|var|function|export|public|private|protected|static|struct|enum|impl|trait|use|pub|match|switch|case|break|"
    r"continue|throw|new|package|interface|namespace|template|typedef|end|do|begin|unless|elsif|require|module|self|"
    r"this|extern|using|goto|not|and|or|pass|lambda|print|@\w|#include|#define|#if|#endif|#pragma|"
    r"//|/\*|\*/?|#!|# |\"\"\"|'''|[}\])])"
)
_LINE_END = re.compile(r"(?:[{};,)\](:\[=\\]|=>|->|\|\||&&|\*/|\bdo|\bthen|\"\"\"|''')\s*$")
_EXPRESSION = re.compile(r"[\w\])]\s?(?:=|\+=|==|!=|:=|<<|->|=>|\|\|)\s?[\w\[({\"'-]|\w\([^)]{0,200}\)|\w\.\w+\(|::\w")
_ASSIGNMENT = re.compile(r"[\w.\[\]'\"]{1,60} ?(?::=|[-+*]?=) ?\S|\w[\w.]{0,60}\(")
_IMPORT = re.compile(
    r"(?:import|use|using|package|require|require_relative|extend|include|mod) [\w\"'{.:]+|from \S+ import |#include"
)
_KEYWORD_LINES = frozenset(
    {"end", "else", "else:", "begin", "do", "try:", "finally:", "return", "break", "continue", "pass", "fi", "done"}
)
_DATA_LINE = re.compile(
    r"(?:->|[A-Z]).{1,300}\((?:cost|actual time)=\d|(?:\w+ )?(?:Key|Cond|Method|Filter|Buckets|Time): "  # a query plan
    r"|INSERT INTO |\[[\w. -]{1,80}\]$|[A-Z]{3,5}\s{2,}\d{1,3}\.\d{1,3}\.",
    re.IGNORECASE,
)
_COMMENT = re.compile(r"(?:#|//|/?\*|--|\"\"\"|''')")


@dataclass(frozen=True)
class CodeCompressor:
    """Compresses source code."""

    name = "code"
    weights: CodeWeights = DEFAULT_CODE_WEIGHTS

    def recognises(self, text: str) -> bool:
        """Return True if most lines at the start look like code."""
        sample = lines.sample_lines(text, self.weights.sample_characters)
        if len(sample) < 5:
            return False
        has_numbers = has_line_numbers(sample)
        if has_numbers:
            sample = [_LINE_NUMBER.sub("", line, count=1) for line in sample]
        stripped = [line.strip()[:MAX_LINE_CHARACTERS] for line in sample]
        code = [line for line in stripped if not _COMMENT.match(line)]
        if 2 * sum(_DATA_LINE.match(line) is not None for line in code) >= len(code):
            return False
        matches = sum(map(_is_code_line, code))
        if len(code) < 0.1 * len(sample) or matches < self.weights.min_code_share * len(code):
            return False
        if has_numbers or any(line[0] in " \t" for line in sample):
            return True
        return sum(map(_is_flush_code, stripped)) >= self.weights.min_flush_share * len(stripped)

    def compress(self, task: Task) -> CompressedPassage | None:
        """Keep the lines that match the question, and the definitions around them."""
        text, weights = task.text, self.weights
        spans = lines.find_line_spans(text)
        if not spans:
            return None
        query = bm25.parse_query(task.question, weights)
        counts = bm25.count_terms(text, spans, query)
        matches = normalize_scores(bm25.score_counts(spans, counts, query))
        parents, starts = find_headers(text, spans)
        definitions = [
            _DEFINITION.match(text, start, end) is not None for start, (_, end) in zip(starts, spans, strict=True)
        ]
        header_scores = self._score_headers(matches, definitions, parents)
        scores = smooth_scores(matches, weights.neighbour_weight)
        self._add_paragraphs(text, spans, scores, counts, query)
        definition_bonus, comment_penalty = weights.definition_bonus, weights.comment_penalty
        scores = [
            score
            + header_scores[index]
            + definition_bonus * definitions[index]
            - comment_penalty * bool(_COMMENT.match(text, starts[index]))
            for index, score in enumerate(scores)
        ]
        for index, bonus in self._iter_notable_lines(text, spans):
            scores[index] += bonus
        return compress_units(task, Units(text, spans, scores, "lines", weights, parents=parents))

    def _score_headers(
        self, matches: Sequence[float], definitions: Sequence[bool], parents: Sequence[int]
    ) -> list[float]:
        """Return the score that each line gains from the headers above it."""
        header_weight, factor = self.weights.header_weight, self.weights.named_definition_factor
        own = [
            match * factor if is_definition else match
            for match, is_definition in zip(matches, definitions, strict=True)
        ]
        scores = [0.0] * len(matches)
        for index, parent in enumerate(parents):
            if parent >= 0:
                scores[index] = header_weight * (own[parent] + scores[parent])
        return scores

    def _add_paragraphs(
        self, text: str, spans: Sequence[Span], scores: list[float], counts: TermCounts, query: Query
    ) -> None:
        """Add to each line, in place, a part of its paragraph's score."""
        paragraphs = [range(*bounds) for bounds in pairwise([*lines.find_block_starts(text, spans), len(spans)])]
        owners = [owner for owner, paragraph in enumerate(paragraphs) for _ in paragraph]
        bounds = [(spans[paragraph[0]][0], spans[paragraph[-1]][1]) for paragraph in paragraphs]
        matches = normalize_scores(bm25.score_counts(bounds, bm25.merge_counts(counts, owners), query))
        for paragraph, match in zip(paragraphs, matches, strict=True):
            for index in paragraph:
                scores[index] += self.weights.paragraph_weight * match

    def _iter_notable_lines(self, text: str, spans: Sequence[Span]) -> Iterator[tuple[int, float]]:
        """Yield authors' warnings and raised errors with their bonus; it falls with their number."""
        warnings, raises = severity.find_warning_comments(text, spans), severity.find_raise_lines(text, spans)
        yield from ((index, self.weights.warning_comment_bonus / (1.0 + log(len(warnings)))) for index in warnings)
        yield from ((index, self.weights.raise_bonus / len(raises)) for index in raises)


def has_line_numbers(sample: Sequence[str]) -> bool:
    """Return True if most lines begin with a line number."""
    return sum(_LINE_NUMBER.match(line) is not None for line in sample) >= 0.6 * len(sample) > 0


def _is_code_line(line: str) -> bool:
    """Return True if a line shows two signs of code, or one in a closing bracket, a bare keyword or an import."""
    if not line or line[0] in "{});]" or line in _KEYWORD_LINES or _IMPORT.match(line):
        return True
    starts = line[0] in "[(" or _LINE_START.match(line) is not None
    ends = _LINE_END.search(line) is not None
    return (starts and ends) or ((starts or ends) and _EXPRESSION.search(line) is not None)


def _is_flush_code(line: str) -> bool:
    """Return True if a line begins like a statement or ends like one; output of tools rarely does."""
    return (
        line[-1:] in ";{}"
        or line in _KEYWORD_LINES
        or any(pattern.match(line) for pattern in (_LINE_START, _IMPORT, _DEFINITION, _COMMENT, _ASSIGNMENT))
    )


def find_headers(text: str, spans: Sequence[Span]) -> tuple[list[int], list[int]]:
    """Return for each line the index of the line it is indented under (or -1), and the offset of its code."""
    is_numbered = has_line_numbers([text[start:end] for start, end in spans[: lines.MAX_SAMPLE_LINES]])
    open_headers: list[tuple[int, int]] = []  # (indentation, index), indentations ascending
    parents: list[int] = []
    code_starts: list[int] = []
    for index, (start, end) in enumerate(spans):
        number = _LINE_NUMBER.match(text, start, end) if is_numbered else None
        line = text[number.end() if number else start : end]
        bare = line.lstrip(" \t")
        indentation = len(line[: len(line) - len(bare)].expandtabs(4))
        while open_headers and open_headers[-1][0] >= indentation:
            open_headers.pop()
        parents.append(open_headers[-1][1] if open_headers else -1)
        code_starts.append(end - len(bare))
        if bare[:1] not in {"}", ")", "]", ""}:
            open_headers.append((indentation, index))
    return parents, code_starts
