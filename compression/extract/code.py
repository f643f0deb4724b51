"""Source code, whole or in part, also with line numbers in front: lines chosen under the headers they stand below.

Reads layout only: what is indented deeper belongs to the last line indented less. So it serves every language that
people indent, and a choice always shows in which class, function and branch a line stands.
"""

import re
from collections.abc import Iterator, Sequence
from itertools import pairwise
from math import log

from ..compressor import CompressedPassage, Task
from . import lines
from .core import bm25, severity
from .core.bm25 import Span
from .core.selection import Units, compress_units

SAMPLE_CHARACTERS = 20_000  # characters looked at to recognise code
MIN_CODE_SHARE = 0.45
NEIGHBOUR_WEIGHT = 0.3
HEADER_WEIGHT = 0.8  # what a line takes over from the header above it, and again from that one's
PARAGRAPH_WEIGHT = 0.3  # what a line takes over from the lines that no blank line parts it from
NAMED_DEFINITION_FACTOR = 1.5  # a definition is worth this much more than a use of its name
DEFINITION_BONUS = 0.12
COMMENT_PENALTY = 0.05
WARNING_COMMENT_BONUS = 0.5  # an author's warning, where it is the only one
RAISE_BONUS = 0.4  # a line in which the program gives up, where it is the only one
MAX_HEADER_DEPTH = 12  # headers above a line that count for its score

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
_IMPORT = re.compile(
    r"(?:import|use|using|package|require|require_relative|extend|include|mod) [\w\"'{.:]+|from \S+ import |#include"
)
_KEYWORD_LINES = frozenset(
    {"end", "else", "else:", "begin", "do", "try:", "finally:", "return", "break", "continue", "pass", "fi", "done"}
)
_COMMENT = re.compile(r"(?:#|//|/?\*|--|\"\"\"|''')")


def has_line_numbers(sample: Sequence[str]) -> bool:
    """Say whether most lines begin with a line number."""
    return sum(_LINE_NUMBER.match(line) is not None for line in sample) >= 0.6 * len(sample) > 0


def looks_like_code(text: str) -> bool:
    """Say whether most lines of the beginning read like code."""
    sample = [line for line in text[:SAMPLE_CHARACTERS].split("\n") if line and not line.isspace()][:300]
    if len(sample) < 5:
        return False
    if has_line_numbers(sample):
        sample = [_LINE_NUMBER.sub("", line, count=1) for line in sample]
    bare = [line.strip()[:200] for line in sample]
    bare = [line for line in bare if not _COMMENT.match(line)]
    return len(bare) >= 0.1 * len(sample) and sum(map(_is_code_line, bare)) >= MIN_CODE_SHARE * len(bare)


def _is_code_line(line: str) -> bool:
    """Take two signs out of three; one is enough for a line that only closes something, or that imports."""
    if not line or line[0] in "{}()[];" or line in _KEYWORD_LINES or _IMPORT.match(line):
        return True
    starts, ends = _LINE_START.match(line) is not None, _LINE_END.search(line) is not None
    return (starts and ends) or ((starts or ends) and _EXPRESSION.search(line) is not None)


def find_headers(text: str, found: Sequence[Span]) -> tuple[list[int], list[int]]:
    """Say for each line which earlier one it is indented under, or -1; and where its text begins."""
    skip = has_line_numbers([text[start:end] for start, end in found[:300]])
    above: list[tuple[int, int]] = []  # (indentation, index), indentations rising
    parents: list[int] = []
    begins: list[int] = []
    for index, (start, end) in enumerate(found):
        number = _LINE_NUMBER.match(text, start, end) if skip else None
        line = text[number.end() if number else start : end]
        bare = line.lstrip(" \t")
        indentation = len(line[: len(line) - len(bare)].expandtabs(4))
        while above and above[-1][0] >= indentation:
            above.pop()
        parents.append(above[-1][1] if above else -1)
        begins.append(end - len(bare))
        if bare[:1] not in {"}", ")", "]", ""}:
            above.append((indentation, index))
    return parents, begins


def _group_paragraphs(text: str, found: Sequence[Span]) -> list[range]:
    """Group lines (by their indices) that no blank line parts."""
    starts = [at for at in range(1, len(found)) if text.count("\n", found[at - 1][1], found[at][0]) > 1]
    return [range(start, end) for start, end in pairwise([0, *starts, len(found)])]


def _score_notable_lines(text: str, found: Sequence[Span]) -> Iterator[tuple[int, float]]:
    """Find what anybody would want to see, and say what it is worth: the more, the fewer of its kind there are."""
    noted, raised = severity.find_warning_comments(text, found), severity.find_raise_lines(text, found)
    yield from ((index, WARNING_COMMENT_BONUS / (1.0 + log(len(noted)))) for index in noted)
    yield from ((index, RAISE_BONUS / len(raised)) for index in raised)


class CodeCompressor:
    """Compresses source code."""

    name = "code"

    def recognises(self, text: str) -> bool:
        """Recognise text whose lines mostly read like code."""
        return looks_like_code(text)

    def compress(self, task: Task) -> CompressedPassage | None:
        """Keep the lines nearest the question and what is defined around them."""
        text = task.text
        found = lines.find_line_spans(text)
        if not found:
            return None
        parents, begins = find_headers(text, found)
        asked = bm25.parse_query(task.question)
        counted = bm25.count_terms(text, found, asked)
        own = lines.normalize_scores(bm25.score_counts(found, counted, asked))
        defines = [
            _DEFINITION.match(text, begin, end) is not None for begin, (_, end) in zip(begins, found, strict=True)
        ]
        worth = [
            score * NAMED_DEFINITION_FACTOR if defined else score for score, defined in zip(own, defines, strict=True)
        ]
        above = [0.0] * len(found)
        for index, parent in enumerate(parents):
            if parent >= 0:
                above[index] = HEADER_WEIGHT * (worth[parent] + above[parent])
        near = lines.smooth_scores(own, NEIGHBOUR_WEIGHT)
        paragraphs = _group_paragraphs(text, found)
        owners = [at for at, paragraph in enumerate(paragraphs) for _ in paragraph]
        whole = [(found[one[0]][0], found[one[-1]][1]) for one in paragraphs]
        together = bm25.score_counts(whole, bm25.merge_counts(counted, owners), asked)
        for paragraph, score in zip(paragraphs, lines.normalize_scores(together), strict=True):
            for index in paragraph:
                near[index] += PARAGRAPH_WEIGHT * score
        scores = [
            near[index]
            + above[index]
            + DEFINITION_BONUS * defines[index]
            - COMMENT_PENALTY * bool(_COMMENT.match(text, begins[index]))
            for index in range(len(found))
        ]
        for index, worth_seeing in _score_notable_lines(text, found):
            scores[index] += worth_seeing
        return compress_units(task, Units(text, found, scores, "lines", parents=parents))
