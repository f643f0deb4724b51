"""Finished work, kept in memory by what it was made from; the oldest goes first."""

from collections import OrderedDict
from collections.abc import Hashable
from typing import Generic, TypeVar

Value = TypeVar("Value")


class Cache(Generic[Value]):
    """A bounded map from a key to a value; `limit` and the `size` of an entry are in bytes. For one thread."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._held = 0
        self._entries: OrderedDict[Hashable, tuple[Value, int]] = OrderedDict()

    def get(self, key: Hashable) -> Value | None:
        """Return the value and mark it as used, or None."""
        entry = self._entries.get(key)
        if entry is None:
            return None
        self._entries.move_to_end(key)
        return entry[0]

    def put(self, key: Hashable, value: Value, size: int) -> None:
        """Keep a value, dropping the least recently used ones beyond the limit; what exceeds it alone is not kept."""
        replaced = self._entries.pop(key, None)
        self._held -= replaced[1] if replaced else 0
        if size > self._limit:
            return
        self._held += size
        self._entries[key] = (value, size)
        while self._held > self._limit:
            self._held -= self._entries.popitem(last=False)[1][1]
