"""Compressed documents: memory vectors, and where each came from.

A document is one memory, or several when it was longer than the model reads at once. Immutable; indices into a
`Latents` count memories, `owners` says which document each belongs to.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from .tokenizer import Span


@dataclass(frozen=True, slots=True)
class Latents:
    """Memories of some documents: `vectors` [memories, M, H], and for each its document, its place in it and its text.

    M is the number of memory tokens (16 at rate 16), H the model's hidden size; `documents` counts the documents,
    `tokens` is how many text tokens each memory stands for.
    """

    vectors: Tensor
    owners: tuple[int, ...]
    spans: tuple[Span, ...]
    texts: tuple[str, ...]
    tokens: tuple[int, ...]
    documents: int

    def __len__(self) -> int:
        return len(self.owners)

    def document(self, index: int) -> "Latents":
        """Return the memories of one document, as document 0 of their own."""
        return self.range(index, index + 1)

    def range(self, start: int, stop: int) -> "Latents":
        """Return the memories of documents start..stop-1, numbered from 0."""
        rows = [row for row, owner in enumerate(self.owners) if start <= owner < stop]
        return Latents(
            self.vectors[rows],
            tuple(self.owners[row] - start for row in rows),
            tuple(self.spans[row] for row in rows),
            tuple(self.texts[row] for row in rows),
            tuple(self.tokens[row] for row in rows),
            stop - start,
        )

    def split(self, counts: Sequence[int]) -> list["Latents"]:
        """Part the documents into groups of these sizes, in order; the sizes add up to `documents`."""
        if sum(counts) != self.documents:
            raise ValueError(f"groups of {sum(counts)} documents asked for, there are {self.documents}")
        starts = [sum(counts[:index]) for index in range(len(counts))]
        return [self.range(start, start + count) for start, count in zip(starts, counts, strict=True)]

    @classmethod
    def join(cls, parts: Sequence["Latents"]) -> "Latents":
        """Put documents one after another; at least one part."""
        starts = [sum(part.documents for part in parts[:index]) for index in range(len(parts))]
        return cls(
            torch.cat([part.vectors for part in parts]),
            tuple(owner + start for part, start in zip(parts, starts, strict=True) for owner in part.owners),
            tuple(span for part in parts for span in part.spans),
            tuple(text for part in parts for text in part.texts),
            tuple(count for part in parts for count in part.tokens),
            sum(part.documents for part in parts),
        )
