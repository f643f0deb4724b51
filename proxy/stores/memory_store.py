"""Memory: files, vector stores and their searchable chunks, in SQLite or PostgreSQL through one description.

Everything belongs to an owner (the hash of an API key, or `""` without keys); another owner's things do not exist.
Deletion is real: content, text, chunks, vectors and index entries go in one transaction.
"""

import hashlib
import secrets
import time
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any

from sqlalchemy import Select, delete, func, insert, select, update

from ...compression.memory.indexing import IndexedChunk
from . import memory_upgrade
from .async_engine import AsyncConnection, AsyncEngine
from .ledger import select_dialect
from .ledger_dialect import Dialect
from .memory_chunks import ChunkReader, NewDocument, count_bytes
from .memory_schema import (
    CHUNKS,
    FILES,
    METADATA,
    STORE_FILES,
    STORES,
    StoredFile,
    StoreFile,
    VectorStore,
)

SECONDS_PER_DAY = 86_400
DEFAULT_MAX_TOKENS = 200
_STORE_FIELDS = 8  # of a VectorStore are columns
_FILE_COLUMNS = [FILES.c[name] for name in StoredFile._fields]
_STORE_COLUMNS = [STORES.c[name] for name in VectorStore._fields[:_STORE_FIELDS]]
_STORE_FILE_COLUMNS = [STORE_FILES.c[name] for name in StoreFile._fields[:-1]]


class MemoryNotFoundError(LookupError):
    """The owner has no such file or vector store; the message names it."""


