"""The full-text index of chunks: FTS5 in SQLite, a GIN index in PostgreSQL. Both index the terms of this project.

The index only chooses candidates; `compression.memory` ranks them.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

Parameters = Mapping[str, Any]


class TextIndex(Protocol):
    """The index of one kind of database; `statements` create it."""

    @property
    def statements(self) -> Sequence[str]: ...  # noqa: D102

    async def insert(self, connection: AsyncConnection, chunks: Sequence[tuple[int, str, list[str]]]) -> None:
        """Index chunks, each with its id, its store and its terms."""
        ...

    async def delete(self, connection: AsyncConnection, store_id: str, file_id: str) -> None:
        """Remove the chunks of a file from the index, before the chunks themselves are deleted."""
        ...

    async def find(self, connection: AsyncConnection, store_id: str, terms: Sequence[str], limit: int) -> list[int]:
        """Return the ids of the chunks of a store that share the most, and the rarest, of the terms."""
        ...


class SqliteIndex:
    """FTS5. The id of the store is a term of each chunk, so that other stores cost nothing."""

    statements = (
        """CREATE VIRTUAL TABLE IF NOT EXISTS memory_terms
        USING fts5(terms, detail = none, tokenize = "unicode61 remove_diacritics 0 tokenchars '_'")""",
    )

    async def insert(self, connection: AsyncConnection, chunks: Sequence[tuple[int, str, list[str]]]) -> None:
        """Insert one row per chunk."""
        rows: list[Parameters] = [
            {"id": chunk_id, "terms": " ".join([_encode_store(store_id), *terms])}
            for chunk_id, store_id, terms in chunks
        ]
        await connection.execute(text("INSERT INTO memory_terms (rowid, terms) VALUES (:id, :terms)"), rows)

    async def delete(self, connection: AsyncConnection, store_id: str, file_id: str) -> None:
        """Delete the rows of the file's chunks."""
        ids = "SELECT id FROM memory_chunks WHERE store_id = :store AND file_id = :file"
        statement = text(f"DELETE FROM memory_terms WHERE rowid IN ({ids})")  # noqa: S608 - a constant
        await connection.execute(statement, {"store": store_id, "file": file_id})

    async def find(self, connection: AsyncConnection, store_id: str, terms: Sequence[str], limit: int) -> list[int]:
        """Match any term, ranked by FTS5's BM25."""
        alternatives = " OR ".join(f'"{term}"' for term in terms)
        statement = text("SELECT rowid FROM memory_terms WHERE memory_terms MATCH :query ORDER BY rank LIMIT :limit")
        query = f'"{_encode_store(store_id)}" AND ({alternatives})'
        return [row[0] for row in await connection.execute(statement, {"query": query, "limit": limit})]


class PostgresIndex:
    """A column of lexemes with a GIN index."""

    statements = (
        "ALTER TABLE memory_chunks ADD COLUMN IF NOT EXISTS terms tsvector",
        "CREATE INDEX IF NOT EXISTS memory_chunks_by_term ON memory_chunks USING gin (terms)",
    )

    async def insert(self, connection: AsyncConnection, chunks: Sequence[tuple[int, str, list[str]]]) -> None:
        """Set the lexemes of the chunks."""
        rows: list[Parameters] = [
            {"id": chunk_id, "terms": [term[:_MAX_LEXEME] for term in dict.fromkeys(terms)]}
            for chunk_id, _, terms in chunks
        ]
        statement = "UPDATE memory_chunks SET terms = array_to_tsvector(CAST(:terms AS text[])) WHERE id = :id"
        await connection.execute(text(statement), rows)

    async def delete(self, connection: AsyncConnection, store_id: str, file_id: str) -> None:
        """Do nothing: the lexemes are a column of the chunk."""

    async def find(self, connection: AsyncConnection, store_id: str, terms: Sequence[str], limit: int) -> list[int]:
        """Match any term; rank by the sum of the terms' rarity in the store."""
        counted = "SELECT count(*) FROM memory_chunks WHERE store_id = :store AND terms @@ CAST(:term AS tsquery)"
        rarities: list[str] = []
        parameters: dict[str, Any] = {"store": store_id, "limit": limit}
        lexemes = [f"'{term[:_MAX_LEXEME]}'" for term in terms]
        for position, lexeme in enumerate(lexemes):
            count = (await connection.execute(text(counted), {"store": store_id, "term": lexeme})).scalar_one()
            if count:
                parameters[f"t{position}"] = lexeme
                rarities.append(f"(terms @@ CAST(:t{position} AS tsquery))::int / ln(2.0 + {int(count)})")
        if not rarities:
            return []
        parameters["query"] = " | ".join(str(value) for name, value in parameters.items() if name[0] == "t")
        statement = text(
            "SELECT id FROM memory_chunks WHERE store_id = :store AND terms @@ CAST(:query AS tsquery)"  # noqa: S608
            f" ORDER BY {' + '.join(rarities)} DESC, id LIMIT :limit"  # counts and names of parameters only
        )
        return [row[0] for row in await connection.execute(statement, parameters)]


_MAX_LEXEME = 200  # characters; PostgreSQL refuses lexemes above 2 KB


def _encode_store(store_id: str) -> str:
    """Return the id as one token that no text has as a term."""
    return f"store_{store_id.replace('-', '_')}"
