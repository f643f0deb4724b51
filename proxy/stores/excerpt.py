"""A piece of an original, verbatim: by line numbers, or the lines that answer a query. Pure."""

import math
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import chain, groupby

MAX_MATCHES = 20  # best lines that a query gives
CONTEXT_LINES = 2  # lines of context on either side
MAX_PIECE_CHARS = 1_000  # characters: a longer line (minified JSON) is searched and shown in pieces of these


def cut_excerpt(text: str, query: str | None = None, lines: str | None = None) -> str:
    """Cut a piece out of a passage, verbatim.

    `lines` is `N`, `N-M` or `N-`, from 1 on, both ends included; an end past the last line is the last line. `query`
    gives the lines that say most of its words, rare words first, with two around each, in their order: `12:` before
    one that matches, `11-` before one that stands near, `--` where lines are left out, nothing at all if none matches.
    Of a line longer than `PIECE` it gives pieces, `12@1001:` being that from its 1,001st character on. Both together
    search within the lines, neither gives the whole text. Raises ValueError when `lines` makes no sense.
    """
    rows = text.split("\n")
    first, last = (1, len(rows)) if lines is None else _parse_range(lines, len(rows))
    if query is None:
        return "\n".join(rows[first - 1 : last])
    pieces = list(_split_pieces(rows, first, last))
    best = set(_rank_pieces(query, [piece for _, piece in pieces]))
    near = sorted(
        {
            index
            for hit in best
            for index in range(max(0, hit - CONTEXT_LINES), min(len(pieces), hit + CONTEXT_LINES + 1))
        }
    )
    runs = groupby(enumerate(near), lambda place: place[1] - place[0])
    return "\n--\n".join(
        "\n".join(f"{pieces[index][0]}{':' if index in best else '-'}{pieces[index][1]}" for _, index in run)
        for _, run in runs
    )


def _parse_range(lines: str, count: int) -> tuple[int, int]:
    found = re.fullmatch(r"([0-9]{1,9})(-?)([0-9]{0,9})", lines.strip())
    if found is None or (found[3] and not found[2]):
        raise ValueError(f"lines must be N, N-M or N-, as in 10-20, not {lines[:40]!r}")
    first = int(found[1])
    last = int(found[3]) if found[3] else count if found[2] else first
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
                (f"{number}@{at + 1}", row[at : at + MAX_PIECE_CHARS]) for at in range(0, len(row), MAX_PIECE_CHARS)
            )


def _rank_pieces(query: str, pieces: Sequence[str]) -> list[int]:
    wanted = _extract_words(query)
    phrase = query.strip().casefold()
    said = [wanted & _extract_words(piece) for piece in pieces]
    spread = Counter(chain.from_iterable(said))
    weight = {word: math.log(1 + len(pieces) / times) for word, times in spread.items()}
    whole = sum(weight.values()) + 1.0  # the query as it stands beats any of its words
    scores = [
        sum(weight[word] for word in words) + (whole if phrase and phrase in piece.casefold() else 0.0)
        for words, piece in zip(said, pieces, strict=True)
    ]
    ranked = sorted((index for index, score in enumerate(scores) if score > 0), key=lambda index: -scores[index])
    return [index for index in ranked[:MAX_MATCHES] if scores[index] >= scores[ranked[0]] / 3]


def _extract_words(text: str) -> set[str]:
    return set(re.findall(r"[^\W_]+", text.casefold()))