class MemoryStore:
    """The database of memory. Every method raises `error_types` if the database cannot be used."""

    def __init__(self, engine: AsyncEngine, dialect: Dialect, clock: Callable[[], float] = time.time) -> None:
        self._engine, self._dialect, self._clock = engine, dialect, clock
        self.error_types = dialect.error_types
        self.chunks = ChunkReader(engine)

    async def start(self) -> None:
        """Create the tables if they do not exist."""
        async with self._engine.begin() as connection:
            await self._dialect.lock(connection)
            await connection.run_sync(METADATA.create_all)
            await memory_upgrade.upgrade_tables(connection)

    # files

    async def add_file(self, owner: str, name: str, content: bytes, purpose: str = "assistants") -> StoredFile:
        """Store a file."""
        file = self._describe_file(name, content, purpose)
        async with self._engine.begin() as connection:
            await connection.execute(insert(FILES).values(**file._asdict(), owner=owner, content=content))
        return file

    async def get_file(self, owner: str, file_id: str) -> StoredFile:
        """Return a file without its content. Raises MemoryNotFoundError."""
        async with self._engine.connect() as connection:
            return await _find_file(connection, owner, file_id)

    async def list_files(self, owner: str, purpose: str | None = None) -> list[StoredFile]:
        """Return the owner's files, the newest first."""
        query = select(*_FILE_COLUMNS).where(FILES.c.owner == owner)
        query = query if purpose is None else query.where(FILES.c.purpose == purpose)
        async with self._engine.connect() as connection:
            rows = await connection.execute(query.order_by(FILES.c.created.desc(), FILES.c.id))
            return [StoredFile(*row) for row in rows]

    async def read_content(self, owner: str, file_id: str) -> bytes:
        """Return the bytes of a file. Raises MemoryNotFoundError."""
        return bytes(await self._read_column(owner, file_id, FILES.c.content))

    async def read_text(self, owner: str, file_id: str) -> str | None:
        """Return the text that was indexed, or None before the first indexing. Raises MemoryNotFoundError."""
        value: str | None = await self._read_column(owner, file_id, FILES.c.text)
        return value

    async def delete_file(self, owner: str, file_id: str) -> None:
        """Delete a file, also from every store. Raises MemoryNotFoundError."""
        async with self._engine.begin() as connection:
            await _find_file(connection, owner, file_id)
            await self._delete_file(connection, file_id)

    # vector stores

    async def create_store(
        self, owner: str, name: str = "", metadata: Mapping[str, Any] | None = None, expires_days: int | None = None
    ) -> VectorStore:
        """Create a store. Names need not be unique."""
        now = self._clock()
        store = VectorStore(_make_id("vs_"), name, dict(metadata or {}), now, now, expires_days, 0)
        values = {field: getattr(store, field) for field in VectorStore._fields[:_STORE_FIELDS]}
        async with self._engine.begin() as connection:
            await connection.execute(insert(STORES).values(**values, owner=owner))
        return store

    async def get_store(self, owner: str, name_or_id: str) -> VectorStore:
        """Return a store by its id, or else the oldest with this name. Raises MemoryNotFoundError, also if expired."""
        async with self._engine.connect() as connection:
            return await self._find_store(connection, owner, name_or_id)

    async def list_stores(self, owner: str) -> list[VectorStore]:
        """Return the owner's stores, the newest first, without expired ones."""
        query = select(*_STORE_COLUMNS).where(STORES.c.owner == owner)
        async with self._engine.connect() as connection:
            rows = await connection.execute(query.order_by(STORES.c.created.desc(), STORES.c.id))
            stores = [store for row in rows if not self._is_expired(store := VectorStore(*row))]
            return [await _count_files(connection, store) for store in stores]

    async def update_store(self, owner: str, name_or_id: str, **changes: Any) -> VectorStore:
        """Change the name, metadata or expires_days of a store. Raises MemoryNotFoundError."""
        async with self._engine.begin() as connection:
            store = await self._find_store(connection, owner, name_or_id)
            await connection.execute(
                update(STORES).where(STORES.c.id == store.id).values(last_active=self._clock(), **changes)
            )
            return await self._find_store(connection, owner, store.id)

    async def delete_store(self, owner: str, name_or_id: str) -> str:
        """Delete a store with its chunks, and return its id; its files stay. Raises MemoryNotFoundError."""
        async with self._engine.begin() as connection:
            store = await self._find_store(connection, owner, name_or_id)
            await self._delete_store(connection, store.id)
            return store.id

    async def delete_expired(self) -> int:
        """Delete the expired stores of all owners and return their number."""
        async with self._engine.begin() as connection:
            rows = (await connection.execute(select(*_STORE_COLUMNS))).all()
            expired = [store for row in rows if self._is_expired(store := VectorStore(*row))]
            for store in expired:
                await self._delete_store(connection, store.id)
            return len(expired)

    # the files of a store

    async def attach_file(
        self,
        owner: str,
        store_id: str,
        file_id: str,
        attributes: Mapping[str, Any] | None = None,
        chunking: tuple[int, int] = (DEFAULT_MAX_TOKENS, 0),
        batch_id: str = "",
    ) -> StoreFile:
        """Add a file to a store, to be indexed; again, if it is in it. Raises MemoryNotFoundError.

        Args:
            owner: the owner of both
            store_id: the id or the name of the store
            file_id: the id of the file
            attributes: values that a search can filter by
            chunking: the largest size of a chunk and its overlap with the one before it, in tokens
            batch_id: the batch of the file, as from `make_batch_id`
        """
        async with self._engine.begin() as connection:
            store = await self._find_store(connection, owner, store_id)
            file = await _find_file(connection, owner, file_id)
            await self._remove_file(connection, store.id, file_id)
            values = (dict(attributes or {}), *chunking, 0, batch_id, file.name)
            entry = StoreFile(store.id, file_id, self._clock(), "in_progress", "", *values)
            columns = {field: getattr(entry, field) for field in StoreFile._fields[:-1]}
            await connection.execute(insert(STORE_FILES).values(columns))
            return entry

    async def get_store_file(self, owner: str, store_id: str, file_id: str) -> StoreFile:
        """Return a file of a store. Raises MemoryNotFoundError."""
        async with self._engine.connect() as connection:
            store = await self._find_store(connection, owner, store_id)
            rows = await connection.execute(_select_store_files(store.id).where(STORE_FILES.c.file_id == file_id))
            if (row := rows.first()) is None:
                raise MemoryNotFoundError(f"the vector store {store_id} has no file {file_id}")
            return StoreFile(*row)

    async def list_store_files(self, owner: str, store_id: str, status: str | None = None) -> list[StoreFile]:
        """Return the files of a store, the newest first. Raises MemoryNotFoundError."""
        async with self._engine.connect() as connection:
            store = await self._find_store(connection, owner, store_id)
            query = _select_store_files(store.id)
            query = query if status is None else query.where(STORE_FILES.c.status == status)
            rows = await connection.execute(query.order_by(STORE_FILES.c.created.desc(), STORE_FILES.c.file_id))
            return [StoreFile(*row) for row in rows]

    @staticmethod
    def make_batch_id() -> str:
        """Return a new id of a batch."""
        return _make_id("vsfb_")

    async def list_batch(self, owner: str, store_id: str, batch_id: str) -> list[StoreFile]:
        """Return the files of a batch. Raises MemoryNotFoundError for an empty batch."""
        entries = await self.list_store_files(owner, store_id)
        batch = [entry for entry in entries if batch_id and entry.batch_id == batch_id]
        if not batch:
            raise MemoryNotFoundError(f"the vector store {store_id} has no batch {batch_id}")
        return batch

    async def cancel_batch(self, owner: str, store_id: str, batch_id: str) -> None:
        """Cancel the files of a batch that are not indexed yet. Raises MemoryNotFoundError."""
        for entry in await self.list_batch(owner, store_id, batch_id):
            async with self._engine.begin() as connection:
                waiting = _update_store_file(entry).where(STORE_FILES.c.status == "in_progress")
                await connection.execute(waiting.values(status="cancelled"))

    async def list_unfinished(self) -> list[tuple[str, str, str]]:
        """Return owner, store and file of every file that is not indexed yet, the oldest first."""
        query = select(STORES.c.owner, STORE_FILES.c.store_id, STORE_FILES.c.file_id)
        query = query.join(STORES, STORES.c.id == STORE_FILES.c.store_id).where(STORE_FILES.c.status == "in_progress")
        async with self._engine.connect() as connection:
            return [(row[0], row[1], row[2]) for row in await connection.execute(query.order_by(STORE_FILES.c.created))]

    async def has_content(self, store_id: str, digest: str) -> bool:
        """Return True if a file with this SHA-256 digest is in a store of any owner."""
        query = select(FILES.c.id).join(STORE_FILES, STORE_FILES.c.file_id == FILES.c.id)
        async with self._engine.connect() as connection:
            rows = await connection.execute(query.where(STORE_FILES.c.store_id == store_id, FILES.c.digest == digest))
            return rows.first() is not None

    async def set_attributes(self, owner: str, store_id: str, file_id: str, attributes: Mapping[str, Any]) -> StoreFile:
        """Replace the attributes of a file in a store. Raises MemoryNotFoundError."""
        entry = await self.get_store_file(owner, store_id, file_id)
        async with self._engine.begin() as connection:
            await connection.execute(_update_store_file(entry).values(attributes=dict(attributes)))
        return entry._replace(attributes=dict(attributes))

    async def finish_file(self, entry: StoreFile, document: str, chunks: Sequence[IndexedChunk]) -> bool:
        """Make a file searchable: all of its chunks at once. Returns False if it was removed or cancelled."""
        async with self._engine.begin() as connection:
            await self._dialect.lock(connection)
            waiting = _update_store_file(entry).where(STORE_FILES.c.status == "in_progress")
            done = await connection.execute(waiting.values(status="completed", usage_bytes=count_bytes(chunks)))
            if not done.rowcount:
                return False
            await self._remove_chunks(connection, entry.store_id, entry.file_id)
            await connection.execute(update(FILES).where(FILES.c.id == entry.file_id).values(text=document))
            await self.chunks.insert_chunks(connection, entry, chunks)
        return True

    async def add_document(
        self, owner: str, store_id: str, document: NewDocument, replaced: Sequence[StoreFile] = ()
    ) -> StoreFile:
        """Add a file to a store with its chunks, and delete the replaced files, in one transaction.

        Raises:
            MemoryNotFoundError: the owner has no such store.
        """
        async with self._engine.begin() as connection:
            await self._dialect.lock(connection)
            store = await self._find_store(connection, owner, store_id)
            for entry in replaced:
                await self._delete_file(connection, entry.file_id)
            file = self._describe_file(document.name, document.content, "assistants")
            values = {**file._asdict(), "owner": owner, "content": document.content, "text": document.text}
            await connection.execute(insert(FILES).values(values))
            sizes = (DEFAULT_MAX_TOKENS, 0, count_bytes(document.chunks))
            attributes = dict(document.attributes)
            entry = StoreFile(store.id, file.id, file.created, "completed", "", attributes, *sizes, "", file.name)
            columns = {field: getattr(entry, field) for field in StoreFile._fields[:-1]}
            await connection.execute(insert(STORE_FILES).values(columns))
            await self.chunks.insert_chunks(connection, entry, document.chunks)
            changed = update(STORES).where(STORES.c.id == store.id)
            await connection.execute(changed.values(revision=STORES.c.revision + 1, last_active=self._clock()))
            return entry

    async def fail_file(self, entry: StoreFile, error: str) -> None:
        """Record that a file cannot be indexed."""
        async with self._engine.begin() as connection:
            await connection.execute(_update_store_file(entry).values(status="failed", error=error))

    async def detach_file(self, owner: str, store_id: str, file_id: str) -> None:
        """Remove a file from a store; the file itself stays. Raises MemoryNotFoundError."""
        entry = await self.get_store_file(owner, store_id, file_id)
        async with self._engine.begin() as connection:
            await self._remove_file(connection, entry.store_id, file_id)

    async def list_entries(self, store_id: str) -> list[StoreFile]:
        """Return the files of a store of any owner."""
        async with self._engine.connect() as connection:
            return [StoreFile(*row) for row in await connection.execute(_select_store_files(store_id))]

    async def touch(self, store_id: str) -> None:
        """Record a use of a store and so postpone its expiry."""
        async with self._engine.begin() as connection:
            await connection.execute(update(STORES).where(STORES.c.id == store_id).values(last_active=self._clock()))

    # helpers

    def _describe_file(self, name: str, content: bytes, purpose: str) -> StoredFile:
        digest = hashlib.sha256(content).hexdigest()
        return StoredFile(_make_id("file-"), name, purpose, len(content), self._clock(), digest)

    async def _read_column(self, owner: str, file_id: str, column: Any) -> Any:
        async with self._engine.connect() as connection:
            rows = await connection.execute(select(column).where(FILES.c.owner == owner, FILES.c.id == file_id))
            if (row := rows.first()) is None:
                raise MemoryNotFoundError(f"there is no file {file_id}")
            return row[0]

    async def _find_store(self, connection: AsyncConnection, owner: str, name_or_id: str) -> VectorStore:
        query = select(*_STORE_COLUMNS).where(STORES.c.owner == owner)
        query = query.where((STORES.c.id == name_or_id) | (STORES.c.name == name_or_id))
        rows = await connection.execute(query.order_by((STORES.c.id != name_or_id), STORES.c.created))
        store = next((store for row in rows if not self._is_expired(store := VectorStore(*row))), None)
        if store is None:
            raise MemoryNotFoundError(f"there is no vector store {name_or_id}")
        return await _count_files(connection, store)

    def _is_expired(self, store: VectorStore) -> bool:
        return store.expires is not None and store.expires <= self._clock()

    async def _remove_chunks(self, connection: AsyncConnection, store_id: str, file_id: str) -> None:
        chunks = delete(CHUNKS).where(CHUNKS.c.store_id == store_id, CHUNKS.c.file_id == file_id)
        deleted = await connection.execute(chunks)
        changes: dict[str, Any] = {"revision": STORES.c.revision + 1, "last_active": self._clock()}
        if deleted.rowcount:
            changes["deletion_revision"] = changes["revision"]
        await connection.execute(update(STORES).where(STORES.c.id == store_id).values(changes))

    async def _remove_file(self, connection: AsyncConnection, store_id: str, file_id: str) -> None:
        await self._remove_chunks(connection, store_id, file_id)
        is_entry = (STORE_FILES.c.store_id == store_id) & (STORE_FILES.c.file_id == file_id)
        await connection.execute(delete(STORE_FILES).where(is_entry))

    async def _delete_file(self, connection: AsyncConnection, file_id: str) -> None:
        stores = await connection.execute(select(STORE_FILES.c.store_id).where(STORE_FILES.c.file_id == file_id))
        for (store_id,) in stores.all():
            await self._remove_file(connection, store_id, file_id)
        await connection.execute(delete(FILES).where(FILES.c.id == file_id))

    async def _delete_store(self, connection: AsyncConnection, store_id: str) -> None:
        files = await connection.execute(select(STORE_FILES.c.file_id).where(STORE_FILES.c.store_id == store_id))
        for (file_id,) in files.all():
            await self._remove_file(connection, store_id, file_id)
        await connection.execute(delete(STORES).where(STORES.c.id == store_id))


