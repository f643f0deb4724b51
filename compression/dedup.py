"""Removes lines that a conversation has already shown in full.

A run of lines is removed only if one earlier text shows all of it in the same order and was itself forwarded unchanged.
The first line of the run remains, so that a reader finds the place. Line numbers in front are ignored if they rise by
one from line to line.

The result depends on the steps alone. A conversation that comes again, longer, is resumed from memory, which is bounded
and holds hashes of lines, no text. This module knows no roles: policy says for each text if it may be deduplicated.
"""

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import suppress
from itertools import pairwise
from threading import Lock
from typing import NamedTuple

from cachetools import LRUCache

from .compressor import CompressedPassage, Gap
from .file_reads import list_argument_values

REPEAT_UNIT = "lines shown before"
GRAM_LINES = 3  # consecutive lines by which a repeat is found
MIN_REPEAT_CHARACTERS = 100  # characters of a run beyond its first line: some 25 tokens of code; a marker has 11
MAX_REMEMBERED_LINES = 100_000  # of all conversations together: under 20 MB
_LINE_NUMBER = re.compile(r"(?P<path>[\w./+@~-]{1,200}[:-])?[ \t]{0,8}(?P<number>\d{1,7})(?:\| ?|[:\t→-]|  )")


class DedupStep(NamedTuple):
    """One text of a conversation; for a tool output, `call` holds the arguments of its tool call.

    A file read is not deduplicated against a user's or system text: the agent reads the file because that text may be
    outdated.
    """

    text: str
    call: str = ""
    can_dedupe: bool = False
    is_file_read: bool = False
    is_user_text: bool = False


class RepeatedRun(NamedTuple):
    """Lines `start` to `end` (excluded) of a text that an earlier text shows, too."""

    start: int
    end: int


class ShownLines:
    """Hashes of the lines that a conversation has shown in full so far."""

    def __init__(self) -> None:
        self._line_hashes: list[int] = []  # of all texts in order, a separator after each
        self._is_user_text = bytearray()  # for each of these lines
        self._gram_positions: dict[int, int] = {}  # first position of each gram, by the gram's hash
        self._text_count = 0

    def __len__(self) -> int:
        """Return the number of lines held."""
        return len(self._line_hashes)

    def add_text(self, text: str, *, is_user_text: bool = False) -> None:
        """Add a text that is forwarded unchanged."""
        self._append_hashes(_hash_lines(text.split("\n")), is_user_text=is_user_text)

    def remove_repeats(self, text: str, *, is_file_read: bool = False) -> CompressedPassage | None:
        """Return the text without lines shown before, and add the rest; None, adding nothing, if all lines are new."""
        lines = text.split("\n")
        hashes = _hash_lines(lines)
        runs = list(self._find_repeats(lines, hashes, skip_user_texts=is_file_read))
        if not runs:
            return None
        start = 0
        for run in runs:
            self._append_hashes(hashes[start : run.start + 1])
            start = run.end
        self._append_hashes(hashes[start:])
        return _replace_runs(lines, runs)

    def _append_hashes(self, hashes: Sequence[int], *, is_user_text: bool = False) -> None:
        base = len(self._line_hashes)
        self._is_user_text += bytes([is_user_text]) * (len(hashes) + 1)
        self._line_hashes += hashes
        self._text_count += 1
        self._line_hashes.append(-self._text_count)  # a separator: hashes of lines are not negative
        for index in range(len(hashes) - GRAM_LINES + 1):
            self._gram_positions.setdefault(_hash_gram(hashes, index), base + index)

    def _find_repeats(
        self, lines: Sequence[str], hashes: Sequence[int], *, skip_user_texts: bool
    ) -> Iterator[RepeatedRun]:
        """Yield the runs long enough to be removed; skipping a short run as a whole keeps the time linear."""
        start = 0
        while start <= len(hashes) - GRAM_LINES:
            end = start
            position = self._gram_positions.get(_hash_gram(hashes, start))
            if position is not None and not (skip_user_texts and self._is_user_text[position]):
                while end < len(hashes) and hashes[end] == self._line_hashes[position + end - start]:
                    end += 1
            if end - start < GRAM_LINES:
                start += 1
            elif sum(len(line) for line in lines[start + 1 : end]) >= MIN_REPEAT_CHARACTERS:
                yield RepeatedRun(start, end)
                start = end
            else:
                start = end - GRAM_LINES + 1


