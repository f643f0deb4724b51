"""Reads the chunks of vector stores: candidates by terms, texts, vectors."""

from collections.abc import Sequence

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncEngine

from .memory_index import TextIndex
from .memory_schema import CHUNKS, FILES, STORE_FILES, ChunkHit


class ChunkReader:
    """The chunks in an open database. Every method raises the errors of its driver."""

    def __init__(self, engine: AsyncEngine, index: TextIndex) -> None:
        self._engine, self._index = engine, index

    async def find_candidates(self, store_id: str, terms: Sequence[str], limit: int) -> list[int]:
        """Return the ids of the chunks of a store that share terms, the best first."""
        if not terms:
            return []
        async with self._engine.connect() as connection:
            return await self._index.find(connection, store_id, terms, limit)

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

    async def read_vectors(self, store_id: str) -> list[tuple[int, str, bytes]]:
        """Return id, file and vector of every chunk of a store."""
        query = select(CHUNKS.c.id, CHUNKS.c.file_id, CHUNKS.c.vector).where(CHUNKS.c.store_id == store_id)
        async with self._engine.connect() as connection:
            return [(row[0], row[1], row[2]) for row in await connection.execute(query.order_by(CHUNKS.c.id))]
