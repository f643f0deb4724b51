"""Compresses running text: sentences ranked by the question, their paragraph and their heading.

A kept sentence brings its headings, the header of its mail, and the beginning of its turn in a transcript.
"""

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from math import log
from unicodedata import category

from ..compressor import CompressedPassage, Task
from .core import answer_types, lines, records, semantic, severity, wording
from .core.base_weights import ExtractWeights, weight
from .core.bm25 import Span
from .core.headings import find_parent_headings
from .core.scoring import normalize_scores, number_occurrences, score_question, smooth_scores
from .core.selection import Units, compress_units
from .core.sentences import find_sentences


@dataclass(frozen=True, slots=True)
class ProseWeights(ExtractWeights):
    """Weights of running text."""

    neighbour_weight: float = weight(0.25, "part of its neighbour's score that a sentence gains", "factor")
    marker_cost: int = weight(10, "budget that the marker of a gap uses", "characters")
    max_mean_sentence_characters: int = weight(450, "average length of a sentence, at most", "characters")
    min_wordy_share: float = weight(0.6, "text in lines of mostly letters", "share of text")
    max_heading_characters: int = weight(90, "length of an underlined heading", "characters")
    paragraph_weight: float = weight(0.3, "part of its paragraph's best score that a sentence gains", "factor")
    asked_share: float = weight(0.5, "part of a score that the last question alone decides", "share")
    heading_weight: float = weight(0.35, "part of its heading's score that a sentence gains", "factor")
    answer_type_bonus: float = weight(0.3, "match of the expected answer type")
    severity_bonus: float = weight(0.5, "a warning, error or verdict; divided by 1 + log(1 + count of its grade)")
    similarity_weight: float = weight(2.0, "similarity in meaning", "factor")
    transcript_window: int = weight(
        10, "neighbours on each side that a sentence of a transcript is read with", "sentences"
    )
    max_failures: int = weight(3, "errors kept for any question", "sentences")
    failure_share: float = weight(0.15, "part of the target that such errors may take", "share of target")
    odd_wording_bonus: float = weight(1.0, "a sentence worded unlike most of a formulaic text")
    section_share: float = weight(0.8, "part of this bonus that other sentences of a short section gain", "factor")
    max_whole_section_characters: int = weight(400, "length of such a section, at most", "characters")
    opening_bonuses: tuple[float, ...] = weight((0.05, 0.02, 0.01), "the first sentences")


CHARACTERS_PER_TOKEN = 4
TURN_LEVEL = 8  # below the headings of a text
MAX_INDENT_CHARACTERS = 12  # of a sentence, kept with it
MIN_TURNS = 4  # of a transcript
MIN_LABELS = 8  # with the same word
DEFAULT_PROSE_WEIGHTS = ProseWeights()

_UNDERLINE = re.compile(r"[=\-~^\"'`#*+.]{3,}\s*$")
_HEADER = re.compile(  # `From: Ann <ann@example.com>` and more such lines, or `--- docs/cart.md ---`
    r"(?:[-_=]{2,}[^\n]*\n)?[ \t>]*(?:From|To|Date|Sent|Subject|[Aa]uthor|Von|Gesendet|Betreff|De|Objet|Asunto):"
    r"[ \t]?[^\n]+(?:\n[ \t>]*[A-Za-z][\w-]{1,30}:[ \t]?[^\n]*)+"
    r"|(?:[-=*]{2,}|==>) [^\n]{1,200} (?:[-=*]{2,}|<==)$"
)
_NUMBERED_TITLE = re.compile(  # `§ 4 Haftung`, `Article 12`, `3.1 Scope`
    r"(?:§+|[A-Z][a-z]{2,9}\.?)? ?(?:\d{1,3}[a-z]?(?P<parts>(?:\.\d{1,3}){0,4})|[IVXL]{1,6})"
    r"[.):]?(?: [^\n]*[^\n.!?,;:])?$"
)
_TIME_OF_DAY = r"[\[(]?\d{1,2}:\d\d(?::\d\d)?(?:[.,]\d{1,3})?(?: ?[AaPp]\.?[Mm]\.?)?[\])]?"
_LABEL = re.compile(r"([A-Z][a-z]{2,20}) #?\d{1,7}(?::|[ \t]*\n)")
_TURN = re.compile(
    rf"(?:[-*] )?(?:{_TIME_OF_DAY}[ \t-]{{1,3}})?\*{{0,2}}[<\[]?([^\W\d_][\w .'’()-]{{0,40}}?)"
    r"(?:[>\]]:?|:)\*{0,2}:?[ \t]"
    rf"|([^\W\d_][\w .'’-]{{0,40}}?)[ \t]{{1,3}}{_TIME_OF_DAY}\s"
)
_SENTENCE_END_MARK = re.compile(
    r"(?:[^\W\d_]{2}|[\u0900-\u0dff\u1000-\u17ff])[\"'”’)\]]{0,2}[.!?][\"'”’)\]]{0,2}(?=\s|$)|[。！？।॥။።។؟۔]"
)


