"""What a compressor is: text and a question in, the pieces worth keeping out.

A compressor is pure and synchronous, holds no state between calls, and runs in linear time on any input. It does not
decide *whether* to compress (policy does) nor how a gap is written (markers does), and it may refuse by returning None.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple, Protocol

CountFunction = Callable[[str], int]


@dataclass(frozen=True, slots=True)
class Task:
    """One passage to shorten.

    `question` is what the passage was fetched for (may be empty); `target` is the number of tokens wanted at most, a
    wish rather than a limit: a compressor that cannot go so low without losing what matters stays above it; `count`
    counts tokens as the model addressed will.
    """

    text: str
    question: str
    target: int
    count: CountFunction


@dataclass(frozen=True, slots=True)
class Gap:
    """A place where something was left out: how many, of what (`lines`, `rows`, `sentences`, ...)."""

    left_out: int
    unit: str


class ModelUsage(NamedTuple):
    """What a model took to make something: tokens it read and wrote, and its seconds on an accelerator."""

    tokens: int = 0
    gpu_seconds: float = 0.0


NO_USAGE = ModelUsage()


@dataclass(frozen=True, slots=True)
class CompressedPassage:
    """Pieces of the passage in their order, and the gaps between them; `total` units stood there at first."""

    parts: tuple[str | Gap, ...]
    total: int
    unit: str
    usage: ModelUsage = NO_USAGE


class Compressor(Protocol):
    """One kind of content, one compressor; the first in the registry that recognises a passage gets it."""

    @property
    def name(self) -> str:
        """Return the kind of content, as the ledger will show it: `json`, `log`, `search`, ..."""
        ...

    def recognises(self, text: str) -> bool:
        """Say whether the text is of this kind; cheap, and false when in doubt."""
        ...

    def compress(self, task: Task) -> CompressedPassage | None:
        """Shorten the passage, or return None when it should stay as it is."""
        ...
