"""Hybrid search in a vector store: BM25 and vectors, fused by reciprocal rank.

The vectors of a store are kept in memory as int8 until the store changes or others need the space; a search multiplies
all of them. 100,000 chunks take 20 MB.
"""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from cachetools import LRUCache

from ...compression.memory import fusion, indexing, lexical
from ..stores.memory_schema import ChunkHit, VectorStore
from ..stores.memory_store import MemoryStore

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

CANDIDATES = 100  # of each ranking
_BLOCK_ROWS = 8192  # vectors converted to float at once
Accepts = Callable[[Mapping[str, Any]], bool]


class _StoreVectors(NamedTuple):
    """The vectors of one revision of a store: `ids` (chunks), `files` of the chunks, `rows` (chunks, dimensions)."""

    revision: int
    ids: "NDArray[np.int64]"
    files: list[str]
    rows: "NDArray[np.int8]"


class MemorySearch:
    """Searches vector stores; `cache_bytes` bounds the vectors that are kept in memory."""

    def __init__(self, store: MemoryStore, cache_bytes: int) -> None:
        self._store = store
        self._vectors: LRUCache[str, _StoreVectors] = LRUCache(cache_bytes, getsizeof=lambda entry: entry.rows.nbytes)

    async def search(
        self, store: VectorStore, question: str, limit: int, *, accepts: Accepts | None = None
    ) -> list[ChunkHit]:
        """Return the chunks that fit a question, best first, at most `limit`.

        Args:
            store: the vector store, as read a moment ago
            question: what to find
            limit: the largest number of chunks
            accepts: a condition on the attributes of a chunk's file
        """
        allowed = None if accepts is None else await self._find_files(store, accepts)
        vectors = await self._load_vectors(store)
        by_meaning = await asyncio.to_thread(_rank_by_meaning, vectors, question, allowed)
        terms = lexical.list_query_terms(question)
        candidates = await self._store.chunks.find_candidates(
            store.id, terms, CANDIDATES if allowed is None else 10 * CANDIDATES
        )
        chunks = await self._store.chunks.read_chunks([*dict.fromkeys([*candidates, *by_meaning])])
        by_words = [chunks[chunk] for chunk in candidates if chunk in chunks and _is_allowed(chunks[chunk], allowed)]
        ranked_words = await asyncio.to_thread(_rank_by_words, by_words, question)
        scores = fusion.fuse_rankings([ranked_words, by_meaning])
        hits = [chunks[chunk]._replace(score=score) for chunk, score in scores.items() if chunk in chunks]
        return hits[:limit]

    async def _find_files(self, store: VectorStore, accepts: Accepts) -> frozenset[str]:
        entries = await self._store.list_entries(store.id)
        return frozenset(entry.file_id for entry in entries if accepts(entry.attributes))

    async def _load_vectors(self, store: VectorStore) -> _StoreVectors:
        cached = self._vectors.get(store.id)
        if cached is not None and cached.revision == store.revision:
            return cached
        rows = await self._store.chunks.read_vectors(store.id)
        vectors = await asyncio.to_thread(_stack_vectors, store.revision, rows)
        if vectors.rows.nbytes <= self._vectors.maxsize:
            self._vectors[store.id] = vectors
        return vectors


def _is_allowed(chunk: ChunkHit, allowed: frozenset[str] | None) -> bool:
    return allowed is None or chunk.file_id in allowed


def _stack_vectors(revision: int, rows: Sequence[tuple[int, str, bytes]]) -> _StoreVectors:
    import numpy as np  # noqa: PLC0415 - slow to import, and not needed without memory

    ids = np.fromiter((row[0] for row in rows), np.int64, len(rows))
    matrix = np.frombuffer(b"".join([row[2] for row in rows]), np.int8)
    return _StoreVectors(revision, ids, [row[1] for row in rows], matrix.reshape(len(rows), -1 if rows else 0))


def _rank_by_meaning(vectors: _StoreVectors, question: str, allowed: frozenset[str] | None) -> list[int]:
    """Return the ids of the chunks nearest to the question, nearest first."""
    import numpy as np  # noqa: PLC0415

    if not len(vectors.ids):
        return []
    query = indexing.encode_vectors([question])[0].astype(np.float32)
    if not query.any():
        return []
    blocks = range(0, len(vectors.ids), _BLOCK_ROWS)
    scores = np.concatenate([vectors.rows[start : start + _BLOCK_ROWS].astype(np.float32) @ query for start in blocks])
    if allowed is not None:
        scores[np.fromiter((file not in allowed for file in vectors.files), bool, len(vectors.files))] = -np.inf
    count = min(CANDIDATES, len(scores))
    nearest = np.argpartition(-scores, count - 1)[:count]
    ordered = nearest[np.lexsort((vectors.ids[nearest], -scores[nearest]))]
    return [int(vectors.ids[index]) for index in ordered if scores[index] > 0]


def _rank_by_words(chunks: Sequence[ChunkHit], question: str) -> list[int]:
    scores = lexical.score_texts(["\n".join([chunk.name, *chunk.titles, chunk.text]) for chunk in chunks], question)
    ranked = sorted(zip(scores, chunks, strict=True), key=lambda pair: -pair[0])
    return [chunk.id for score, chunk in ranked if score > 0][:CANDIDATES]
