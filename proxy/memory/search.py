"""Hybrid search in a vector store: BM25 and vectors, fused by reciprocal rank.

The index of a store is kept in memory until others need the space. New chunks are added to it; after a deletion it is
read again. The database reports both by the revision of the store, so changes by other processes are seen.
"""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple
from weakref import WeakValueDictionary

from cachetools import LRUCache

from ...compression.memory import fusion, indexing, lexical
from ...compression.memory.passage_index import FileFilter, PassageIndex
from ..stores.memory_schema import ChunkHit, VectorStore
from ..stores.memory_store import MemoryStore

CANDIDATES = 100  # of each ranking
MIN_SHARE = 0.05  # of a question's rarity that a chunk found by words has, if others are found by meaning
Accepts = Callable[[Mapping[str, Any]], bool]


class _StoreIndex(NamedTuple):
    """The index of a store as it was at a revision, or later."""

    revision: int
    passages: PassageIndex


class MemorySearch:
    """Searches vector stores; `cache_bytes` bounds the indexes that are kept in memory."""

    def __init__(self, store: MemoryStore, cache_bytes: int) -> None:
        self._store = store
        self._indexes: LRUCache[str, _StoreIndex] = LRUCache(
            cache_bytes, getsizeof=lambda entry: entry.passages.size_bytes
        )
        self._locks: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

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
        accepts_file = None if accepts is None else (await self._find_files(store, accepts)).__contains__
        index = await self._load_index(store)
        by_words, by_meaning = await asyncio.to_thread(_rank_passages, index, question, accepts_file)
        chunks = await self._store.chunks.read_chunks([*dict.fromkeys([*by_words, *by_meaning])])
        candidates = [chunks[chunk] for chunk in by_words if chunk in chunks]
        ranked_words = await asyncio.to_thread(_rank_by_words, candidates, question)
        scores = fusion.fuse_rankings([ranked_words, by_meaning])
        hits = [chunks[chunk]._replace(score=score) for chunk, score in scores.items() if chunk in chunks]
        return hits[:limit]

    async def _find_files(self, store: VectorStore, accepts: Accepts) -> frozenset[str]:
        entries = await self._store.list_entries(store.id)
        return frozenset(entry.file_id for entry in entries if accepts(entry.attributes))

    async def _load_index(self, store: VectorStore) -> PassageIndex:
        async with self._locks.setdefault(store.id, asyncio.Lock()):
            cached = self._indexes.get(store.id)
            if cached is not None and cached.revision >= store.revision:
                return cached.passages
            is_valid = cached is not None and cached.revision >= store.deletion_revision
            known = cached.passages if cached is not None and is_valid else PassageIndex()
            rows = await self._store.chunks.read_index_rows(store.id, after=known.last_id)
            passages = await asyncio.to_thread(known.extend, rows)
            self._indexes.pop(store.id, None)
            if passages.size_bytes <= self._indexes.maxsize:
                self._indexes[store.id] = _StoreIndex(store.revision, passages)
            return passages


def _rank_passages(index: PassageIndex, question: str, accepts: FileFilter | None) -> tuple[list[int], list[int]]:
    """Return the best chunks by words and by meaning."""
    vector = indexing.encode_vectors([question])[0]
    by_meaning = index.rank_by_vector(vector, CANDIDATES, accepts)
    min_share = MIN_SHARE if by_meaning else 0.0
    return index.rank_by_words(lexical.weigh_query_terms(question), CANDIDATES, accepts, min_share), by_meaning


def _rank_by_words(chunks: Sequence[ChunkHit], question: str) -> list[int]:
    texts = [indexing.describe_chunk(chunk.name, chunk.titles, chunk.text) for chunk in chunks]
    ranked = sorted(zip(lexical.score_texts(texts, question), chunks, strict=True), key=lambda pair: -pair[0])
    return [chunk.id for score, chunk in ranked if score > 0]
