"""The interface of compressors: text and a question in, the pieces worth keeping out.

A compressor is pure and synchronous, has no state between calls, and takes linear time on any input. Policy decides if
a passage is compressed and `markers` writes the gaps; a compressor may refuse a passage by returning None.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple, Protocol

CountFunction = Callable[[str], int]


@dataclass(frozen=True, slots=True)
class Task:
    """One passage to compress.

    `question` is the reason the passage was fetched, and may be empty. `target` is in tokens; a compressor that cannot
    reach it without losing important text stays above it. `count` counts tokens in the vocabulary of the request's
    model. With `fills_target`, the whole target is spent; otherwise only on text that is worth its tokens.
    `skips`: the lines that `text` lacks, as offsets in it and numbers of lines.
    """

    text: str
    question: str
    target: int
    count: CountFunction
    fills_target: bool = True
    skips: tuple[tuple[int, int], ...] = ()


@dataclass(frozen=True, slots=True)
class Gap:
    """Text left out between two pieces, counted in `unit`: `lines`, `rows`, `sentences`, ..."""

    left_out: int
    unit: str


class ModelUsage(NamedTuple):
    """A model's work: tokens read and written, and its seconds on an accelerator."""

    tokens: int = 0
    gpu_seconds: float = 0.0


NO_USAGE = ModelUsage()


@dataclass(frozen=True, slots=True)
class CompressedPassage:
    """Pieces of a passage in order, and the gaps between them; the original has `total` units.

    `compressor` is the name of the compressor that replaced the requested one, and `fallback` the reason. With
    `is_inline` the pieces are words with their own blanks, and no line breaks are added between them.
    """

    parts: tuple[str | Gap, ...]
    total: int
    unit: str
    usage: ModelUsage = NO_USAGE
    compressor: str = ""
    fallback: str = ""
    is_inline: bool = False


class Compressor(Protocol):
    """Compresses one kind of content; the first in the registry that recognises a passage gets it."""

    @property
    def name(self) -> str:
        """Return the kind of content as the ledger shows it: `json`, `log`, `search`, ..."""
        ...

    def recognises(self, text: str) -> bool:
        """Return True if the text is of this kind; cheap, and False when in doubt."""
        ...

    def compress(self, task: Task) -> CompressedPassage | None:
        """Compress the passage, or return None to leave it unchanged."""
        ...
