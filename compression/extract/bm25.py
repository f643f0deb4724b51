"""Ranks spans of a text by a question: BM25 over words, word stems, identifier parts, CJK bigrams and quoted literals.

No index and no statistics but those of the text at hand. One pass over the text; only words of the question are
counted, so that a text of a million different words costs little more than a text of one.
"""

import re
from bisect import bisect_right
from collections import Counter
from collections.abc import Iterable, Sequence
from math import log
from typing import NamedTuple

K1 = 1.2
B = 0.4
LONGEST_WORD = 400  # characters of a word looked at; what is longer is a blob
SHORTEST_STEM = 4
HEAD = 3  # letters of a word that its stem always begins with
MOST_LITERALS = 64
MOST_QUESTION = 20_000  # characters of a question read, half from each end
LITERAL_WEIGHT = 1.5
CODE_WEIGHT = 1.5  # identifiers and numbers say more about what is wanted than common words do

Span = tuple[int, int]

_WORD = re.compile(r"\w+")
_PIECE = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|\d+|[^\W\d_A-Za-z]+")
_CJK = re.compile(r"[\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af\uf900-\ufaff]")
_COMPOUND = re.compile(r"(?<!\w)\w+(?:[^\w\s\"'`,;()\[\]{}<>]{1,2}\w+)+")
_QUOTED = re.compile(r"\"([^\"\n]{3,80})\"|`([^`\n]{3,80})`|'([^'\n]{3,80})'")
_STOP = frozenset(
    re.findall(
        r"\w+",
        """a about all also an and any are as at be been but by can could did do does for from had has have having he
        her his how i if in into is it its know like me my no not of on one or our out please she should so some such
        tell than that the their them then there these they this those to up was we were what when where which while
        who whom whose why will with would you your""",
    )
)
_ENDINGS = frozenset(re.findall(r"\w+", "ations ation ments ment ingly ings ing edly ies ied ers ed er es ly s e y"))
_LONGEST_ENDING = 6


class Query(NamedTuple):
    """What a question asks for: words with their weights, and literals looked up as they stand."""

    weights: dict[str, float]
    literals: tuple[str, ...]


def stem(word: str) -> str:
    """Cut the longest common English ending off a lower-case word; four letters always stay."""
    for length in range(min(_LONGEST_ENDING, len(word) - SHORTEST_STEM), 0, -1):
        if word[-length:] in _ENDINGS:
            return word[:-length]
    return word


def terms(word: str) -> tuple[str, ...]:
    """Say what a word is found by: its stem; an identifier by itself and by its parts; CJK by its bigrams."""
    word = word[:LONGEST_WORD]
    lower = word.lower()
    if lower.isascii() and lower.isalpha() and (word == lower or word[1:] == lower[1:] or word.isupper()):
        return (stem(lower),)
    if not lower.isascii() and _CJK.search(word):
        return (lower, *(lower[at : at + 2] for at in range(max(1, len(lower) - 1))))
    parts = [piece if piece.isdigit() else stem(piece.lower()) for piece in _PIECE.findall(word)]
    return tuple(dict.fromkeys((lower, *(part for part in parts if len(part) > 1 or part.isdigit()))))


