"""A text longer than the model reads at once, in pieces that it can; nothing is lost between them.

Pieces end at a line or a sentence where one ends in their second half, else between words, else anywhere, and the next
one repeats a little of the last. The invariant: every character lies in some window, and no window is too long.
"""

import re
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Sequence

from .tokenizer import Span

_SENTENCE_BREAK = re.compile(r"\n+|[.!?][\"')\]]*\s+|[\u3002\uff01\uff1f]")
_WORD_BREAK = re.compile(r"\s+")

TokenizeFunction = Callable[[str], list[Span]]


def chunk_text(text: str, tokenize: TokenizeFunction, limit: int, overlap: int | None = None) -> list[Span]:
    """Return the windows of a text, in characters; each has at most `limit` tokens.

    `overlap` is how many tokens a window may repeat of the one before, an eighth of `limit` unless given.
    """
    tokens = tokenize(text)
    if len(tokens) <= limit:
        return [Span(0, len(text))]
    cuts = _CutPositions(text)
    starts = [token.start for token in tokens]
    back = limit // 8 if overlap is None else overlap
    windows = [_next_chunk(text, 0, (tokens, starts), (tokenize, limit, cuts))]
    while windows[-1].end < len(text):
        last = windows[-1]
        at = bisect_left(starts, last.end)
        floor = max(starts[max(at - back, 0)], last.start + 1)
        again = cuts.first_sentence_start(floor, last.end - 1) if back else None
        window = _next_chunk(text, last.end if again is None else again, (tokens, starts), (tokenize, limit, cuts))
        # A repetition that leaves no room for anything new is no use.
        windows.append(
            window if window.end > last.end else _next_chunk(text, last.end, (tokens, starts), (tokenize, limit, cuts))
        )
    return windows


class _CutPositions:
    """The places where a text may be cut, better ones first."""

    def __init__(self, text: str) -> None:
        self._sentences = [match.end() for match in _SENTENCE_BREAK.finditer(text)]
        self._words = [match.end() for match in _WORD_BREAK.finditer(text)]

    def first_sentence_start(self, low: int, high: int) -> int | None:
        """Return the first sentence start in [low, high]."""
        place = bisect_left(self._sentences, low)
        return self._sentences[place] if place < len(self._sentences) and self._sentences[place] <= high else None

    def last_cut(self, low: int, high: int) -> int:
        """Return the last good cut in (low, high], or `high`."""
        for cuts in (self._sentences, self._words):
            place = bisect_right(cuts, high)
            if place and cuts[place - 1] > low:
                return cuts[place - 1]
        return high


def _next_chunk(
    text: str, start: int, whole: tuple[Sequence[Span], Sequence[int]], how: tuple[TokenizeFunction, int, _CutPositions]
) -> Span:
    tokens, starts = whole
    tokenize, limit, cuts = how
    first, room = bisect_left(starts, start), limit
    while True:
        last = min(first + room, len(tokens)) - 1
        end = len(text) if last == len(tokens) - 1 else tokens[last].end
        if end < len(text):
            end = cuts.last_cut(tokens[first + room // 2].start, end)
        end = max(end, start + 1)
        # A piece may come out longer than it was inside the whole, and one character can be four tokens.
        excess = len(tokenize(text[start:end])) - limit
        if excess <= 0 or room == 1:
            return Span(start, end)
        room = max(1, room - excess)
