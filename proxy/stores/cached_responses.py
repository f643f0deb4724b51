"""Stored answers of the response cache in an SQLite file: each belongs to an owner and expires.

Unlike an original, an answer may be deleted at any time: a full store deletes the oldest ones, and storing an answer
again replaces it. One thread reads and writes.
"""

import asyncio
import sqlite3
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple, Protocol, TypeVar

from . import sqlite_file
from .encryption import Encryption
from .originals_store import TIMEOUT_SECONDS, OriginalsError, map_store_errors

DELETED_SHARE = 8  # a full store deletes one in so many answers
_ERROR_TYPES = (sqlite3.Error, OSError, RuntimeError, ValueError, OverflowError, TypeError)
_SCHEMA = """
PRAGMA synchronous = NORMAL;
PRAGMA secure_delete = ON;
CREATE TABLE IF NOT EXISTS responses (
    owner TEXT NOT NULL, name TEXT NOT NULL, bucket TEXT NOT NULL, stored REAL NOT NULL, expires REAL NOT NULL,
    question BLOB, body BLOB NOT NULL, PRIMARY KEY (owner, name)
);
CREATE INDEX IF NOT EXISTS responses_by_bucket ON responses (owner, bucket, stored) WHERE bucket != '';
CREATE INDEX IF NOT EXISTS responses_by_age ON responses (stored);
CREATE INDEX IF NOT EXISTS responses_by_expiry ON responses (expires);
"""
_SIZE = (
    "SELECT (page_count - freelist_count) * page_size FROM pragma_page_count, pragma_freelist_count, pragma_page_size"
)
Result = TypeVar("Result")


class CachedResponse(NamedTuple):
    """An answer to store, kept until `expires` (Unix seconds). Without a bucket, no other question finds it."""

    owner: str
    name: str
    bucket: str
    question: str
    expires: float
    body: bytes


class ResponseStorage(Protocol):
    """A store of answers. Methods raise OriginalsError on failure."""

    async def start(self) -> None:
        """Open or create the store."""
        ...

    async def stop(self) -> None:
        """Close the store."""
        ...

    async def read(self, owner: str, name: str, max_age: float) -> bytes | None:
        """Return the owner's answer of at most this age in seconds, or None."""
        ...

    async def list_questions(self, owner: str, bucket: str, max_age: float, limit: int) -> dict[str, str]:
        """Return the owner's newest questions in a bucket, by the names of their answers."""
        ...

    async def insert(self, response: CachedResponse) -> None:
        """Store or replace an answer. One that is too large for the store is ignored."""
        ...

    async def delete_expired(self) -> None:
        """Delete expired answers."""
        ...


class ResponseStore:
    """The answers in the file at `path`, of about `capacity` bytes. Methods raise OriginalsError on failure.

    Args:
        path: path of the SQLite file.
        capacity: the size limit in bytes.
        encryption_keys: 32 bytes in base64 each; the first encrypts, and any of them decrypts.
        clock: returns the Unix time in seconds.
    """

    def __init__(
        self,
        path: Path,
        capacity: int,
        encryption_keys: Sequence[str] = (),
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._path, self._capacity, self._clock = path, capacity, clock
        self._encryption = Encryption(encryption_keys)
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="responses")
        self._connection: sqlite3.Connection | None = None
        self._file: sqlite_file.OpenedFile | None = None

    async def start(self) -> None:
        """Open or create the file."""
        await self._run_in_thread(self._open)

    async def stop(self) -> None:
        """Close the file."""
        await self._run_in_thread(self._close)
        self._thread.shutdown()

    async def read(self, owner: str, name: str, max_age: float) -> bytes | None:
        """Return the owner's answer of at most this age in seconds, or None."""
        return await self._run_in_thread(lambda: self._read(owner, name, max_age))

    async def list_questions(self, owner: str, bucket: str, max_age: float, limit: int) -> dict[str, str]:
        """Return the owner's newest questions in a bucket, by the names of their answers."""
        return await self._run_in_thread(lambda: self._list_questions(owner, bucket, max_age, limit))

    async def insert(self, response: CachedResponse) -> None:
        """Store or replace an answer. One that is too large for the store is ignored."""
        await self._run_in_thread(lambda: self._insert(response))

    async def delete_expired(self) -> None:
        """Delete expired answers."""
        await self._run_in_thread(self._delete_expired)

    async def _run_in_thread(self, work: Callable[[], Result]) -> Result:
        with map_store_errors(*_ERROR_TYPES):
            return await asyncio.get_running_loop().run_in_executor(self._thread, work)

    def _open(self) -> None:
        sqlite_file.create_file(self._path)
        self._file = sqlite_file.OpenedFile(self._path)
        self._connection = sqlite3.connect(self._path, isolation_level=None, timeout=TIMEOUT_SECONDS)
        self._connection.executescript(_SCHEMA)

    def _close(self) -> None:
        if self._connection is not None:
            self._connection.close()
        self._connection = None

    def _get_connection(self) -> sqlite3.Connection:
        if self._connection is None or self._file is None:
            raise OriginalsError("the response cache is not open")
        self._file.check()
        return self._connection

    def _read(self, owner: str, name: str, max_age: float) -> bytes | None:
        now = self._clock()
        statement = "SELECT body FROM responses WHERE owner = ? AND name = ? AND expires > ? AND stored >= ?"
        row = self._get_connection().execute(statement, (owner, name, now, now - max_age)).fetchone()
        return None if row is None else self._encryption.unpack(owner, name, row[0])

    def _list_questions(self, owner: str, bucket: str, max_age: float, limit: int) -> dict[str, str]:
        now = self._clock()
        statement = (
            "SELECT name, question FROM responses WHERE owner = ? AND bucket = ? AND bucket != '' AND expires > ?"
            " AND stored >= ? ORDER BY stored DESC LIMIT ?"
        )
        rows = self._get_connection().execute(statement, (owner, bucket, now, now - max_age, limit)).fetchall()
        return {name: self._encryption.unpack(owner, name, question).decode() for name, question in rows}

    def _insert(self, response: CachedResponse) -> None:
        owner, name = response.owner, response.name
        question = self._encryption.pack(owner, name, response.question.encode()) if response.bucket else None
        body = self._encryption.pack(owner, name, response.body)
        if len(body) > self._capacity // DELETED_SHARE:
            return
        self._make_space(len(body))
        values = (owner, name, response.bucket, self._clock(), response.expires, question, body)
        self._get_connection().execute("REPLACE INTO responses VALUES (?, ?, ?, ?, ?, ?, ?)", values)

    def _make_space(self, size: int) -> None:
        connection = self._get_connection()
        if self._read_size() + size <= self._capacity:
            return
        self._delete_expired()
        while self._read_size() + size > self._capacity:
            (count,) = connection.execute("SELECT count(*) FROM responses").fetchone()
            if not count:
                return
            connection.execute(
                "DELETE FROM responses WHERE rowid IN (SELECT rowid FROM responses ORDER BY stored LIMIT ?)",
                (count // DELETED_SHARE + 1,),
            )

    def _read_size(self) -> int:
        return int(self._get_connection().execute(_SIZE).fetchone()[0])

    def _delete_expired(self) -> None:
        connection = self._get_connection()
        if connection.execute("DELETE FROM responses WHERE expires <= ?", (self._clock(),)).rowcount:
            sqlite_file.release_free_pages(connection)
