"""The catch-all: any text as lines, the best of them by the question, by rarity, by what looks like a result.

Knows the shape of test and build output (failures, assertions, tracebacks, summaries) and folds repeated lines. Takes
every text, including binary rubbish and single lines of megabytes, which it cuts into pieces first.
"""

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from math import log

from ..compressor import CompressedPassage, Task
from .core import bm25, severity
from .core.bm25 import Span
from .core.selection import Units, compress_units

MAX_LINE_CHARACTERS = 1_000  # characters; a longer line is cut into pieces
MAX_LINE_CHARACTERS_OF_FEW = 350  # the same where there are hardly any lines to choose from
FEW_LINES = 4
PIECE_CHARACTERS = 300
RARITY_WEIGHT = 0.35  # what it is worth to look like no other line, in units of the best line's score
NEIGHBOUR_WEIGHT = 0.35  # what a line takes over from its neighbours
EDGE_BONUS = 0.5
ODD_OPENING_BONUS = 0.4  # a line that begins as hardly any other does, where nearly all others begin alike
MIN_COMPARED_LINES = 40  # lines from which on one of them can begin oddly
COMMON_OPENING_SHARE, ODD_OPENING_SHARE = 0.02, 0.005  # shares of the lines: so many begin with one word, and so few
MIN_COMMON_SHARE = 0.9
MAX_VERDICT_SHARE = 0.6  # share of the text that may be kept for being results, whatever the target
MAX_ALIKE_VERDICTS = 8  # results that differ in nothing but numbers and places
SEVERITY_SCORES = (0.0, 0.05, 0.5, 1.0)  # by grade

_LONG_LINE_PIECE = re.compile(rf"(?s).{{1,{PIECE_CHARACTERS}}}(?:[\s,;}}\])>]|\Z)|.{{{PIECE_CHARACTERS}}}")
_PROGRESS_BAR = re.compile(r"\d ?%|\d/\d|[\u2580-\u259f#=>.-]{4}|\d ?[kKMG]i?B")  # what a progress bar has in it
MAX_BAR_CHARACTERS = 400  # characters
_FIRST_WORD = re.compile(r"\W*([^\W\d]*)")
_LINE_REFERENCE = re.compile(r":\d")
_FILE_LOCATION = re.compile(
    r"(?<![\w./\\@~+-])[\w./\\@~+-]{1,200}+:\d{1,7}(?::\d{1,7}|:in [`'][^'\n]{1,100}')?"
)  # in a file
_VARIABLE_PART = re.compile(r"[a-fA-F]{0,7}\d[\w.:/\-]*")  # numbers, times, addresses, hexadecimal ids


def find_line_spans(text: str) -> list[Span]:
    """Find the lines that are not blank (without their line ends), over-long ones cut into pieces.

    Of a progress bar, which writes over what it wrote before, it is the last state, as on a screen.
    """
    found: list[Span] = []
    at = 0
    bars = "\r" in text
    written = text.split("\n")
    longest = MAX_LINE_CHARACTERS if sum(map(bool, written)) > FEW_LINES else MAX_LINE_CHARACTERS_OF_FEW
    for line in written:
        end = at + len(line)
        if line and not line.isspace():
            start = at + _find_visible_start(line) if bars else at
            if end - start > longest:
                found.extend(_split_long_line(text, (start, end)))
            else:
                found.append((start, end))
        at = end + 1
    return found


def _find_visible_start(line: str) -> int:
    """Return where in a line begins what a screen shows of it."""
    at = 0
    while 0 <= (end := line.find("\r", at)) <= at + MAX_BAR_CHARACTERS:
        is_bar = end == at or line[at:end].isspace() or _PROGRESS_BAR.search(line, at, end)
        if not is_bar or not line[end : end + MAX_BAR_CHARACTERS].strip():
            break
        at = end + 1
    return at


def _split_long_line(text: str, span: Span) -> Iterator[Span]:
    start, end = span
    for match in _LONG_LINE_PIECE.finditer(text, start, end):
        if not match[0].isspace():
            yield match.span()


def extract_templates(text: str, found: Sequence[Span]) -> list[str]:
    """Say what each line looks like once numbers, times and ids are taken out of it."""
    return list(map(_make_template, _iter_line_beginnings(text, found)))


def _make_template(line: str) -> str:
    return _VARIABLE_PART.sub("0", line).strip()


