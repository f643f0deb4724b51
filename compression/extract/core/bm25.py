"""Ranks spans of a text by a question: BM25 over what words are found by (`words` says) and over literals.

No index and no statistics but those of the text at hand. One pass over the text; only words of the question are
counted, so that a text of a million different words costs little more than a text of one.
"""

import re
from bisect import bisect_right
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from itertools import chain, groupby
from math import log
from operator import itemgetter
from typing import NamedTuple

from . import terms

K1 = 1.2
B = 0.4
MAX_LITERALS = 64
MAX_PREFIXES = 64  # beginnings of words that are looked for all at once
BATCH_SPANS = 128  # spans whose words are looked up together: so few that their lists set off no garbage collection
MAX_QUESTION_CHARACTERS = 20_000  # characters of a question read, half from each end
LITERAL_WEIGHT = 1.5
PART_WEIGHT = 0.6  # of a word's parts
INFLECTION_WEIGHT = 0.3  # of another form of a word
CODE_WEIGHT = 1.5  # identifiers and numbers say more about what is wanted than common words do

Span = tuple[int, int]

_IDENTIFIER_PART = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|\d+")
_EMOJI = re.compile(r"[\u2600-\u27bf\U0001f300-\U0001faff]")
_COMPOUND_WORD = re.compile(r"(?<!\w)\w+(?:[^\w\s\"'`,;()\[\]{}<>]{1,2}\w+)+")
_QUOTED = re.compile(r"\"([^\"\n]{3,80})\"|`([^`\n]{3,80})`|'([^'\n]{3,80})'")
STOP_WORDS = frozenset(
    re.findall(
        r"\w+",
        """a about all also an and any are as at be been but by can could did do does for from had has have having he
        her his how i if in into is it its know like me my no not of on one or our out please she should so some such
        tell than that the their them then there these they this those to up was we were what when where which while
        who whom whose why will with would you your""",
    )
)


class Query(NamedTuple):
    """What a question asks for: words with their weights, and literals looked up as they stand."""

    weights: dict[str, float]
    literals: tuple[str, ...]


