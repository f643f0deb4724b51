"""Compressed documents: memory vectors and the text that each stands for.

A document is one memory, or several if it was longer than the encoder's window. Indices into a `Latents` count
memories; `document_indices` holds the document of each.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from .inference import Array
from .tokenizer import Span

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class Latents:
    """The memories of documents: `vectors` [memories, M, H], and each memory's document, span, text and token count.

    M is the number of memory tokens (16 at rate 16) and H the model's hidden size. `token_counts` are the text tokens
    that each memory stands for; windows of a long document overlap. `document_token_counts` are the text tokens of each
    document. Immutable. `vectors` are a torch tensor or, with MLX, a numpy array.
    """

    vectors: Array
    document_indices: tuple[int, ...]
    spans: tuple[Span, ...]
    texts: tuple[str, ...]
    token_counts: tuple[int, ...]
    document_token_counts: tuple[int, ...]

    @property
    def document_count(self) -> int:
        """Return the number of documents."""
        return len(self.document_token_counts)

    def average_documents(self) -> "list[NDArray[np.float32]]":
        """Return the mean vector [H] of each document."""
        is_torch = hasattr(self.vectors, "cpu")
        vectors = self.vectors.float().cpu().numpy() if is_torch else self.vectors
        means = vectors.mean(axis=1)  # [memories, H]
        rows: list[list[int]] = [[] for _ in range(self.document_count)]
        for row, owner in enumerate(self.document_indices):
            rows[owner].append(row)
        return [means[document_rows].mean(axis=0) for document_rows in rows]

    def embed_documents(self) -> list[list[float]]:
        """Return the mean vector [H] of each document, scaled to length 1."""
        means: list[list[float]] = [mean.tolist() for mean in self.average_documents()]
        lengths = [math.hypot(*mean) or 1.0 for mean in means]
        return [[value / length for value in mean] for mean, length in zip(means, lengths, strict=True)]

    def __len__(self) -> int:
        return len(self.document_indices)

    def slice_documents(self, start: int, stop: int) -> "Latents":
        """Return the memories of documents start..stop-1, numbered from 0."""
        rows = [row for row, owner in enumerate(self.document_indices) if start <= owner < stop]
        return Latents(
            self.vectors[rows],
            tuple(self.document_indices[row] - start for row in rows),
            tuple(self.spans[row] for row in rows),
            tuple(self.texts[row] for row in rows),
            tuple(self.token_counts[row] for row in rows),
            self.document_token_counts[start:stop],
        )

    def split(self, counts: Sequence[int]) -> list["Latents"]:
        """Split the documents into groups of these sizes, in order; the sizes add up to `document_count`."""
        if sum(counts) != self.document_count:
            raise ValueError(f"groups of {sum(counts)} documents in all, but there are {self.document_count}")
        starts = [sum(counts[:index]) for index in range(len(counts))]
        return [self.slice_documents(start, start + count) for start, count in zip(starts, counts, strict=True)]
