"""Splits a text that is longer than the encoder's window into overlapping windows.

A window ends at a line or a sentence if one ends in its second half, else between words, else anywhere. Every character
is in some window, and no window is too long.
"""

import re
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterator, Sequence

from .tokenizer import Span

_SENTENCE_BREAK = re.compile(r"\n+|[.!?][\"')\]]*\s+|[\u3002\uff01\uff1f]")
_WORD_BREAK = re.compile(r"\s+")

BLOCK_CHARACTERS = 32_768  # tokenized at once; the time grows faster than the length
TokenizeFunction = Callable[[str], list[Span]]


def chunk_text(
    text: str, tokenize: TokenizeFunction, limit: int, overlap: int | None = None, *, tokens: list[Span] | None = None
) -> list[Span]:
    """Return the windows of a text, in characters; each has at most `limit` tokens.

    A window may repeat up to `overlap` tokens of the previous one, by default an eighth of `limit`. `tokens` is
    `tokenize(text)`, if the caller has it.
    """
    tokens = tokenize(text) if tokens is None else tokens
    if len(tokens) <= limit:
        return [Span(0, len(text))]
    cuts = _CutPositions(text)
    starts = [token.start for token in tokens]
    max_overlap = limit // 8 if overlap is None else overlap
    windows = [_next_chunk(text, 0, (tokens, starts), (tokenize, limit, cuts))]
    while windows[-1].end < len(text):
        last = windows[-1]
        next_token = bisect_left(starts, last.end)
        earliest = max(starts[max(next_token - max_overlap, 0)], last.start + 1)
        start = cuts.first_sentence_start(earliest, last.end - 1) if max_overlap else None
        window = _next_chunk(text, last.end if start is None else start, (tokens, starts), (tokenize, limit, cuts))
        if window.end <= last.end:  # the overlap left no room for new text
            window = _next_chunk(text, last.end, (tokens, starts), (tokenize, limit, cuts))
        windows.append(window)
    return windows


def chunk_in_blocks(
    text: str, tokenize: TokenizeFunction, limit: int, overlap: int | None = None
) -> Iterator[list[Span]]:
    """Yield the windows of a text, as `chunk_text` does, in groups: a long text is tokenized block by block.

    The time for a group does not depend on the length of the text, so a caller can stop in between. A block begins
    where the last window of the block before it began.
    """
    start = 0
    while True:
        end = min(len(text), start + BLOCK_CHARACTERS)
        block = chunk_text(text[start:end], tokenize, limit, overlap)
        windows = [Span(start + window.start, start + window.end) for window in block]
        if end == len(text):
            yield windows
            return
        start = windows.pop().start if len(windows) > 1 else end  # the last window was cut by the end of the block
        yield windows


class _CutPositions:
    """The positions at which a text may be cut: after sentences and after words."""

    def __init__(self, text: str) -> None:
        self._sentences = [match.end() for match in _SENTENCE_BREAK.finditer(text)]
        self._words = [match.end() for match in _WORD_BREAK.finditer(text)]

    def first_sentence_start(self, low: int, high: int) -> int | None:
        """Return the first sentence start in [low, high]."""
        index = bisect_left(self._sentences, low)
        return self._sentences[index] if index < len(self._sentences) and self._sentences[index] <= high else None

    def last_cut(self, low: int, high: int) -> int:
        """Return the last sentence end in (low, high], else the last word end, else `high`."""
        for cuts in (self._sentences, self._words):
            count = bisect_right(cuts, high)
            if count and cuts[count - 1] > low:
                return cuts[count - 1]
        return high


def _next_chunk(
    text: str,
    start: int,
    text_tokens: tuple[Sequence[Span], Sequence[int]],
    options: tuple[TokenizeFunction, int, _CutPositions],
) -> Span:
    tokens, starts = text_tokens
    tokenize, limit, cuts = options
    first, room = bisect_left(starts, start), limit
    while True:
        last = min(first + room, len(tokens)) - 1
        end = len(text) if last == len(tokens) - 1 else tokens[last].end
        if end < len(text):
            end = cuts.last_cut(tokens[first + room // 2].start, end)
        end = max(end, start + 1)
        # A window may have more tokens than inside the whole text, and one character can be four tokens.
        excess = len(tokenize(text[start:end])) - limit
        if excess <= 0 or room == 1:
            return Span(start, end)
        room = max(1, room - excess)
