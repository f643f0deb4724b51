"""How long the output of a tool is worth its place, counted in what has come since: `epochs` says when it goes then.

Agents use most of an output at once. Of what is not source code hardly anything is used once a few thousand tokens have
followed; code is edited long after it was read, unless the same file was read again since. The figures come from what
recorded agents used later (`benchmarks/replay`). Of what goes the first line stays, and the call that asked for it.
"""

import re
from bisect import bisect_left
from collections.abc import Mapping, Sequence
from itertools import accumulate

from .compressor import CompressedPassage, Gap
from .memo import Memo

STALE_AFTER_TOKENS = {"code": 11_000, "diff": 11_000}  # tokens that follow before an output is old, by its kind
DEFAULT_STALE_AFTER_TOKENS = 2_000
HEAD_CHARACTERS = 120  # characters of the first line
HEAD_TOKENS = 20  # tokens that stay of an old output, marker included
NEVER = 10**9
_CALL_WORD = re.compile(r"[\w./+@~-]+")
_FILE_NAME = re.compile(r"[\w+@~-][\w.+@~-]*\.\w{1,4}")
_MAX_CALL_CHARACTERS = 20_000  # characters of a call; what is longer writes a file rather than names one


class StalenessIndex:
    """What came when: the tokens of all messages as they are forwarded, and for each that reads a file its call."""

    def __init__(self, tokens: Sequence[int], reads: Mapping[int, str]) -> None:
        self._tokens_before = list(accumulate(tokens, initial=0))
        self._reads_by_file: dict[str, list[int]] = {}
        for index, call in reads.items():
            for name in extract_file_names(call):
                self._reads_by_file.setdefault(name, []).append(index)

    def stale_after(self, index: int, kind: str, call: str) -> int:
        """Return how many messages there are when the output that is message `index` is old; `NEVER` if not yet."""
        stays = STALE_AFTER_TOKENS.get(kind)
        at = bisect_left(self._tokens_before, self._tokens_before[index + 1] + (stays or DEFAULT_STALE_AFTER_TOKENS))
        if at >= len(self._tokens_before):
            return NEVER
        return at if stays is None else max(at, self._find_next_read(index, call) + 1)

    def _find_next_read(self, index: int, call: str) -> int:
        """Return which message reads again one of the files that a call names."""
        later = (self._reads_by_file.get(name, []) for name in extract_file_names(call))
        return min((some[at] for some in later if (at := bisect_left(some, index + 1)) < len(some)), default=NEVER - 1)


def keep_first_line(text: str) -> CompressedPassage:
    """Return what stays of an old output: its first line."""
    lines = text.strip("\n").split("\n")
    if len(lines) > 1 and len(lines[0]) <= HEAD_CHARACTERS:
        return CompressedPassage((lines[0], Gap(len(lines) - 1, "lines")), len(lines), "lines")
    kept = lines[0][:HEAD_CHARACTERS]
    return CompressedPassage((kept, Gap(len(text) - len(kept), "characters")), len(text), "characters")


def _parse_file_names(call: str) -> frozenset[str]:
    words = [word.rstrip("/.") for word in _CALL_WORD.findall(call[:_MAX_CALL_CHARACTERS])]
    return frozenset(
        word.rsplit("/", 1)[-1] for word in words if "/" in word or (len(word) <= 100 and _FILE_NAME.fullmatch(word))
    )


extract_file_names = Memo(_parse_file_names, 20_000)  # the files that a call names, without their folders
