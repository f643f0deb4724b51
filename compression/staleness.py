"""When what was forwarded before may get shorter: in epochs, computed from the transcript alone.

Shortening what was forwarded before breaks the provider's prompt cache once, so it happens rarely and at places that
every replica finds by itself. `boundary` is for a window that fills up: walk the messages; an epoch ends when the
running total passes a limit. `paid` is for what is old: an epoch ends when reading it on and on from the cache has cost
as much as writing anew what follows it, so that it costs little where the conversation ends soon, and pays where it
goes on. Neither falls as a conversation grows.
"""

from collections.abc import Sequence
from itertools import accumulate
from typing import NamedTuple


class MessageTokens(NamedTuple):
    """A message as it is forwarded, in tokens, while all of it is new.

    `spare` of the `tokens` go in the first epoch that ends when there are `ripe` messages or more; 0 where nothing ever
    goes. `said`: it is the model's, so that everything before it was read to make it.
    """

    tokens: int
    prunable: int
    stale_after: int
    starts_reply: bool


def window_limit(tokens: Sequence[int], limit: int) -> int:
    """Return how many of the messages belong to epochs that have ended; it never falls as a conversation grows."""
    ended = running = 0
    for index, count in enumerate(tokens):
        running += count
        if running > limit:
            ended, running = index + 1, 0
    return ended


def last_prune(messages: Sequence[MessageTokens], price: float) -> int:
    """Return how many messages there were when an epoch last ended: what was ripe by then is gone; 0 for none.

    `price` is what it costs to write a token anew, in tokens read from the cache: (write - read) / read.
    """
    ripening = sorted((one.stale_after, index) for index, one in enumerate(messages) if one.prunable)
    sums = _sum_tokens_before(messages, 0)
    ended = wasted = spare = at = 0
    first = len(messages)
    for index, one in enumerate(messages):
        while at < len(ripening) and ripening[at][0] <= index:
            first, spare, at = min(first, ripening[at][1]), spare + messages[ripening[at][1]].prunable, at + 1
        if not one.starts_reply or not spare:
            continue
        wasted += spare
        if wasted >= price * (sums[index] - sums[first] - spare):
            ended, wasted, spare, first = index, 0, 0, len(messages)
            sums = _sum_tokens_before(messages, ended)
    return ended


def _sum_tokens_before(messages: Sequence[MessageTokens], ended: int) -> list[int]:
    """Return the tokens before each message and before the end, without what is gone."""
    left = (one.tokens - (one.prunable if one.prunable and one.stale_after <= ended else 0) for one in messages)
    return list(accumulate(left, initial=0))
