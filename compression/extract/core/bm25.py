"""Ranks spans of a text by a question: BM25 over terms and literals, with the statistics of this text only.

One pass over the text counts only terms of the question, so the cost hardly depends on the size of the vocabulary.
`terms` defines the terms of a word.
"""

import re
from bisect import bisect_right
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import filterfalse, groupby
from math import log
from operator import itemgetter
from typing import NamedTuple

from . import terms
from .base_weights import DEFAULT_WEIGHTS, ExtractWeights

MAX_LITERALS = 64
BATCH_SPANS = 2_000  # whose words are in memory at once
MAX_VARIED_CHARACTERS = 1_000  # of a question whose words are also searched in other spellings
MAX_QUESTION_CHARACTERS = 20_000  # half from each end

Span = tuple[int, int]  # start, end
TermCounts = dict[int, dict[str, int]]  # by span index and term

_IDENTIFIER_PART = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|\d+")
_EMOJI = re.compile(r"[\u2600-\u27bf\U0001f300-\U0001faff]")
_COMPOUND_WORD = re.compile(r"(?<!\w)\w+(?:[^\w\s\"'`,;()\[\]{}<>]{1,2}\w+)+")
_ROOT_PATH = re.compile(r"(?<!\S)/(?![^\s?.,])")
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
    """The terms of a question with their weights, its literals, and the parameters of the ranking."""

    term_weights: dict[str, float]
    literals: tuple[str, ...]
    parameters: ExtractWeights = DEFAULT_WEIGHTS


