"""Finds many words in a text, and the spans (lines, pieces) that contain them.

Each search of `str.find` takes a millisecond per megabyte. Of a long text, all places with the first four characters of
any of the words are found by one pass with numpy, in a fifth of the time of 50 searches.
"""

from bisect import bisect_left, bisect_right
from collections.abc import Collection, Sequence

from .bm25 import Span

MIN_CHARACTERS = 200_000  # of a text for which numpy, slow to import, is worth while
GRAM_CHARACTERS = 4
TABLE_BITS = 16
_MULTIPLIER = 0x9E3779B1  # of a multiplicative hash: 2 ** 32 divided by the golden ratio


class WordFinder:
    """Finds the words given, as `str.find` does."""

    def __init__(self, text: str, words: Collection[str]) -> None:
        self.text = text
        is_indexed = len(text) >= MIN_CHARACTERS
        self._offsets = _find_all(text, [word for word in words if _is_indexable(word)]) if is_indexed else {}

    def find(self, word: str, start: int) -> int:
        """Return the first offset of a word at or behind another offset, or -1."""
        offsets = self._offsets.get(word)
        if offsets is None:
            return self.text.find(word, start)
        index = bisect_left(offsets, start)
        return offsets[index] if index < len(offsets) else -1

    def find_spans(self, word: str, starts: Sequence[int], spans: Sequence[Span], not_after: str = "") -> list[int]:
        """Return the indices of the spans with the word, except behind one of these characters.

        `starts` are the first offsets of the spans. A span contains the end of the word, and at least a part of it.
        """
        indices: list[int] = []
        start = self.find(word, 0)
        while start >= 0:
            index = bisect_right(starts, start + len(word) - 1) - 1
            if index < 0 or (start and self.text[start - 1] in not_after):
                start = self.find(word, start + 1)
                continue
            if start < spans[index][1]:
                indices.append(index)
            start = self.find(word, max(start + 1, spans[index][1]))
        return indices


def _is_indexable(word: str) -> bool:
    return len(word) >= GRAM_CHARACTERS and word.isascii()


def _find_all(text: str, words: Collection[str]) -> dict[str, list[int]]:
    """Return the ascending offsets of all occurrences of each word of at least GRAM_CHARACTERS in ASCII."""
    import numpy as np  # noqa: PLC0415  slow to import, and not needed for short texts

    characters = text.encode("latin-1", "replace")  # one byte for each character, so that offsets stay the same
    words_by_gram: dict[bytes, list[str]] = {}
    for word in dict.fromkeys(words):
        words_by_gram.setdefault(word[:GRAM_CHARACTERS].encode(), []).append(word)

    def compute_slots(buffer: bytes, first: int) -> "np.typing.NDArray[np.uint32]":
        grams = np.frombuffer(buffer, "<u4", (len(buffer) - first) // GRAM_CHARACTERS, first)
        slots: np.typing.NDArray[np.uint32] = (grams * np.uint32(_MULTIPLIER)) >> np.uint32(32 - TABLE_BITS)
        return slots

    table = np.zeros(1 << TABLE_BITS, np.bool_)
    table[compute_slots(b"".join(words_by_gram), 0)] = True
    candidates = [
        np.flatnonzero(table[compute_slots(characters, first)]) * GRAM_CHARACTERS + first
        for first in range(GRAM_CHARACTERS)
    ]
    offsets: dict[str, list[int]] = {word: [] for word in words}
    for offset in np.sort(np.concatenate(candidates)).tolist():
        for word in words_by_gram.get(characters[offset : offset + GRAM_CHARACTERS], ()):
            if text.startswith(word, offset):
                offsets[word].append(offset)
    return offsets