def query(question: str) -> Query:
    """Read a question; a very long one is read at both ends."""
    if len(question) > MOST_QUESTION:
        question = question[: MOST_QUESTION // 2] + "\n" + question[-MOST_QUESTION // 2 :]
    weights: dict[str, float] = {}
    for word, times in Counter(_WORD.findall(question)).items():
        if word.lower() in _STOP:
            continue
        found = terms(word)
        weight = (1.0 + log(times)) * (CODE_WEIGHT if len(found) > 1 or word.isdigit() else 1.0)
        for index, term in enumerate(found):
            weights[term] = max(weights.get(term, 0.0), weight if index == 0 else weight * 0.6)
    literals = Counter(_COMPOUND.findall(question))
    literals.update(match[match.lastindex or 0] for match in _QUOTED.finditer(question))
    return Query(weights, tuple(literal for literal, _ in literals.most_common(MOST_LITERALS) if literal))


def score(text: str, spans: Sequence[Span], asked: Query) -> list[float]:
    """Score each span (ascending, apart) of the text against the question; 0.0 where nothing of it stands."""
    if not spans or not asked.weights:
        return [0.0] * len(spans)
    known = _Known(asked.weights)
    known_word, words = known.__getitem__, _WORD.findall
    counts: dict[int, dict[str, int]] = {}  # of the spans that have any
    for index, (start, end) in enumerate(spans):
        for hit in filter(None, map(known_word, words(text, start, end))):
            found = counts.setdefault(index, {})
            for term in hit:
                found[term] = found.get(term, 0) + 1
    _count_literals(text, spans, asked.literals, counts)
    literal_weights = dict.fromkeys(map(_literal, asked.literals), LITERAL_WEIGHT)
    return _bm25(spans, counts, asked.weights | literal_weights)


class _Known(dict[str, tuple[str, ...]]):
    """The asked terms of each word met so far; most words have none."""

    def __init__(self, asked: dict[str, float]) -> None:
        super().__init__()
        self._asked = asked
        self._heads = {term[:HEAD] for term in asked}

    def __missing__(self, word: str) -> tuple[str, ...]:
        hit = self[word] = self._hit(word)
        return hit

    def _hit(self, word: str) -> tuple[str, ...]:
        """Say which asked terms a word is found by, quickly for most: a stem keeps the beginning of its word."""
        asked, heads = self._asked, self._heads
        if not word.isascii():
            return tuple(term for term in terms(word) if term in asked)
        if word.isdigit():
            return (word[:LONGEST_WORD],) if word[:LONGEST_WORD] in asked else ()
        lower = word[:LONGEST_WORD].lower()
        if word.isalpha() and (lower[1:] == word[1:] or word.isupper()):
            return tuple(term for term in terms(word) if term in asked) if lower[:HEAD] in heads else ()
        found = {lower: None} if lower in asked else {}
        for piece in _PIECE.findall(word[:LONGEST_WORD]):
            short = piece.lower()
            if short[:HEAD] in heads:
                term = short if short.isdigit() else stem(short)
                if term in asked and (len(term) > 1 or term.isdigit()):
                    found[term] = None
        return tuple(found)


def _literal(literal: str) -> str:
    return f"\0{literal}"  # no word has a NUL in it


def _count_literals(
    text: str, spans: Sequence[Span], literals: Iterable[str], counts: dict[int, dict[str, int]]
) -> None:
    starts = [start for start, _ in spans]
    for literal in literals:
        at = text.find(literal)
        while at >= 0:
            index = bisect_right(starts, at) - 1
            end = at + len(literal)
            if index >= 0 and end <= spans[index][1] and _stands_alone(text, at, end):
                found = counts.setdefault(index, {})
                found[_literal(literal)] = found.get(_literal(literal), 0) + 1
            at = text.find(literal, end)


def _stands_alone(text: str, start: int, end: int) -> bool:
    return not (start > 0 and text[start - 1].isalnum()) and not (end < len(text) and text[end].isalnum())


def _bm25(spans: Sequence[Span], counts: dict[int, dict[str, int]], weights: dict[str, float]) -> list[float]:
    having = Counter(term for found in counts.values() for term in found)
    total = len(spans)
    value = {
        term: weights[term] * log(1.0 + (total - df + 0.5) / (df + 0.5)) * (K1 + 1.0) for term, df in having.items()
    }
    average = sum(end - start for start, end in spans) / total or 1.0
    scores = [0.0] * total
    for index, found in counts.items():
        start, end = spans[index]
        norm = K1 * (1.0 - B + B * (end - start) / average)
        scores[index] = sum(value[term] * times / (times + norm) for term, times in found.items())
    return scores