def parse_query(question: str, parameters: ExtractWeights = DEFAULT_WEIGHTS) -> Query:
    """Extract terms and literals from a question; of a very long question, use both ends."""
    if len(question) > MAX_QUESTION_CHARACTERS:
        question = question[: MAX_QUESTION_CHARACTERS // 2] + "\n" + question[-MAX_QUESTION_CHARACTERS // 2 :]
    weights: dict[str, float] = {}
    for word, occurrences in Counter(terms.choose_word_pattern(question).findall(question)).items():
        if word.lower() in STOP_WORDS:
            continue
        word_terms = terms.extract_terms(word)
        is_inflected = not word.isascii() and not any(map(terms.is_unspaced, word))  # forms rather than parts
        is_identifier = word.isdigit() or (len(word_terms) > 1 and not is_inflected)
        weight = (1.0 + log(occurrences)) * (parameters.identifier_weight if is_identifier else 1.0)
        secondary = parameters.inflection_weight if is_inflected else parameters.word_part_weight
        for index, term in enumerate(word_terms):
            weights[term] = max(weights.get(term, 0.0), weight * (secondary if index else 1.0))
    for variant in terms.list_variants(question) if len(question) <= MAX_VARIED_CHARACTERS else ():
        weights.setdefault(variant, parameters.word_part_weight)
    literals = Counter(_COMPOUND_WORD.findall(question))
    literals.update(match[match.lastindex or 0] for match in _QUOTED.finditer(question))
    literals.update(_EMOJI.findall(question))
    literals.update(_ROOT_PATH.findall(question))
    return Query(weights, tuple(literal for literal, _ in literals.most_common(MAX_LITERALS) if literal), parameters)


def is_named(name: str, query: Query) -> bool:
    """Return True if the query has a word of a column's or a field's name, or the name is short for one (`mem`)."""
    words = re.findall(r"[^\W_]+", name)
    if any(term in query.term_weights for word in words for term in terms.extract_terms(word)):
        return True
    return any(
        term.startswith(word.lower()) or (len(term) >= terms.SHARED_PREFIX_LENGTH and word.lower().startswith(term))
        for word in words
        if len(word) >= terms.PREFIX_LENGTH
        for term in query.term_weights
    )


def score_spans(text: str, spans: Sequence[Span], query: Query) -> list[float]:
    """Score each span (ascending, not overlapping) against the query; 0.0 for a span without any of its terms."""
    return score_counts(spans, count_terms(text, spans, query), query)


def count_terms(text: str, spans: Sequence[Span], query: Query) -> TermCounts:
    """Count the terms of the query in each span that has any."""
    if not spans or not (query.term_weights or query.literals):
        return {}
    matcher = _TermMatcher(query.term_weights)
    read_words = terms.make_word_reader(text, terms.choose_word_pattern(text))
    counts: TermCounts = {}
    for first in range(0, len(spans), BATCH_SPANS):
        words = read_words(spans[first : first + BATCH_SPANS])
        matches = matcher.match_words(words)
        index = first
        for word in filter({terms.SPAN_END, *matches}.__contains__, words):
            if word == terms.SPAN_END:
                index += 1
            else:
                tally = counts.setdefault(index, {})
                for term in matches[word]:
                    tally[term] = tally.get(term, 0) + 1
    _count_literals(text, spans, query.literals, counts)
    return counts


def merge_counts(counts: Mapping[int, Mapping[str, int]], owners: Sequence[int]) -> TermCounts:
    """Add up the counts of all spans of an owner; ignore spans without an owner (-1)."""
    merged: TermCounts = {}
    for index, span_counts in counts.items():
        if owners[index] >= 0:
            total = merged.setdefault(owners[index], {})
            for term, occurrences in span_counts.items():
                total[term] = total.get(term, 0) + occurrences
    return merged


def score_counts(spans: Sequence[Span], counts: Mapping[int, Mapping[str, int]], query: Query) -> list[float]:
    """Score spans by their term counts."""
    k1, b = query.parameters.bm25_k1, query.parameters.bm25_b
    weights = compute_term_weights(len(spans), counts, query)
    average = sum(end - start for start, end in spans) / max(1, len(spans)) or 1.0
    scores = [0.0] * len(spans)
    for index, span_counts in counts.items():
        start, end = spans[index]
        norm = k1 * (1.0 - b + b * (end - start) / average)
        scores[index] = sum(
            [weights[term] * (k1 + 1.0) * frequency / (frequency + norm) for term, frequency in span_counts.items()]
        )
    return scores


def compute_term_weights(total: int, counts: Mapping[int, Mapping[str, int]], query: Query) -> dict[str, float]:
    """Return the weight of each counted term: its weight in the query times its IDF over `total` spans."""
    frequencies = Counter(term for span_counts in counts.values() for term in span_counts)
    literals = dict.fromkeys(map(_make_literal_key, query.literals), query.parameters.literal_weight)
    weights = query.term_weights | literals
    return {term: weights[term] * log(1.0 + (total - df + 0.5) / (df + 0.5)) for term, df in frequencies.items()}


def score_mentions(text: str, spans: Sequence[Span], names: Sequence[str], parameters: ExtractWeights) -> list[float]:
    """Score each span by the names in it, as written; a rare name scores higher."""
    counts: TermCounts = {}
    _count_literals(text, spans, names, counts)
    return score_counts(spans, counts, Query({}, tuple(names), parameters))


class _TermMatcher:
    """Finds the query terms of words, and remembers the words that have any; most have none."""

    def __init__(self, term_weights: Mapping[str, float]) -> None:
        self._term_weights = term_weights
        self._prefixes = {term[: terms.PREFIX_LENGTH] for term in term_weights}
        self._prefix_pattern = _compile_prefixes(self._prefixes)
        self._seen_words: set[str] = {terms.SPAN_END}
        self._piece_terms: dict[str, str] = {}
        self._word_terms: dict[str, tuple[str, ...]] = {}

    def match_words(self, words: Iterable[str]) -> dict[str, tuple[str, ...]]:
        """Return the query terms of all words of this batch and of earlier ones."""
        new_words = set(words) - self._seen_words
        self._seen_words |= new_words
        for word in self._iter_candidates(new_words) if self._prefixes else ():
            match = self._match_word(word)
            if match:
                self._word_terms[word] = match
        return self._word_terms

    def _iter_candidates(self, words: Iterable[str]) -> Iterator[str]:
        """Yield the words that contain the start of a term, and all words that are not ASCII."""
        yield from filterfalse(str.isascii, words)
        joined = "\n".join(filter(str.isascii, words))
        lowered = joined.lower()
        end = 0
        while (prefix := self._prefix_pattern.search(lowered, end)) is not None:
            start = joined.rfind("\n", end, prefix.start()) + 1 or end
            end = joined.find("\n", prefix.end())
            end = end if end >= 0 else len(joined)
            yield joined[start:end]

    def _match_word(self, word: str) -> tuple[str, ...]:
        """Return the query terms of a word; a stem keeps the prefix of its word, so most need no stemming."""
        query_terms, prefixes = self._term_weights, self._prefixes
        if not word.isascii():
            return tuple(term for term in terms.extract_terms(word) if term in query_terms)
        if word.isdigit():
            number = word[: terms.MAX_WORD_CHARACTERS]
            return (number,) if number in query_terms else ()
        lower = word[: terms.MAX_WORD_CHARACTERS].lower()
        if word.isalpha() and (lower[1:] == word[1:] or word.removesuffix("s").isupper()):
            if lower[: terms.PREFIX_LENGTH] not in prefixes:
                return ()
            return tuple(term for term in terms.extract_terms(word) if term in query_terms)
        matches = {lower: None} if lower in query_terms else {}
        for piece in _IDENTIFIER_PART.findall(word[: terms.MAX_WORD_CHARACTERS]):
            if piece[: terms.PREFIX_LENGTH].lower() in prefixes:
                term = self._piece_terms.get(piece) or self._stem_piece(piece)
                if term in query_terms and (len(term) > 1 or term.isdigit()):
                    matches[term] = None
        return tuple(matches)

    def _stem_piece(self, piece: str) -> str:
        lower = piece.lower()
        self._piece_terms[piece] = term = lower if lower.isdigit() else terms.stem(lower)
        return term


def _compile_prefixes(prefixes: Iterable[str]) -> re.Pattern[str]:
    """Compile a pattern for any of the prefixes, grouped by first letter so that few alternatives are tried."""
    groups = groupby(sorted(prefixes), itemgetter(0))
    return re.compile("|".join(f"{first}(?:{'|'.join(prefix[1:] for prefix in group)})" for first, group in groups))


def _make_literal_key(literal: str) -> str:
    return f"\0{literal}"  # no word contains NUL


def _count_literals(text: str, spans: Sequence[Span], literals: Iterable[str], counts: TermCounts) -> None:
    starts = [start for start, _ in spans]
    for literal in literals:
        key = _make_literal_key(literal)
        start = text.find(literal)
        while start >= 0:
            index = bisect_right(starts, start) - 1
            end = start + len(literal)
            if index >= 0 and end <= spans[index][1] and _is_whole_word(text, start, end):
                span_counts = counts.setdefault(index, {})
                span_counts[key] = span_counts.get(key, 0) + 1
            start = text.find(literal, end)


def _is_whole_word(text: str, start: int, end: int) -> bool:
    return not (start > 0 and _continues_word(text[start - 1])) and not (end < len(text) and _continues_word(text[end]))


def _continues_word(character: str) -> bool:
    return character.isalnum() and not terms.is_unspaced(character)