@dataclass(frozen=True)
class ProseCompressor:
    """Compresses running text."""

    name = "prose"
    weights: ProseWeights = DEFAULT_PROSE_WEIGHTS

    def recognises(self, text: str) -> bool:
        """Return True if the text is mostly words, in sentences of a usual length."""
        sample = text[: self.weights.sample_characters]
        ends = len(_SENTENCE_END_MARK.findall(sample))
        return (
            ends > 0
            and len(sample) / ends <= self.weights.max_mean_sentence_characters
            and _compute_wordy_share(sample) >= self.weights.min_wordy_share
            and not records.are_fields(sample)
        )

    def compress(self, task: Task) -> CompressedPassage | None:
        """Keep the sentences that match the question with their headings; prefer the opening slightly."""
        text, weights = task.text, self.weights
        spans = find_sentences(text)
        turns = find_turns(text, spans)
        labels = [] if turns else find_labels(text, spans)
        parents = find_headings(text, spans, weights.max_heading_characters, [*turns, *labels])
        scores = self._score_sentences(task, spans, parents)
        answer_flags = answer_types.match_answer_type(text, spans, task.question, scores)
        grades = severity.grade_lines(text, spans)
        grade_bonuses = {
            grade: weights.severity_bonus / (1.0 + log(1 + count))
            for grade, count in Counter(filter(None, grades)).items()
        }
        for index, (is_answer, grade) in enumerate(zip(answer_flags, grades, strict=True)):
            scores[index] += weights.answer_type_bonus * is_answer + grade_bonuses.get(grade, 0.0)
        for index, bonus in enumerate(weights.opening_bonuses[: len(scores)]):
            scores[index] += bonus
        sentences = [text[start:end] for start, end in spans]
        window = weights.transcript_window if turns else 0
        scores = semantic.add_similarity(scores, sentences, task.question, weights.similarity_weight, window)
        sections = _list_sections(text, spans, parents)
        for index, share in _spread(wording.find_odd_wordings(sentences), spans, sections, weights).items():
            scores[index] += weights.odd_wording_bonus * share
        keys = list(zip(sentences, parents, strict=True)) if labels else sentences  # each record may say the same
        scores = [score / number for score, number in zip(scores, number_occurrences(keys), strict=True)]
        required = _list_rare_failures(task, spans, grades, weights)
        indented = [(_find_line_start(text, start), end) for start, end in spans]
        return compress_units(
            task, Units(text, indented, scores, "sentences", weights, parents=parents, required=required)
        )

    def _score_sentences(self, task: Task, spans: Sequence[Span], parents: Sequence[int]) -> list[float]:
        """Score sentences by their own terms, their neighbours, their paragraph and their heading."""
        weights = self.weights
        own = score_question(task.text, spans, task.question, weights)
        asked = answer_types.extract_last_question(task.question)
        if asked and asked != task.question:  # a call such as `man git-log` names what most sentences are about
            pairs = zip(own, score_question(task.text, spans, asked, weights), strict=True)
            own = [
                (1.0 - weights.asked_share) * score + weights.asked_share * asked_score for score, asked_score in pairs
            ]
        paragraphs = _assign_paragraphs(task.text, spans)
        best: dict[int, float] = {}
        for paragraph, score in zip(paragraphs, own, strict=True):
            best[paragraph] = max(best.get(paragraph, 0.0), score)
        scores = [
            score
            + weights.paragraph_weight * best[paragraphs[index]]
            + weights.heading_weight * (own[parents[index]] if parents[index] >= 0 else 0.0)
            for index, score in enumerate(smooth_scores(own, weights.neighbour_weight))
        ]
        confidence = max(own, default=0.0)
        return [confidence * score for score in normalize_scores(scores)]


def _list_sections(text: str, spans: Sequence[Span], parents: Sequence[int]) -> list[tuple[bool, int]]:
    """Return the section of each sentence: that of its heading, else its paragraph."""
    paragraphs = _assign_paragraphs(text, spans)
    return [
        (parent < 0, paragraph if parent < 0 else parent) for parent, paragraph in zip(parents, paragraphs, strict=True)
    ]


