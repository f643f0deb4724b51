"""Running text: sentences ranked by the question, with their paragraph's and their heading's weight behind them.

Headings come along with what stands under them. Sentences are found by punctuation and layout alone, in any script;
what is no sentence (a list item, a table row, a line of code) counts as one.
"""

import re
from bisect import bisect_right
from collections import Counter
from collections.abc import Iterator, Sequence
from math import log
from unicodedata import category

from ..compressor import CompressedPassage, Task
from . import lines
from .core import answer_types, bm25, semantic, severity
from .core.bm25 import Query, Span
from .core.selection import SHORT_MARKER_COST, Units, compress_units

MAX_SENTENCE_CHARACTERS = 700  # characters of a sentence; a longer one is cut at a line end or a blank
NEIGHBOUR_WEIGHT = 0.25
PARAGRAPH_WEIGHT = 0.3
HEADING_WEIGHT = 0.35
ANSWER_TYPE_BONUS = 0.3  # something of the kind that is asked for stands there
SEVERITY_BONUS = 0.5  # a failure or a warning, less where there are many of its grade
SIMILARITY_WEIGHT = 0.6  # nearness in meaning, where the extra for that is installed
OPENING_BONUSES = (0.05, 0.02, 0.01)  # of the first sentences: where nothing else is known, they say what it is about
MAX_HEADING_CHARACTERS = 90
SAMPLE_CHARACTERS = 20_000  # characters looked at to recognise prose
MAX_MEAN_SENTENCE_CHARACTERS = 450  # characters a sentence, on average, at most

_SENTENCE_END = re.compile(
    r"[.!?][\"'”’)\]*_`]{0,4}\s{1,200}(?=[^\sa-zа-я])"  # a sentence ends; the next does not begin with a small letter
    r"|[。！？…।॥။።។][」』”’）\u200b ]{0,2}"
    r"|[؟۔][\"”»)]{0,2}\s{1,200}"
    r"|\n[ \t\r]{0,200}\n\s{0,400}"  # a paragraph ends
    r"|\n(?=[ \t]{0,40}(?:[-*+•>#|]|\d{1,3}[.)] |\[\d|\.\. |:\w|```|~~~))"  # an item, a heading, a table's row
)
_ABBREVIATION = re.compile(
    r"(?:^|[\s(])(?:[A-Z]|[A-Za-z]\.[A-Za-z]|Mr|Mrs|Ms|Dr|St|Prof|Sr|Jr|vs|etc|cf|al|No|Nos|Vol|Fig|Eq|Sec|pp|Inc|Ltd|Co|Gen|Col|Lt|Gov|Sen|Rep|Rev)\.$"
)
_UNDERLINE = re.compile(r"[=\-~^\"'`#*+.]{3,}\s*$")
_PARAGRAPH_BREAK = re.compile(r"\n[ \t\r]{0,200}\n")
_SENTENCE_END_MARK = re.compile(
    r"(?:[^\W\d_]{2}|[\u0900-\u0dff\u1000-\u17ff])[\"'”’)\]]{0,2}[.!?][\"'”’)\]]{0,2}(?=\s|$)|[。！？।॥။።។؟۔]"
)


def find_sentences(text: str, start: int = 0, end: int | None = None) -> list[Span]:
    """Find the sentences between two offsets, without the blanks around them."""
    end = len(text) if end is None else end
    found: list[Span] = []
    begin = start
    for match in _SENTENCE_END.finditer(text, start, end):
        if match[0][0] == "." and _ABBREVIATION.search(text, max(begin, match.start() - 8), match.start() + 1):
            continue
        found.extend(_trim_span(text, begin, match.end()))
        begin = match.end()
    found.extend(_trim_span(text, begin, end))
    return found


def _trim_span(text: str, start: int, end: int) -> Iterator[Span]:
    """Cut blanks off both ends, and an over-long sentence into pieces."""
    piece = text[start:end]
    begin = start + len(piece) - len(piece.lstrip())
    end = start + len(piece.rstrip())
    while end - begin > MAX_SENTENCE_CHARACTERS:
        cut = max(text.rfind("\n", begin + 1, begin + MAX_SENTENCE_CHARACTERS), begin)
        cut = cut if cut > begin else text.rfind(" ", begin + 1, begin + MAX_SENTENCE_CHARACTERS)
        cut = cut if cut > begin else begin + MAX_SENTENCE_CHARACTERS
        yield begin, cut
        begin = cut + 1 if text[cut].isspace() else cut
    if begin < end:
        yield begin, end