def parse_query(question: str) -> Query:
    """Read a question; a very long one is read at both ends."""
    if len(question) > MAX_QUESTION_CHARACTERS:
        question = question[: MAX_QUESTION_CHARACTERS // 2] + "\n" + question[-MAX_QUESTION_CHARACTERS // 2 :]
    weights: dict[str, float] = {}
    for word, times in Counter(terms.choose_word_pattern(question).findall(question)).items():
        if word.lower() in STOP_WORDS:
            continue
        found = terms.extract_terms(word)
        forms = not word.isascii() and not any(map(terms.is_unspaced, word))  # of one word, rather than its parts
        weight = (1.0 + log(times)) * (CODE_WEIGHT if word.isdigit() or (len(found) > 1 and not forms) else 1.0)
        for index, term in enumerate(found):
            share = 1.0 if index == 0 else INFLECTION_WEIGHT if forms else PART_WEIGHT
            weights[term] = max(weights.get(term, 0.0), weight * share)
    literals = Counter(_COMPOUND_WORD.findall(question))
    literals.update(match[match.lastindex or 0] for match in _QUOTED.finditer(question))
    literals.update(_EMOJI.findall(question))
    return Query(weights, tuple(literal for literal, _ in literals.most_common(MAX_LITERALS) if literal))


def score_spans(text: str, spans: Sequence[Span], asked: Query) -> list[float]:
    """Score each span (ascending, apart) of the text against the question; 0.0 where nothing of it stands."""
    return score_counts(spans, count_terms(text, spans, asked), asked)


def count_terms(text: str, spans: Sequence[Span], asked: Query) -> dict[int, dict[str, int]]:
    """Count what is asked for in each span that holds any of it, by the span's index."""
    if not spans or not (asked.weights or asked.literals):
        return {}
    known, read = _TermMatcher(asked.weights), terms.make_word_reader(text)
    found_in: dict[int, dict[str, int]] = {}
    for first in range(0, len(spans), BATCH_SPANS):
        said = [read(start, end) for start, end in spans[first : first + BATCH_SPANS]]
        hits = known.match_words(said)
        for index, these in enumerate(said, first):
            if not hits.keys().isdisjoint(these):
                found_in[index] = _tally_terms(filter(None, map(hits.get, these)))
    _count_literals(text, spans, asked.literals, found_in)
    return found_in


def _tally_terms(hits: Iterable[tuple[str, ...]]) -> dict[str, int]:
    found: dict[str, int] = {}
    for hit in hits:
        for term in hit:
            found[term] = found.get(term, 0) + 1
    return found


def merge_counts(found_in: Mapping[int, Mapping[str, int]], owners: Sequence[int]) -> dict[int, dict[str, int]]:
    """Add up what was counted in the spans of one owner each; spans of none (-1) count for nothing."""
    merged: dict[int, dict[str, int]] = {}
    for index, found in found_in.items():
        if owners[index] >= 0:
            whole = merged.setdefault(owners[index], {})
            for term, times in found.items():
                whole[term] = whole.get(term, 0) + times
    return merged


def score_counts(spans: Sequence[Span], found_in: Mapping[int, Mapping[str, int]], asked: Query) -> list[float]:
    """Score spans by what was counted in them."""
    value = compute_term_weights(len(spans), found_in, asked)
    average = sum(end - start for start, end in spans) / max(1, len(spans)) or 1.0
    scores = [0.0] * len(spans)
    for index, found in found_in.items():
        start, end = spans[index]
        norm = K1 * (1.0 - B + B * (end - start) / average)
        scores[index] = sum([value[term] * (K1 + 1.0) * times / (times + norm) for term, times in found.items()])
    return scores


def compute_term_weights(total: int, found_in: Mapping[int, Mapping[str, int]], asked: Query) -> dict[str, float]:
    """Say what each term found is worth: its weight in the question, and the more, the fewer of the spans have it."""
    having = Counter(term for found in found_in.values() for term in found)
    weights = asked.weights | dict.fromkeys(map(_make_literal_key, asked.literals), LITERAL_WEIGHT)
    return {term: weights[term] * log(1.0 + (total - df + 0.5) / (df + 0.5)) for term, df in having.items()}


def score_mentions(text: str, spans: Sequence[Span], names: Sequence[str]) -> list[float]:
    """Score each span by the names that stand in it as they are written, the more, the rarer they are."""
    found_in: dict[int, dict[str, int]] = {}
    _count_literals(text, spans, names, found_in)
    return score_counts(spans, found_in, Query({}, tuple(names)))


class _TermMatcher:
    """The asked terms of each word met so far that has any; most have none."""

    def __init__(self, asked: dict[str, float]) -> None:
        self._query_weights = asked
        self._prefixes = {term[: terms.PREFIX_LENGTH] for term in asked}
        self._prefix_pattern = _compile_prefixes(self._prefixes) if len(self._prefixes) <= MAX_PREFIXES else None
        self._seen_words: set[str] = set()
        self._piece_terms: dict[str, str] = {}
        self._word_terms: dict[str, tuple[str, ...]] = {}

    def match_words(self, said: Iterable[Iterable[str]]) -> dict[str, tuple[str, ...]]:
        """Return the hits among all words met, with those of these texts."""
        new = set(chain.from_iterable(said)) - self._seen_words
        self._seen_words |= new
        for word in filter(self._may_match, new):
            hit = self._match_word(word)
            if hit:
                self._word_terms[word] = hit
        return self._word_terms

    def _may_match(self, word: str) -> bool:
        """Rule out most words of most texts at a glance."""
        if not word.isascii():
            return True
        if word.isdigit():
            return word[: terms.MAX_WORD_CHARACTERS] in self._query_weights
        if word.isalpha() and word[1:].islower():
            return word[: terms.PREFIX_LENGTH].lower() in self._prefixes
        return self._prefix_pattern is None or self._prefix_pattern.search(word.lower()) is not None

    def _match_word(self, word: str) -> tuple[str, ...]:
        """Say which asked terms a word is found by, quickly for most: a stem keeps the beginning of its word."""
        asked, heads = self._query_weights, self._prefixes
        if not word.isascii():
            return tuple(term for term in terms.extract_terms(word) if term in asked)
        if word.isdigit():
            return (word[: terms.MAX_WORD_CHARACTERS],) if word[: terms.MAX_WORD_CHARACTERS] in asked else ()
        lower = word[: terms.MAX_WORD_CHARACTERS].lower()
        if word.isalpha() and (lower[1:] == word[1:] or word.isupper()):
            return (
                tuple(term for term in terms.extract_terms(word) if term in asked)
                if lower[: terms.PREFIX_LENGTH] in heads
                else ()
            )
        found = {lower: None} if lower in asked else {}
        for piece in _IDENTIFIER_PART.findall(word[: terms.MAX_WORD_CHARACTERS]):
            if piece[: terms.PREFIX_LENGTH].lower() in heads:
                term = self._piece_terms.get(piece) or self._stem_piece(piece)
                if term in asked and (len(term) > 1 or term.isdigit()):
                    found[term] = None
        return tuple(found)

    def _stem_piece(self, piece: str) -> str:
        short = piece.lower()
        self._piece_terms[piece] = term = short if short.isdigit() else terms.stem(short)
        return term


def _compile_prefixes(heads: Iterable[str]) -> re.Pattern[str]:
    """Return what finds any of these beginnings; by their first letters, so that few are tried at any place."""
    groups = groupby(sorted(heads), itemgetter(0))
    return re.compile("|".join(f"{first}(?:{'|'.join(head[1:] for head in some)})" for first, some in groups))


def _make_literal_key(literal: str) -> str:
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
            if index >= 0 and end <= spans[index][1] and _is_whole_word(text, at, end):
                found = counts.setdefault(index, {})
                found[_make_literal_key(literal)] = found.get(_make_literal_key(literal), 0) + 1
            at = text.find(literal, end)


def _is_whole_word(text: str, start: int, end: int) -> bool:
    return not (start > 0 and _continues_word(text[start - 1])) and not (end < len(text) and _continues_word(text[end]))


def _continues_word(character: str) -> bool:
    return character.isalnum() and not terms.is_unspaced(character)
