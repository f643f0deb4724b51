"""The tables of memory: files, vector stores, the files of a store, and their chunks.

A chunk is visible once its file is `completed`: all chunks of a file are written in the transaction that sets this
status. `revision` of a store increases with every change of its chunks.
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

from sqlalchemy import JSON, BigInteger, Column, Double, Index, Integer, LargeBinary, MetaData, Table, Text

METADATA = MetaData()
FILES = Table(
    "memory_files",
    METADATA,
    Column("id", Text, primary_key=True),
    Column("owner", Text, nullable=False),
    Column("name", Text, nullable=False),
    Column("purpose", Text, nullable=False),
    Column("bytes", BigInteger, nullable=False),
    Column("created", Double, nullable=False),
    Column("digest", Text, nullable=False),  # SHA-256 of the content, in hexadecimal
    Column("content", LargeBinary, nullable=False),
    Column("text", Text),  # what was indexed; None before the first indexing
)
STORES = Table(
    "memory_stores",
    METADATA,
    Column("id", Text, primary_key=True),
    Column("owner", Text, nullable=False),
    Column("name", Text, nullable=False),
    Column("metadata", JSON, nullable=False),
    Column("created", Double, nullable=False),
    Column("last_active", Double, nullable=False),
    Column("expires_days", Integer),
    Column("revision", BigInteger, nullable=False),
    Column("deletion_revision", BigInteger, nullable=False, server_default="0"),  # of the last deletion of chunks
)
STORE_FILES = Table(
    "memory_store_files",
    METADATA,
    Column("store_id", Text, primary_key=True),
    Column("file_id", Text, primary_key=True),
    Column("created", Double, nullable=False),
    Column("status", Text, nullable=False),
    Column("error", Text, nullable=False),
    Column("attributes", JSON, nullable=False),
    Column("max_tokens", Integer, nullable=False),
    Column("overlap_tokens", Integer, nullable=False),
    Column("usage_bytes", BigInteger, nullable=False),
    Column("batch_id", Text, nullable=False),
)
CHUNKS = Table(
    "memory_chunks",
    METADATA,
    Column("id", Integer().with_variant(BigInteger, "postgresql"), primary_key=True, autoincrement=True),
    Column("store_id", Text, nullable=False),
    Column("file_id", Text, nullable=False),
    Column("start", Integer, nullable=False),
    Column("end", Integer, nullable=False),
    Column("titles", JSON, nullable=False),
    Column("text", Text, nullable=False),
    Column("vector", LargeBinary, nullable=False),  # int8, one byte per dimension
    Column("postings", LargeBinary, nullable=False, server_default=""),  # see `encode_postings`
)
Index("memory_files_by_owner", FILES.c.owner, FILES.c.created)
Index("memory_stores_by_owner", STORES.c.owner, STORES.c.created)
Index("memory_store_files_by_file", STORE_FILES.c.file_id)
Index("memory_chunks_by_file", CHUNKS.c.store_id, CHUNKS.c.file_id)


class StoredFile(NamedTuple):
    """A file without its content; `created` is Unix seconds."""

    id: str
    name: str
    purpose: str
    bytes: int
    created: float
    digest: str


class VectorStore(NamedTuple):
    """A vector store; times are Unix seconds, `file_counts` counts its files by status."""

    id: str
    name: str
    metadata: dict[str, Any]
    created: float
    last_active: float
    expires_days: int | None
    revision: int
    deletion_revision: int = 0
    usage_bytes: int = 0
    file_counts: Mapping[str, int] = MappingProxyType({})

    @property
    def expires(self) -> float | None:
        """Return when the store expires, or None."""
        return None if self.expires_days is None else self.last_active + self.expires_days * 86_400


class StoreFile(NamedTuple):
    """A file of a vector store; `status` is in_progress, completed, failed or cancelled."""

    store_id: str
    file_id: str
    created: float
    status: str
    error: str
    attributes: dict[str, Any]
    max_tokens: int
    overlap_tokens: int
    usage_bytes: int
    batch_id: str = ""
    name: str = ""


class ChunkHit(NamedTuple):
    """A chunk that was found, with a score from 0 to 1."""

    id: int
    file_id: str
    name: str
    attributes: dict[str, Any]
    start: int
    end: int
    titles: tuple[str, ...]
    text: str
    score: float = 0.0