def find_headings(text: str, found: Sequence[Span]) -> list[int]:
    """Say for each sentence which earlier one is the heading it stands under, or -1; headings stand under headings."""
    above: list[tuple[int, int]] = []  # (level, index), levels rising
    parents: list[int] = []
    for index, (start, end) in enumerate(found):
        level = _find_heading_level(text, start, end)
        if level:
            while above and above[-1][0] >= level:
                above.pop()
        parents.append(above[-1][1] if above else -1)
        if level:
            above.append((level, index))
    return parents


def _find_heading_level(text: str, start: int, end: int) -> int:
    """Return 1, 2, ... for a heading and 0 for anything else."""
    if end - start > 2 * MAX_HEADING_CHARACTERS:
        return 0
    if text[start] == "#":
        return min(6, len(text[start:end]) - len(text[start:end].lstrip("#")))
    first, _, rest = text[start:end].partition("\n")
    if rest and _UNDERLINE.match(rest) and len(first) <= MAX_HEADING_CHARACTERS:
        return 1 if rest[0] in "=#*" else 2
    return 0


def score_sentences(text: str, found: Sequence[Span], asked: Query, parents: Sequence[int]) -> list[float]:
    """Score sentences by themselves, by what stands beside them, by their paragraph and by their headings."""
    own = bm25.score_spans(text, found, asked)
    paragraphs = _assign_paragraphs(text, found)
    together: dict[int, float] = {}
    for paragraph, score in zip(paragraphs, own, strict=True):
        together[paragraph] = max(together.get(paragraph, 0.0), score)
    near = lines.smooth_scores(own, NEIGHBOUR_WEIGHT)
    scores: list[float] = []
    for index, parent in enumerate(parents):
        heading = own[parent] if parent >= 0 else 0.0
        scores.append(near[index] + PARAGRAPH_WEIGHT * together[paragraphs[index]] + HEADING_WEIGHT * heading)
    return scores


def _assign_paragraphs(text: str, found: Sequence[Span]) -> list[int]:
    ends = [match.start() for match in _PARAGRAPH_BREAK.finditer(text)]
    return [bisect_right(ends, start) for start, _ in found]


class ProseCompressor:
    """Compresses running text."""

    name = "prose"

    def recognises(self, text: str) -> bool:
        """Recognise text that is mostly words, with the ends of sentences at the distances that people put them."""
        sample = text[:SAMPLE_CHARACTERS]
        ends = len(_SENTENCE_END_MARK.findall(sample))
        return ends > 0 and len(sample) / ends <= MAX_MEAN_SENTENCE_CHARACTERS and _compute_wordy_share(sample) >= 0.6

    def compress(self, task: Task) -> CompressedPassage | None:
        """Keep the sentences nearest the question with their headings; the first sentence has a slight advantage."""
        found = find_sentences(task.text)
        parents = find_headings(task.text, found)
        scores = lines.normalize_scores(score_sentences(task.text, found, bm25.parse_query(task.question), parents))
        answering = answer_types.match_answer_type(task.text, found, task.question, scores)
        grades = severity.grade_lines(task.text, found)
        worth = {
            grade: SEVERITY_BONUS / (1.0 + log(1 + often)) for grade, often in Counter(filter(None, grades)).items()
        }
        for index, (answers, grade) in enumerate(zip(answering, grades, strict=True)):
            scores[index] += ANSWER_TYPE_BONUS * answers + worth.get(grade, 0.0)
        for index in range(min(3, len(scores))):
            scores[index] += OPENING_BONUSES[index]
        ranks = dict(enumerate(scores))
        for index, near in semantic.compute_similarities(
            task.question, ranks, lambda one: task.text[slice(*found[one])]
        ).items():
            scores[index] += SIMILARITY_WEIGHT * near
        return compress_units(
            task, Units(task.text, found, scores, "sentences", parents=parents, marker_cost=SHORT_MARKER_COST)
        )


def _compute_wordy_share(sample: str) -> float:
    """Return the share of the characters that stands in lines of mostly letters."""
    total = wordy = 0
    for line in sample.split("\n"):
        start = line.strip()[:200]
        letters = (
            sum(map(str.isalpha, start))
            + start.count(" ")
            + (0 if start.isascii() else sum(map(_is_combining_mark, start)))
        )
        total += len(line)
        wordy += len(line) if letters >= 0.8 * len(start) else 0
    return wordy / max(1, total)


def _is_combining_mark(character: str) -> bool:
    return category(character)[0] == "M"  # vowels of many scripts are marks on a letter
