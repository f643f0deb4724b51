"""When old tool outputs are pruned, and from when on older history may be compressed.

Both change text that was forwarded before, which breaks the provider's prompt cache once. So they happen only when an
epoch ends. An epoch is the requests between two pruning points; it ends at a message that every replica computes from
the transcript alone, and that never moves back as the conversation grows.

- `window_limit` ends an epoch when the running total of tokens passes a limit.
- `last_prune` ends an epoch when re-reading stale outputs from the cache has cost as much as one rewrite of everything
  behind them. It costs little if the conversation ends soon and pays if it goes on.

`StalenessIndex` decides when an output is stale. Agents use most of an output at once: a few thousand tokens later,
hardly anything but code is used, and code is edited long after it was read unless the file was read again. The limits
were measured on recorded agents (`benchmarks/replay`).
"""

import re
from bisect import bisect_left
from collections.abc import Mapping, Sequence
from itertools import accumulate
from typing import NamedTuple

from .compressor import CompressedPassage, Gap
from .memo import Memo

STALE_AFTER_TOKENS = {"code": 11_000, "diff": 11_000}  # tokens that follow before an output is stale, by its kind
DEFAULT_STALE_AFTER_TOKENS = 2_000
HEAD_CHARACTERS = 120  # characters of the first line
HEAD_TOKENS = 20  # tokens that remain of a pruned output, marker included
NEVER = 10**9
_CALL_WORD = re.compile(r"[\w./+@~-]+")
_FILE_NAME = re.compile(r"[\w+@~-][\w.+@~-]*\.\w{1,4}")
_MAX_CALL_CHARACTERS = 20_000  # characters of a call; a longer one writes a file rather than names one


class MessageTokens(NamedTuple):
    """A message as it is forwarded while it is new, in tokens.

    `prunable` of its `tokens` are removed by the first epoch that ends with `stale_after` or more messages; 0 if it is
    never pruned. `starts_reply` marks the model's own words: everything before them was read to write them.
    """

    tokens: int
    prunable: int
    stale_after: int
    starts_reply: bool


class StalenessIndex:
    """The tokens that precede each message, and the messages that read each file.

    `tokens` counts each message as it is forwarded; `reads` maps the index of a file read to its call.
    """

    def __init__(self, tokens: Sequence[int], reads: Mapping[int, str]) -> None:
        self._tokens_before = list(accumulate(tokens, initial=0))
        self._reads_by_file: dict[str, list[int]] = {}
        for index, call in reads.items():
            for name in extract_file_names(call):
                self._reads_by_file.setdefault(name, []).append(index)

    def stale_after(self, index: int, kind: str, call: str) -> int:
        """Return the number of messages at which message `index` becomes stale; `NEVER` if it is not stale yet."""
        limit = STALE_AFTER_TOKENS.get(kind)
        end = self._tokens_before[index + 1] + (limit or DEFAULT_STALE_AFTER_TOKENS)
        count = bisect_left(self._tokens_before, end)
        if count >= len(self._tokens_before):
            return NEVER
        return count if limit is None else max(count, self._find_next_read(index, call) + 1)

    def _find_next_read(self, index: int, call: str) -> int:
        """Return the index of the next message that reads a file named by the call."""
        next_reads: list[int] = []
        for name in extract_file_names(call):
            reads = self._reads_by_file.get(name, [])
            position = bisect_left(reads, index + 1)
            next_reads += reads[position : position + 1]
        return min(next_reads, default=NEVER - 1)


def window_limit(tokens: Sequence[int], limit: int) -> int:
    """Return how many messages belong to ended epochs; never falls as a conversation grows."""
    ended = running = 0
    for index, count in enumerate(tokens):
        running += count
        if running > limit:
            ended, running = index + 1, 0
    return ended


def last_prune(messages: Sequence[MessageTokens], price: float) -> int:
    """Return the number of messages when an epoch last ended, 0 if none has: outputs stale by then are pruned.

    `price` is the cost of writing a token to the cache, in tokens read from it: (write - read) / read.
    """
    queue = sorted((message.stale_after, index) for index, message in enumerate(messages) if message.prunable)
    sums = _sum_tokens_before(messages, 0)
    ended = wasted = prunable = position = 0
    first = len(messages)
    for index, message in enumerate(messages):
        while position < len(queue) and queue[position][0] <= index:
            stale = queue[position][1]
            first, prunable, position = min(first, stale), prunable + messages[stale].prunable, position + 1
        if not message.starts_reply or not prunable:
            continue
        wasted += prunable
        if wasted >= price * (sums[index] - sums[first] - prunable):
            ended, wasted, prunable, first = index, 0, 0, len(messages)
            sums = _sum_tokens_before(messages, ended)
    return ended


def keep_first_line(text: str) -> CompressedPassage:
    """Return a pruned output: its first line, cut to `HEAD_CHARACTERS`."""
    lines = text.strip("\n").split("\n")
    if len(lines) > 1 and len(lines[0]) <= HEAD_CHARACTERS:
        return CompressedPassage((lines[0], Gap(len(lines) - 1, "lines")), len(lines), "lines")
    head = lines[0][:HEAD_CHARACTERS]
    return CompressedPassage((head, Gap(len(text) - len(head), "characters")), len(text), "characters")


def _sum_tokens_before(messages: Sequence[MessageTokens], ended: int) -> list[int]:
    """Return the tokens before each message and before the end, without those pruned by an epoch's end."""
    sizes = (
        message.tokens - (message.prunable if message.prunable and message.stale_after <= ended else 0)
        for message in messages
    )
    return list(accumulate(sizes, initial=0))


def _parse_file_names(call: str) -> frozenset[str]:
    words = [word.rstrip("/.") for word in _CALL_WORD.findall(call[:_MAX_CALL_CHARACTERS])]
    return frozenset(
        word.rsplit("/", 1)[-1] for word in words if "/" in word or (len(word) <= 100 and _FILE_NAME.fullmatch(word))
    )


extract_file_names = Memo(_parse_file_names, 20_000)  # the files named in a call, without their folders
