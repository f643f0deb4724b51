"""Walks a conversation and folds what it repeats; goes on where it stopped when the conversation comes again, longer.

Knows no roles and no rules: policy says of each text whether it may be folded. The outcome depends on the steps alone,
never on what is remembered; memory is bounded, and holds hashes of lines, no text.
"""

from collections import Counter, OrderedDict
from collections.abc import Sequence
from threading import Lock
from typing import NamedTuple

from .compressor import CompressedPassage
from .file_reads import list_argument_values
from .repeats import ShownLines

MAX_REMEMBERED_LINES = 100_000  # held for all conversations together: under 20 MB


class DedupStep(NamedTuple):
    """A text that is forwarded as it stands, or folded; before an output stands the `call` that asked for it."""

    text: str
    call: str = ""
    can_dedupe: bool = False


class _Conversation:
    """How far one conversation has been walked."""

    def __init__(self) -> None:
        self.shown_lines = ShownLines()
        self.results: list[CompressedPassage | None] = []
        self.repeat_counts: Counter[tuple[int, int]] = Counter()

    def process_step(self, step: DedupStep) -> None:
        if step.call:
            for text in list_argument_values(step.call):
                self.shown_lines.add_text(text)  # what the model wrote into a file need not be read to it
        folded = self.shown_lines.remove_repeats(step.text) if self._may_dedupe(step) else None
        if folded is None:
            self.shown_lines.add_text(step.text)
        self.results.append(folded)

    def _may_dedupe(self, step: DedupStep) -> bool:
        """Say whether a text may be folded; what is asked for a third time comes whole: it was not found further up."""
        if not step.can_dedupe:
            return False
        key = (hash(step.call), hash(step.text))
        self.repeat_counts[key] += 1
        return self.repeat_counts[key] % 2 == 0 or self.repeat_counts[key] == 1


_conversations: OrderedDict[int, _Conversation] = OrderedDict()
_lock = Lock()


def dedupe_steps(steps: Sequence[DedupStep]) -> list[CompressedPassage | None]:
    """Say for each step what it looks like without what was shown before; None where it stays as it is."""
    keys = _hash_prefixes(steps)
    walk, done = _take_longest_prefix(keys)
    for step in steps[done:]:
        walk.process_step(step)
    folded = list(walk.results)
    if keys:
        _store_conversation(keys[-1], walk)
    return folded


def count_remembered_lines() -> int:
    """Return how many lines are remembered of all conversations."""
    with _lock:
        return sum(len(walk.shown_lines) for walk in _conversations.values())


def clear_conversations() -> None:
    """Remember nothing of any conversation; for tests, and for measuring the first request of one."""
    with _lock:
        _conversations.clear()


def _hash_prefixes(steps: Sequence[DedupStep]) -> list[int]:
    """Name each beginning of the conversation by a hash of all that is in it."""
    keys: list[int] = []
    key = 0
    for step in steps:
        key = hash((key, *step))
        keys.append(key)
    return keys


def _take_longest_prefix(keys: Sequence[int]) -> tuple[_Conversation, int]:
    """Take the longest walk that is a beginning of this one; it is ours alone until it is put back."""
    with _lock:
        for done in range(len(keys), 0, -1):
            walk = _conversations.pop(keys[done - 1], None)
            if walk is not None:
                return walk, done
    return _Conversation(), 0


def _store_conversation(key: int, walk: _Conversation) -> None:
    with _lock:
        _conversations[key] = walk
        lines = sum(len(one.shown_lines) for one in _conversations.values())
        while lines > MAX_REMEMBERED_LINES and _conversations:
            lines -= len(_conversations.popitem(last=False)[1].shown_lines)