def _iter_line_beginnings(text: str, found: Sequence[Span]) -> Iterator[str]:
    return (text[start : min(end, start + 300)] for start, end in found)


def extract_placeless_templates(text: str, found: Sequence[Span]) -> list[str]:
    """Say what each line looks like once places in files are taken out of it, too."""
    return [
        _make_template(_FILE_LOCATION.sub("", line) if _LINE_REFERENCE.search(line) else line)
        for line in _iter_line_beginnings(text, found)
    ]


def find_odd_openings(text: str, found: Sequence[Span]) -> list[int]:
    """Find the lines that begin with a word that hardly any line begins with, where a few words begin nearly all."""
    if len(found) < MIN_COMPARED_LINES:
        return []
    words = [
        match[1] if (match := _FIRST_WORD.match(text, start, min(end, start + 80))) else "" for start, end in found
    ]
    often = Counter(words)
    alike = sum(times for times in often.values() if times >= COMMON_OPENING_SHARE * len(found))
    most = max(1.0, ODD_OPENING_SHARE * len(found))
    return (
        [at for at, word in enumerate(words) if often[word] <= most] if alike >= MIN_COMMON_SHARE * len(found) else []
    )


def smooth_scores(scores: Sequence[float], share: float) -> list[float]:
    """Let each unit take over a share of what stands beside it, and half of that from one further away."""
    near = [0.0, 0.0, *scores, 0.0, 0.0]
    beside = map(max, near[1:], near[3:])
    further = map(max, near, near[4:])
    return [score + share * (one + 0.5 * two) for score, one, two in zip(scores, beside, further, strict=False)]


def normalize_scores(scores: Sequence[float]) -> list[float]:
    """Scale scores so that the best is 1.0; all zeros stay so."""
    best = max(scores, default=0.0)
    return [score / best for score in scores] if best > 0 else list(scores)


def select_verdicts(text: str, found: Sequence[Span], grades: Sequence[int]) -> list[int]:
    """Find the lines that report a result, each wording once, as far as they are not most of the text.

    Of lines that say the same of many places, as the panics of one kind do, the first ones.
    """
    said: dict[str, int] = {}
    for index, grade in enumerate(grades):
        if grade == severity.VERDICT:
            said.setdefault(text[found[index][0] : found[index][1]], index)
    alike: Counter[str] = Counter()
    room = MAX_VERDICT_SHARE * len(text)
    kept: list[int] = []
    for (line, index), kind in zip(
        said.items(), extract_placeless_templates(text, [found[at] for at in said.values()]), strict=True
    ):
        alike[kind] += 1
        if alike[kind] <= MAX_ALIKE_VERDICTS:
            room -= len(line)
            if room < 0:
                break
            kept.append(index)
    return kept


def boost_ends(scores: list[float]) -> None:
    """Make the first and the last unit worth more, in place."""
    for index in (0, len(scores) - 1) if scores else ():
        scores[index] += EDGE_BONUS


class LineCompressor:
    """Compresses any text; the last in the registry."""

    name = "lines"

    def recognises(self, text: str) -> bool:  # noqa: ARG002  there is nothing to look at
        """Recognise everything."""
        return True

    def compress(self, task: Task) -> CompressedPassage | None:
        """Keep verdicts and errors, the lines nearest the question, what is rare, and both ends."""
        found = find_line_spans(task.text)
        kinds = extract_templates(task.text, found)
        often = Counter(kinds)
        grade = severity.grade_lines(task.text, found)
        asked = smooth_scores(
            normalize_scores(bm25.score_spans(task.text, found, bm25.parse_query(task.question))), NEIGHBOUR_WEIGHT
        )
        seen: Counter[str] = Counter()
        scores: list[float] = []
        for index, kind in enumerate(kinds):
            seen[kind] += 1
            repeat = 1.0 / seen[kind]
            rare = RARITY_WEIGHT / (1.0 + log(often[kind]))
            scores.append(asked[index] * (0.5 + 0.5 * repeat) + rare * repeat + SEVERITY_SCORES[grade[index]] * repeat)
        for index in find_odd_openings(task.text, found):
            scores[index] += ODD_OPENING_BONUS
        boost_ends(scores)
        must = select_verdicts(task.text, found, grade)
        return compress_units(task, Units(task.text, found, scores, "lines", required=must, templates=kinds))
