"""The sizes of a request's texts in tokens, without holding up the event loop, and within a deadline.

What is new and long is counted in a thread. A count that is late goes on there, since what it finds out is remembered;
the invariant: only so many do at once, so that they take neither all threads nor, with their texts, all memory.
"""

import asyncio
from collections.abc import Sequence
from typing import NamedTuple

from ...compression.tokens import Vocabulary, estimate

INLINE = 32_000  # new characters that are counted, and planned, on the event loop
LATE = 2  # counts that nobody waits for any more


class Sizes(NamedTuple):
    """The tokens of texts in no order, how many characters nobody had counted before, and whether that was too much."""

    tokens: list[int]
    new: int
    late: bool


class Counting:
    """Counts texts for all requests of one event loop."""

    def __init__(self) -> None:
        self._late: set[asyncio.Future[list[int]]] = set()

    async def sizes(self, counted: Vocabulary, texts: Sequence[str], seconds: float) -> Sizes:
        """Count texts; what cannot be counted within so many seconds is estimated."""
        known, unknown = counted.known(texts)
        new = sum(map(len, unknown))
        if new <= INLINE and counted.loaded:
            return Sizes(known + _count(counted, unknown), new, late=False)
        if len(self._late) < LATE and (seconds or new <= INLINE):
            counting = asyncio.ensure_future(asyncio.to_thread(_count, counted, unknown))
            counting.add_done_callback(self._ended)
            try:
                await asyncio.wait([counting], timeout=seconds)
            finally:  # late, or its client has gone
                if not counting.done():
                    self._late.add(counting)
            if counting.done():
                return Sizes(known + counting.result(), new, late=False)
        return Sizes(known + list(map(estimate, unknown)), new, late=True)

    def _ended(self, counting: asyncio.Future[list[int]]) -> None:
        self._late.discard(counting)
        if not counting.cancelled():
            counting.exception()  # heard also where nobody waits for it


def _count(counted: Vocabulary, texts: Sequence[str]) -> list[int]:
    return [counted.count(text) for text in texts]
