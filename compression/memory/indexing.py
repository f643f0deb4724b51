"""Turns the text of a document into chunks with postings and vectors, ready to be stored."""

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, NamedTuple

from .. import embeddings
from . import chunks, lexical
from .passage_index import encode_postings

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

VECTOR_SCALE = 127  # a component of a normalized vector is from -1 to 1
_BATCH_CHUNKS = 256


class IndexedChunk(NamedTuple):
    """A chunk: its offsets in the document, titles of its sections, text, postings and int8 vector."""

    start: int
    end: int
    titles: tuple[str, ...]
    text: str
    postings: bytes
    vector: bytes


def index_document(document: str, name: str, max_tokens: int, overlap_tokens: int) -> Iterator[IndexedChunk]:
    """Yield the chunks of a document; a chunk is also found by the name of its file and the titles of its sections.

    Args:
        document: the text
        name: the name of the file
        max_tokens: the largest size of a chunk
        overlap_tokens: how much of the text before it a chunk repeats
    """
    pieces = chunks.split_document(document, max_tokens, overlap_tokens)
    for first in range(0, len(pieces), _BATCH_CHUNKS):
        batch = pieces[first : first + _BATCH_CHUNKS]
        texts = [document[piece.start : piece.end] for piece in batch]
        described = [describe_chunk(name, piece.titles, text) for piece, text in zip(batch, texts, strict=True)]
        vectors = encode_vectors(described)
        for piece, text, description, vector in zip(batch, texts, described, vectors, strict=True):
            postings = encode_postings(lexical.list_terms(description))
            yield IndexedChunk(piece.start, piece.end, piece.titles, text, postings, vector.tobytes())


def describe_chunk(name: str, titles: Iterable[str], text: str) -> str:
    """Return the text under which a chunk is found: the name of its file, its titles and its text."""
    return "\n".join([name, *titles, text])


def encode_vectors(texts: list[str]) -> "NDArray[np.int8]":
    """Return the embeddings of texts as int8, (texts, dimensions)."""
    import numpy as np  # noqa: PLC0415 - slow to import, and not needed by every process

    return np.rint(embeddings.embed(texts) * VECTOR_SCALE).astype(np.int8)
