"""Verbatim excerpts of an original, by line numbers or by a query. Pure."""

import math
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import chain, groupby

MAX_MATCHES = 20  # lines that match a query
CONTEXT_LINES = 2  # on either side of a match
MAX_PIECE_CHARS = 1_000  # a longer line (minified JSON) is searched and shown in pieces of this length


def cut_excerpt(text: str, query: str | None = None, lines: str | None = None) -> str:
    """Return a verbatim excerpt of a text.

    Without `query` and `lines` it is the whole text; with both, the query searches within the lines.

    Args:
        text: the original.
        query: words to search for, rare ones first. The result has the format of `grep -n -C 2`: `12:` before a match,
            `11-` before a context line, `--` between groups; it is empty without a match. A line longer than
            `MAX_PIECE_CHARS` is split: `12@1001:` is its piece from character 1,001 on.
        lines: `N`, `N-M` or `N-`, counted from 1, both ends included.

    Raises:
        ValueError: `lines` is invalid.
    """
    rows = text.split("\n")
    first, last = (1, len(rows)) if lines is None else _parse_range(lines, len(rows))
    if query is None:
        return "\n".join(rows[first - 1 : last])
    pieces = list(_split_pieces(rows, first, last))
    matches = set(_rank_pieces(query, [piece for _, piece in pieces]))
    indexes = sorted(
        {
            index
            for match in matches
            for index in range(max(0, match - CONTEXT_LINES), min(len(pieces), match + CONTEXT_LINES + 1))
        }
    )
    groups = groupby(enumerate(indexes), lambda pair: pair[1] - pair[0])
    return "\n--\n".join(
        "\n".join(f"{pieces[index][0]}{':' if index in matches else '-'}{pieces[index][1]}" for _, index in group)
        for _, group in groups
    )


def _parse_range(lines: str, count: int) -> tuple[int, int]:
    match = re.fullmatch(r"([0-9]{1,9})(-?)([0-9]{0,9})", lines.strip())
    if match is None or (match[3] and not match[2]):
        raise ValueError(f"lines must be N, N-M or N-, as in 10-20, not {lines[:40]!r}")
    first = int(match[1])
    last = int(match[3]) if match[3] else count if match[2] else first
    if first < 1:
        raise ValueError("lines are counted from 1")
    if last < first:
        raise ValueError(f"lines end ({last}) before they begin ({first})")
    if first > count:
        raise ValueError(f"lines begin at {first}, but there are only {count}")
    return first, min(last, count)


def _split_pieces(rows: Sequence[str], first: int, last: int) -> Iterable[tuple[str, str]]:
    for number in range(first, last + 1):
        row = rows[number - 1]
        if len(row) <= MAX_PIECE_CHARS:
            yield str(number), row
        else:
            yield from (
                (f"{number}@{start + 1}", row[start : start + MAX_PIECE_CHARS])
                for start in range(0, len(row), MAX_PIECE_CHARS)
            )


def _rank_pieces(query: str, pieces: Sequence[str]) -> list[int]:
    query_words = _extract_words(query)
    phrase = query.strip().casefold()
    common_words = [query_words & _extract_words(piece) for piece in pieces]
    frequencies = Counter(chain.from_iterable(common_words))
    weights = {word: math.log(1 + len(pieces) / frequency) for word, frequency in frequencies.items()}
    phrase_weight = sum(weights.values()) + 1.0  # the whole query outweighs all of its words
    scores = [
        sum(weights[word] for word in words) + (phrase_weight if phrase and phrase in piece.casefold() else 0.0)
        for words, piece in zip(common_words, pieces, strict=True)
    ]
    ranked = sorted((index for index, score in enumerate(scores) if score > 0), key=lambda index: -scores[index])
    return [index for index in ranked[:MAX_MATCHES] if scores[index] >= scores[ranked[0]] / 3]


def _extract_words(text: str) -> set[str]:
    return set(re.findall(r"[^\W_]+", text.casefold()))