def _spread(
    odd: Sequence[int], spans: Sequence[Span], sections: Sequence[object], weights: ProseWeights
) -> dict[int, float]:
    """Return 1.0 for each odd sentence, and less for the other sentences of its section if that is short."""
    shares: dict[int, float] = {}
    for index in odd:
        first = last = index
        while first > 0 and sections[first - 1] == sections[index]:
            first -= 1
        while last + 1 < len(sections) and sections[last + 1] == sections[index]:
            last += 1
        if spans[last][1] - spans[first][0] <= weights.max_whole_section_characters:
            shares.update(
                {other: max(weights.section_share, shares.get(other, 0.0)) for other in range(first, last + 1)}
            )
        shares[index] = 1.0
    return shares


def _list_rare_failures(task: Task, spans: Sequence[Span], grades: Sequence[int], weights: ProseWeights) -> list[int]:
    """Return the sentences with an error, if they are few and take little of the target."""
    failures = [index for index, grade in enumerate(grades) if grade >= severity.ERROR]
    size = sum(spans[index][1] - spans[index][0] for index in failures)
    limit = weights.failure_share * task.target * CHARACTERS_PER_TOKEN
    return failures if len(failures) <= weights.max_failures and size <= limit else []


def find_headings(text: str, spans: Sequence[Span], max_characters: int, turns: Sequence[int] = ()) -> list[int]:
    """Return for each sentence the index of its heading, or -1; a heading belongs to the heading above it.

    The header of a mail is a heading, and so is the first sentence of a turn (of `turns`), with its speaker.
    """
    levels = [_find_heading_level(text, start, end, max_characters) for start, end in spans]
    for index in turns:
        levels[index] = levels[index] or TURN_LEVEL
    return find_parent_headings(levels)


def find_turns(text: str, spans: Sequence[Span]) -> list[int]:
    """Return the indices of the sentences that begin with a speaker; nothing unless few speakers take most turns."""
    speakers: dict[int, str] = {}
    for index, (start, end) in enumerate(spans):
        if start == 0 or text[start - 1] in "\n\r":
            match = _TURN.match(text, start, end)
            if match is not None:
                speakers[index] = match[1] or match[2]
    counts = Counter(speakers.values())
    turns = [index for index, speaker in speakers.items() if counts[speaker] > 1]
    is_transcript = len(turns) >= MIN_TURNS and len(turns) >= 0.7 * len(speakers) and len(counts) > 1
    return turns if is_transcript else []


def find_labels(text: str, spans: Sequence[Span]) -> list[int]:
    """Return the indices of the sentences that begin with a numbered label, such as `Review 7:`."""
    labels: dict[int, str] = {}
    for index, (start, end) in enumerate(spans):
        if start == 0 or text[start - 1] in "\n\r":
            match = _LABEL.match(text, start, end)
            if match is not None:
                labels[index] = match[1]
    counts = Counter(labels.values())
    return [index for index, label in labels.items() if counts[label] >= MIN_LABELS]


def _find_heading_level(text: str, start: int, end: int, max_characters: int) -> int:
    """Return 1, 2, ... for a heading and 0 for other text."""
    if _HEADER.match(text, start, end):
        return 1
    if end - start > 2 * max_characters:
        return 0
    if text[start] == "#":
        return 1 + min(6, len(text[start:end]) - len(text[start:end].lstrip("#")))
    if (
        end - start <= max_characters
        and text[end : end + 2].strip() == ""
        and text[max(0, start - 2) : start].strip() == ""
    ):
        match = _NUMBERED_TITLE.match(text, start, end)
        if match is not None:
            return 3 + min(4, (match["parts"] or "").count("."))
    title, _, rest = text[start:end].partition("\n")
    if rest and _UNDERLINE.match(rest) and len(title) <= max_characters:
        return 2 if rest[0] in "=#*" else 3
    return 0


def _assign_paragraphs(text: str, spans: Sequence[Span]) -> list[int]:
    starts = set(lines.find_block_starts(text, spans))
    return list(accumulate(index in starts for index in range(len(spans))))


def _find_line_start(text: str, start: int) -> int:
    """Return the start of the line of a sentence that only blanks precede there; else the start of the sentence."""
    if text[max(0, start - 2) : start].strip():
        return start
    blanks = text[max(0, start - MAX_INDENT_CHARACTERS) : start]
    indent = len(blanks) - len(blanks.rstrip(" \t"))
    return start - indent if text[start - indent - 1 : start - indent] in ("\n", "") else start


def _compute_wordy_share(sample: str) -> float:
    """Return the share of the characters in lines of mostly letters."""
    total = wordy = 0
    for line in sample.split("\n"):
        start = line.strip()[:200]
        letters = sum(map(str.isalpha, start)) + start.count(" ")
        if not start.isascii():
            letters += sum(map(_is_combining_mark, start))
        total += len(line)
        wordy += len(line) if letters >= 0.8 * len(start) else 0
    return wordy / max(1, total)


def _is_combining_mark(character: str) -> bool:
    return category(character)[0] == "M"  # in many scripts, vowels are marks on a letter