@asynccontextmanager
async def open_memory(url: str, clock: Callable[[], float] = time.time) -> AsyncGenerator[MemoryStore]:
    """Open the memory in the database at this URL, and close it after the block.

    Raises:
        ValueError: the database is not supported, or its driver is not installed.
    """
    dialect = select_dialect(url)
    engine = await dialect.open()
    try:
        store = MemoryStore(engine, dialect, clock)
        await store.start()
        yield store
    finally:
        await engine.dispose()


def _make_id(prefix: str) -> str:
    return prefix + secrets.token_hex(12)


async def _find_file(connection: AsyncConnection, owner: str, file_id: str) -> StoredFile:
    rows = await connection.execute(select(*_FILE_COLUMNS).where(FILES.c.owner == owner, FILES.c.id == file_id))
    if (row := rows.first()) is None:
        raise MemoryNotFoundError(f"there is no file {file_id}")
    return StoredFile(*row)


async def _count_files(connection: AsyncConnection, store: VectorStore) -> VectorStore:
    query = select(STORE_FILES.c.status, func.count(), func.sum(STORE_FILES.c.usage_bytes))
    rows = (
        await connection.execute(query.where(STORE_FILES.c.store_id == store.id).group_by(STORE_FILES.c.status))
    ).all()
    counts = {row[0]: int(row[1]) for row in rows}
    return store._replace(file_counts=counts, usage_bytes=sum(int(row[2] or 0) for row in rows))


def _select_store_files(store_id: str) -> Select[Any]:
    query = select(*_STORE_FILE_COLUMNS, FILES.c.name).join(FILES, FILES.c.id == STORE_FILES.c.file_id)
    return query.where(STORE_FILES.c.store_id == store_id)


def _update_store_file(entry: StoreFile) -> Any:
    is_entry = (STORE_FILES.c.store_id == entry.store_id) & (STORE_FILES.c.file_id == entry.file_id)
    return update(STORE_FILES).where(is_entry)
