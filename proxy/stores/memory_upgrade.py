"""Upgrades the tables of memory that an earlier version created.

Until November 2026 the database held a full-text index (FTS5 in SQLite, a GIN index in PostgreSQL). Now each chunk has
its postings, and the index is in memory.
"""

from typing import Any

from sqlalchemy import Column, Connection, Inspector, bindparam, inspect, select, text, update
from sqlalchemy.schema import CreateColumn

from ...compression.memory import lexical
from ...compression.memory.indexing import describe_chunk
from ...compression.memory.passage_index import encode_postings
from .async_engine import AsyncConnection
from .memory_schema import CHUNKS, FILES, STORES

_BATCH_CHUNKS = 500


async def upgrade_tables(connection: AsyncConnection) -> None:
    """Add the columns that the tables lack, within a transaction, and remove the old index."""
    if not await connection.run_sync(_add_columns):
        return
    await _fill_postings(connection)
    if connection.dialect.name == "sqlite":
        await connection.execute(text("DROP TABLE IF EXISTS memory_terms"))
    else:
        await connection.execute(text("ALTER TABLE memory_chunks DROP COLUMN IF EXISTS terms"))


def _add_columns(connection: Connection) -> bool:
    """Return True if the tables lacked columns."""
    inspector = inspect(connection)
    missing = [
        column for column in (STORES.c.deletion_revision, CHUNKS.c.postings) if not _has_column(inspector, column)
    ]
    for column in missing:
        definition = CreateColumn(column).compile(dialect=connection.dialect)
        connection.execute(text(f"ALTER TABLE {column.table.name} ADD COLUMN {definition}"))
    return bool(missing)


def _has_column(inspector: Inspector, column: Column[Any]) -> bool:
    return any(known["name"] == column.name for known in inspector.get_columns(column.table.name))


async def _fill_postings(connection: AsyncConnection) -> None:
    query = select(CHUNKS.c.id, FILES.c.name, CHUNKS.c.titles, CHUNKS.c.text).join(
        FILES, FILES.c.id == CHUNKS.c.file_id
    )
    last = -1
    while rows := (
        await connection.execute(query.where(CHUNKS.c.id > last).order_by(CHUNKS.c.id).limit(_BATCH_CHUNKS))
    ).all():
        described = (describe_chunk(row.name, row.titles, row.text) for row in rows)
        postings = [encode_postings(lexical.list_terms(description)) for description in described]
        changes = [{"chunk": row.id, "postings": value} for row, value in zip(rows, postings, strict=True)]
        await connection.execute(update(CHUNKS).where(CHUNKS.c.id == bindparam("chunk")), changes)
        last = rows[-1].id
