"""What was found out about a text, kept by the text's hash: a conversation comes again and again, longer each time.

No text is kept. For any thread; two may find out the same thing at once, which does no harm.
"""

from collections.abc import Callable, Iterable
from threading import Lock
from typing import Generic, TypeVar

Value = TypeVar("Value")


class Memo(Generic[Value]):
    """A function of a text, asked once for each text; `most` values are kept. What it returns must not be changed."""

    def __init__(self, work: Callable[[str], Value], most: int) -> None:
        self._work = work
        self._most = most
        self._kept: dict[tuple[int, int], Value] = {}
        self._lock = Lock()

    def __len__(self) -> int:
        """Return how many values are held."""
        return len(self._kept)

    def __call__(self, text: str) -> Value:
        """Return what the function returns for this text."""
        key = (hash(text), len(text))
        if key in self._kept:
            return self._kept[key]
        value = self._work(text)
        with self._lock:
            if len(self._kept) >= self._most:
                self._kept = {}  # rare, and cheaper than keeping an order
            self._kept[key] = value
        return value

    def split_known(self, texts: Iterable[str]) -> tuple[list[Value], list[str]]:
        """Return the values of the texts that were asked about before, and the other texts: those take time."""
        kept, values, unknown = self._kept, list[Value](), list[str]()
        for text in texts:
            key = (hash(text), len(text))
            if key in kept:
                values.append(kept[key])
            else:
                unknown.append(text)
        return values, unknown
