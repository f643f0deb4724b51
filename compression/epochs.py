"""When a long conversation may have its old part shortened: in epochs, computed from the transcript alone.

Shortening what was forwarded before breaks the provider's prompt cache once, so it happens rarely and at places that
every replica finds by itself: walk the messages; an epoch ends when its running total passes a limit.
"""

from collections.abc import Sequence


def boundary(tokens: Sequence[int], limit: int) -> int:
    """Return how many of the messages belong to epochs that have ended; it never falls as a conversation grows."""
    ended = running = 0
    for index, count in enumerate(tokens):
        running += count
        if running > limit:
            ended, running = index + 1, 0
    return ended