class _Conversation:
    """The steps processed so far of one conversation, and their results."""

    def __init__(self) -> None:
        self.shown_lines = ShownLines()
        self.results: list[CompressedPassage | None] = []
        self.repeat_counts: Counter[tuple[int, int]] = Counter()

    def process_step(self, step: DedupStep) -> None:
        if step.call:
            for text in list_argument_values(step.call):
                self.shown_lines.add_text(text)  # a file that the model wrote need not be shown to it
        result = None
        if self._may_dedupe(step):
            result = self.shown_lines.remove_repeats(step.text, is_file_read=step.is_file_read)
        if result is None:
            self.shown_lines.add_text(step.text, is_user_text=step.is_user_text)
        self.results.append(result)

    def _may_dedupe(self, step: DedupStep) -> bool:
        """Return True unless the model asks for the same output a third time: it did not find the first one."""
        if not step.can_dedupe:
            return False
        key = (hash(step.call), hash(step.text))
        self.repeat_counts[key] += 1
        return self.repeat_counts[key] % 2 == 0 or self.repeat_counts[key] == 1


def create_memory(max_lines: int) -> LRUCache[int, _Conversation]:
    """Return a memory of conversations that holds at most `max_lines` lines."""
    return LRUCache(max_lines, getsizeof=lambda conversation: len(conversation.shown_lines))


_conversations = create_memory(MAX_REMEMBERED_LINES)
_lock = Lock()


def dedupe_steps(steps: Sequence[DedupStep]) -> list[CompressedPassage | None]:
    """Return each step's text without lines shown before; None if the step is left unchanged."""
    keys = _hash_prefixes(steps)
    conversation, processed = _take_longest_prefix(keys)
    for step in steps[processed:]:
        conversation.process_step(step)
    results = list(conversation.results)
    if keys:
        with _lock, suppress(ValueError):  # a conversation larger than the memory is not remembered
            _conversations[keys[-1]] = conversation
    return results


def clear_conversations() -> None:
    """Forget all conversations; for tests, and for measuring a first request."""
    with _lock:
        _conversations.clear()


def _hash_prefixes(steps: Sequence[DedupStep]) -> list[int]:
    """Return a hash for each prefix of the conversation."""
    keys: list[int] = []
    key = 0
    for step in steps:
        key = hash((key, *step))
        keys.append(key)
    return keys


def _take_longest_prefix(keys: Sequence[int]) -> tuple[_Conversation, int]:
    """Remove the longest known prefix from memory; return it with its number of steps, or an empty conversation."""
    with _lock:
        for count in range(len(keys), 0, -1):
            conversation = _conversations.pop(keys[count - 1], None)
            if conversation is not None:
                return conversation, count
    return _Conversation(), 0


def _hash_gram(hashes: Sequence[int], start: int) -> int:
    return hash(tuple(hashes[start : start + GRAM_LINES]))


def _replace_runs(lines: Sequence[str], runs: Sequence[RepeatedRun]) -> CompressedPassage:
    parts: list[str | Gap] = []
    start = 0
    for run in runs:
        parts += ["\n".join(lines[start : run.start + 1]), Gap(run.end - run.start - 1, REPEAT_UNIT)]
        start = run.end
    if start < len(lines):
        parts.append("\n".join(lines[start:]))
    return CompressedPassage(tuple(parts), len(lines), REPEAT_UNIT)


def _hash_lines(lines: Sequence[str]) -> list[int]:
    """Hash each line without its line number, if a neighbouring line has the next or the previous number."""
    prefixes = [_LINE_NUMBER.match(line) for line in lines]
    is_numbered = bytearray(len(lines))
    for index, (prefix, following) in enumerate(pairwise(prefixes)):
        if (
            prefix
            and following
            and int(following["number"]) == int(prefix["number"]) + 1
            and prefix["path"] == following["path"]
        ):
            is_numbered[index : index + 2] = b"\1\1"
    return [
        hash(line[prefix.end() :] if prefix and numbered else line) & 0x7FFF_FFFF_FFFF_FFFF
        for line, prefix, numbered in zip(lines, prefixes, is_numbered, strict=True)
    ]
