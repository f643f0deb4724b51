"""The sizes of a request's texts in tokens, without holding up the event loop, and within a deadline.

What is new and long is counted in a thread. A count that is late goes on there, since what it finds out is remembered;
the invariant: only so many do at once, so that they take neither all threads nor, with their texts, all memory.
"""

import asyncio
from collections.abc import Sequence
from typing import NamedTuple

from ...compression.tokens import TokenCounter, estimate_tokens

MAX_INLINE_CHARS = 32_000  # new characters that are counted, and planned, on the event loop
MAX_LATE_COUNTS = 2  # counts that nobody waits for any more


class TokenCounts(NamedTuple):
    """The tokens of texts in no order, how many characters nobody had counted before, and whether that was too much."""

    tokens: list[int]
    new_chars: int
    is_late: bool


class RequestTokenCounter:
    """Counts texts for all requests of one event loop."""

    def __init__(self) -> None:
        self._late_counts: set[asyncio.Future[list[int]]] = set()

    async def count_texts(self, vocabulary: TokenCounter, texts: Sequence[str], timeout: float) -> TokenCounts:
        """Count texts; what cannot be counted within so many seconds is estimated."""
        known, unknown = vocabulary.split_known(texts)
        new = sum(map(len, unknown))
        if new <= MAX_INLINE_CHARS and vocabulary.is_loaded:
            return TokenCounts(known + _count_tokens(vocabulary, unknown), new, is_late=False)
        if len(self._late_counts) < MAX_LATE_COUNTS and (timeout or new <= MAX_INLINE_CHARS):
            counting = asyncio.ensure_future(asyncio.to_thread(_count_tokens, vocabulary, unknown))
            counting.add_done_callback(self._discard_late_count)
            try:
                await asyncio.wait([counting], timeout=timeout)
            finally:  # late, or its client has gone
                if not counting.done():
                    self._late_counts.add(counting)
            if counting.done():
                return TokenCounts(known + counting.result(), new, is_late=False)
        return TokenCounts(known + list(map(estimate_tokens, unknown)), new, is_late=True)

    def _discard_late_count(self, counting: asyncio.Future[list[int]]) -> None:
        self._late_counts.discard(counting)
        if not counting.cancelled():
            counting.exception()  # heard also where nobody waits for it


def _count_tokens(vocabulary: TokenCounter, texts: Sequence[str]) -> list[int]:
    return [vocabulary.count(text) for text in texts]
