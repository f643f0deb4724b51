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
    document_indices: tuple[int, ...]
    spans: tuple[Span, ...]
    texts: tuple[str, ...]
    token_counts: tuple[int, ...]
    document_count: int

    def __len__(self) -> int:
        return len(self.document_indices)

    def select_document(self, index: int) -> "Latents":
        """Return the memories of one document, as document 0 of their own."""
        return self.slice_documents(index, index + 1)

    def slice_documents(self, start: int, stop: int) -> "Latents":
        """Return the memories of documents start..stop-1, numbered from 0."""
        rows = [row for row, owner in enumerate(self.document_indices) if start <= owner < stop]
        return Latents(
            self.vectors[rows],
            tuple(self.document_indices[row] - start for row in rows),
            tuple(self.spans[row] for row in rows),
            tuple(self.texts[row] for row in rows),
            tuple(self.token_counts[row] for row in rows),
            stop - start,
        )

    def split(self, counts: Sequence[int]) -> list["Latents"]:
        """Part the documents into groups of these sizes, in order; the sizes add up to `documents`."""
        if sum(counts) != self.document_count:
            raise ValueError(f"groups of {sum(counts)} documents asked for, there are {self.document_count}")
        starts = [sum(counts[:index]) for index in range(len(counts))]
        return [self.slice_documents(start, start + count) for start, count in zip(starts, counts, strict=True)]

    @classmethod
    def concatenate(cls, parts: Sequence["Latents"]) -> "Latents":
        """Put documents one after another; at least one part."""
        starts = [sum(part.document_count for part in parts[:index]) for index in range(len(parts))]
        return cls(
            torch.cat([part.vectors for part in parts]),
            tuple(owner + start for part, start in zip(parts, starts, strict=True) for owner in part.document_indices),
            tuple(span for part in parts for span in part.spans),
            tuple(text for part in parts for text in part.texts),
            tuple(count for part in parts for count in part.token_counts),
            sum(part.document_count for part in parts),
        )
