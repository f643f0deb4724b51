"""The chunks of vector stores: inserts them, and reads texts and the rows of an index."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from sqlalchemy import insert, select

from ...compression.memory.indexing import IndexedChunk
from ...compression.memory.passage_index import IndexRow
from .async_engine import AsyncConnection, AsyncEngine
from .memory_schema import CHUNKS, FILES, STORE_FILES, ChunkHit, StoreFile


class NewDocument(NamedTuple):
    """A file with its text and its chunks, ready to be added to a store."""

    name: str
    content: bytes
    text: str
    chunks: Sequence[IndexedChunk]
    attributes: Mapping[str, Any]


def count_bytes(chunks: Sequence[IndexedChunk]) -> int:
    """Return the size of chunks: their texts and vectors."""
    return sum(len(chunk.text.encode()) + len(chunk.vector) for chunk in chunks)


class ChunkReader:
    """The chunks in an open database. Every method raises the errors of its driver."""

    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine

    async def insert_chunks(
        self, connection: AsyncConnection, entry: StoreFile, chunks: Sequence[IndexedChunk]
    ) -> None:
        """Insert the chunks of a file of a store within a transaction."""
        if not chunks:
            return
        rows = [
            {"store_id": entry.store_id, "file_id": entry.file_id, "titles": list(chunk.titles)}
            | {name: getattr(chunk, name) for name in ("start", "end", "text", "vector", "postings")}
            for chunk in chunks
        ]
        await connection.execute(insert(CHUNKS), rows)

    async def read_chunks(self, ids: Sequence[int]) -> dict[int, ChunkHit]:
        """Return chunks by id."""
        query = select(
            *(CHUNKS.c.id, CHUNKS.c.file_id, FILES.c.name, STORE_FILES.c.attributes),
            *(CHUNKS.c.start, CHUNKS.c.end, CHUNKS.c.titles, CHUNKS.c.text),
        ).join(FILES, FILES.c.id == CHUNKS.c.file_id)
        same = (STORE_FILES.c.store_id == CHUNKS.c.store_id) & (STORE_FILES.c.file_id == CHUNKS.c.file_id)
        async with self._engine.connect() as connection:
            rows = await connection.execute(query.join(STORE_FILES, same).where(CHUNKS.c.id.in_(ids)))
            return {row.id: ChunkHit(*row)._replace(titles=tuple(row.titles)) for row in rows}

    async def read_file_chunks(self, store_id: str, file_id: str) -> list[ChunkHit]:
        """Return the chunks of a file in order."""
        query = select(CHUNKS.c.id).where(CHUNKS.c.store_id == store_id, CHUNKS.c.file_id == file_id)
        async with self._engine.connect() as connection:
            ids = (await connection.execute(query.order_by(CHUNKS.c.start, CHUNKS.c.id))).scalars().all()
        chunks = await self.read_chunks(ids)
        return [chunks[chunk_id] for chunk_id in ids]

    async def read_index_rows(self, store_id: str, after: int = -1) -> list[IndexRow]:
        """Return the chunks of a store with ids above `after`, in order, as its index needs them."""
        query = select(CHUNKS.c.id, CHUNKS.c.file_id, CHUNKS.c.vector, CHUNKS.c.postings)
        query = query.where(CHUNKS.c.store_id == store_id, CHUNKS.c.id > after).order_by(CHUNKS.c.id)
        async with self._engine.connect() as connection:
            return [IndexRow(*row) for row in await connection.execute(query)]
