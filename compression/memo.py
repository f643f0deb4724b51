"""What was found out about a text, kept by the text's hash: a conversation comes again and again, longer each time.

No text is kept. For any thread; two may find out the same thing at once, which does no harm.
"""

from collections.abc import Callable, Iterable
from threading import Lock
from typing import Generic, TypeVar

Value = TypeVar("Value")


class Memo(Generic[Value]):
    """A function of a text, asked once for each text; `most` values are kept. What it returns must not be changed."""

    def __init__(self, function: Callable[[str], Value], max_entries: int) -> None:
        self._function = function
        self._max_entries = max_entries
        self._values: dict[tuple[int, int], Value] = {}
        self._lock = Lock()

    def __len__(self) -> int:
        """Return how many values are held."""
        return len(self._values)

    def __call__(self, text: str) -> Value:
        """Return what the function returns for this text."""
        key = (hash(text), len(text))
        if key in self._values:
            return self._values[key]
        value = self._function(text)
        with self._lock:
            if len(self._values) >= self._max_entries:
                self._values = {}  # rare, and cheaper than keeping an order
            self._values[key] = value
        return value

    def split_known(self, texts: Iterable[str]) -> tuple[list[Value], list[str]]:
        """Return the values of the texts that were asked about before, and the other texts: those take time."""
        kept, values, unknown = self._values, list[Value](), list[str]()
        for text in texts:
            key = (hash(text), len(text))
            if key in kept:
                values.append(kept[key])
            else:
                unknown.append(text)
        return values, unknown
